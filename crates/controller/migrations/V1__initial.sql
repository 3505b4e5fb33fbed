CREATE TABLE apps (
    app_id uuid PRIMARY KEY,
    name text NOT NULL,
    meta jsonb NOT NULL DEFAULT '{}',
    strategy text NOT NULL,
    deploy_timeout int NOT NULL,
    release_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
-- The name of a deleted app is free.
CREATE UNIQUE INDEX apps_name ON apps (name) WHERE deleted_at IS NULL;

-- Whose a service name is.
CREATE TABLE services (
    name text PRIMARY KEY,
    app_id uuid NOT NULL REFERENCES apps
);
CREATE INDEX services_app ON services (app_id);

CREATE TABLE artifacts (
    artifact_id uuid PRIMARY KEY,
    type text NOT NULL,
    uri text NOT NULL,
    meta jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT artifacts_type_uri UNIQUE (type, uri)
);

CREATE TABLE releases (
    release_id uuid PRIMARY KEY,
    app_id uuid REFERENCES apps,
    artifacts uuid[] NOT NULL DEFAULT '{}',
    env jsonb NOT NULL DEFAULT '{}',
    meta jsonb NOT NULL DEFAULT '{}',
    processes jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX releases_app ON releases (app_id, created_at);
ALTER TABLE apps ADD FOREIGN KEY (release_id) REFERENCES releases;

CREATE TABLE formations (
    app_id uuid NOT NULL REFERENCES apps,
    release_id uuid NOT NULL REFERENCES releases,
    processes jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    PRIMARY KEY (app_id, release_id)
);
CREATE INDEX formations_live ON formations (updated_at) WHERE deleted_at IS NULL;

-- A copy of what hosts know. No foreign keys: what runs is recorded even if nobody here knows it any more.
CREATE TABLE jobs (
    job_id uuid PRIMARY KEY,
    cluster_id text NOT NULL,
    host_id text,
    app_id uuid NOT NULL,
    release_id uuid NOT NULL,
    type text NOT NULL,
    state text NOT NULL,
    args text[] NOT NULL DEFAULT '{}',
    exit_status int,
    host_error text,
    run_at timestamptz,
    restarts int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX jobs_app ON jobs (app_id, created_at);
CREATE INDEX jobs_ended ON jobs (updated_at) WHERE state IN ('down', 'crashed');

CREATE TABLE deployments (
    deployment_id uuid PRIMARY KEY,
    app_id uuid NOT NULL REFERENCES apps,
    old_release uuid REFERENCES releases,
    new_release uuid NOT NULL REFERENCES releases,
    strategy text NOT NULL,
    status text NOT NULL DEFAULT 'pending',
    -- What the new release shall end with, and what a failure restores of the old one.
    processes jsonb NOT NULL DEFAULT '{}',
    original jsonb NOT NULL DEFAULT '{}',
    -- How many jobs of the new release were told to stop.
    stopped int NOT NULL DEFAULT 0,
    deploy_timeout int NOT NULL,
    head jsonb,
    error text,
    -- Who works it writes only while the number is theirs.
    lease bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    step_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX deployments_app ON deployments (app_id, created_at);
CREATE UNIQUE INDEX deployments_running ON deployments (app_id) WHERE status = 'running';
CREATE UNIQUE INDEX deployments_pending ON deployments (app_id) WHERE status = 'pending';

CREATE TABLE repositories (
    app_id uuid PRIMARY KEY REFERENCES apps,
    head text,
    packs text[] NOT NULL DEFAULT '{}',
    holder text,
    lease_until timestamptz
);

CREATE TABLE keys (
    fingerprint text PRIMARY KEY,
    key text NOT NULL,
    comment text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE providers (
    provider_id uuid PRIMARY KEY,
    name text NOT NULL,
    url text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT providers_name UNIQUE (name),
    CONSTRAINT providers_url UNIQUE (url)
);

CREATE TABLE resources (
    resource_id uuid PRIMARY KEY,
    provider_id uuid NOT NULL REFERENCES providers,
    external_id text NOT NULL,
    env jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT resources_external UNIQUE (provider_id, external_id)
);

CREATE TABLE app_resources (
    app_id uuid NOT NULL REFERENCES apps,
    resource_id uuid NOT NULL REFERENCES resources,
    PRIMARY KEY (app_id, resource_id)
);

-- Ids are given under a lock just before commit, so that they become visible in order.
CREATE SEQUENCE event_ids AS bigint;
CREATE TABLE events (
    event_id bigint PRIMARY KEY,
    app_id uuid,
    object_type text NOT NULL,
    object_id text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_app ON events (app_id, event_id);
CREATE INDEX events_type ON events (object_type, event_id);
