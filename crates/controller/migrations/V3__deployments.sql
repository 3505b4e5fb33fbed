-- Why a deployment that goes back does so, and the last log lines of the job that is the cause. Once set it never goes
-- forward again, whoever works it.
ALTER TABLE deployments ADD COLUMN going_back text;
ALTER TABLE deployments ADD COLUMN log text;
-- When a job was first heard of, and how often it had been started again by then: a deployment counts what came after.
ALTER TABLE jobs ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE jobs ADD COLUMN first_restarts int NOT NULL DEFAULT 0;
UPDATE jobs SET recorded_at = created_at, first_restarts = restarts;
