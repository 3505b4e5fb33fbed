-- By type, the tags of the hosts that its processes may run on.
ALTER TABLE formations ADD COLUMN tags jsonb NOT NULL DEFAULT '{}';

-- Volumes are named by the id of their app. Those of apps that had some before are named by its name: their data is there.
ALTER TABLE apps ADD COLUMN volumes_by_name boolean NOT NULL DEFAULT false;
UPDATE apps SET volumes_by_name = true WHERE EXISTS (
    SELECT 1 FROM releases r, jsonb_each(r.processes) AS process (type, it)
    WHERE (r.app_id = apps.app_id OR r.release_id = apps.release_id OR EXISTS (
              SELECT 1 FROM formations f
              WHERE f.app_id = apps.app_id AND f.release_id = r.release_id))
      AND jsonb_typeof(it -> 'volumes') = 'array' AND jsonb_array_length(it -> 'volumes') > 0
);

-- The highest term of a scheduler that told of jobs: the word of an older one is refused.
CREATE TABLE scheduler_terms (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    epoch bigint NOT NULL,
    revision bigint NOT NULL,
    told_at timestamptz NOT NULL DEFAULT now()
);
