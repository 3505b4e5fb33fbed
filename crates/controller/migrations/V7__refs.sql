-- Branches and tags that are kept and not deployed: full name -> object id.
ALTER TABLE repositories ADD COLUMN refs jsonb NOT NULL DEFAULT '{}';
