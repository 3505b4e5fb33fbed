-- A job that ends with its client: until then a controller has said that it relays between the two.
ALTER TABLE jobs ADD COLUMN attached_until timestamptz;
CREATE INDEX jobs_attached ON jobs (attached_until)
    WHERE attached_until IS NOT NULL AND state NOT IN ('down', 'crashed');
