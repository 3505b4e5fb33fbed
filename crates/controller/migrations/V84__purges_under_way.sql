-- When a provider was last asked to destroy or to make something, while it has not answered: until then it may still do it.
ALTER TABLE resources ADD COLUMN asked_at timestamptz;
ALTER TABLE provisionings ADD COLUMN asked_at timestamptz DEFAULT now();
