-- The apps a key may push to; every app if there are none.
ALTER TABLE keys ADD COLUMN apps uuid[] NOT NULL DEFAULT '{}';
