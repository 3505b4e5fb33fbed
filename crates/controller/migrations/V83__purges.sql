-- How often a provider was asked to destroy something and has not: it is asked less and less often.
ALTER TABLE resources ADD COLUMN purge_failures int NOT NULL DEFAULT 0;
ALTER TABLE provisionings ADD COLUMN purge_failures int NOT NULL DEFAULT 0;

-- The provider's id of what it made for an answer that was lost, once it is to be destroyed: nobody may record it then.
ALTER TABLE provisionings ADD COLUMN external_id text;
