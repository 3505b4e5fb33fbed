-- An app that shall be deleted: any controller goes on with it until it is.
ALTER TABLE apps ADD COLUMN deleting_since timestamptz;
CREATE INDEX apps_deleting ON apps (deleting_since) WHERE deleting_since IS NOT NULL AND deleted_at IS NULL;

-- A release that was deleted is listed no more.
ALTER TABLE releases ADD COLUMN deleted_at timestamptz;

-- Lists are read page by page, the newest first.
CREATE INDEX apps_created ON apps (created_at DESC, app_id DESC) WHERE deleted_at IS NULL;
CREATE INDEX releases_created ON releases (created_at DESC, release_id DESC);
CREATE INDEX artifacts_created ON artifacts (created_at DESC, artifact_id DESC);
CREATE INDEX jobs_live ON jobs (created_at DESC, job_id DESC) WHERE state NOT IN ('down', 'crashed');
CREATE INDEX events_object ON events (object_id, event_id);

-- Where logs shall go besides.
CREATE TABLE sinks (
    sink_id uuid PRIMARY KEY,
    kind text NOT NULL,
    config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
