-- A resource goes in two steps: removed, and after a grace in which it can be restored, purged at its provider.
ALTER TABLE resources ADD COLUMN deleted_at timestamptz;
ALTER TABLE resources ADD COLUMN purge_at timestamptz;
-- From here on it cannot be restored: its provider may have begun to destroy it.
ALTER TABLE resources ADD COLUMN purging boolean NOT NULL DEFAULT false;
CREATE INDEX resources_deleted ON resources (purge_at) WHERE deleted_at IS NOT NULL;

-- What a provider was asked for and did not answer yet, so that what it made for an answer that was lost is removed.
CREATE TABLE provisionings (
    resource_id uuid PRIMARY KEY,
    provider_id uuid NOT NULL REFERENCES providers,
    config jsonb NOT NULL DEFAULT '{}',
    retry_at timestamptz NOT NULL DEFAULT now() + interval '5 minutes'
);

-- What the controller says to a provider of somebody else. Never listed.
ALTER TABLE providers ADD COLUMN key text;

-- What is kept is decided by when something was last wanted.
ALTER TABLE artifacts ADD COLUMN used_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX events_created ON events (created_at);
CREATE INDEX deployments_new ON deployments (new_release);
CREATE INDEX deployments_old ON deployments (old_release);
CREATE INDEX releases_artifacts ON releases USING gin (artifacts);
