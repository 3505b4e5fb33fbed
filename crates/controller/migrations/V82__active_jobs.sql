-- The jobs of an app that have not ended, page by page: few among all that did within a day.
CREATE INDEX jobs_active ON jobs (app_id, created_at, job_id) WHERE state NOT IN ('down', 'crashed');
