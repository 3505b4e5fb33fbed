-- Builds that run or wait for their turn, in the order in which they came.
CREATE TABLE builds (
    id      text PRIMARY KEY,
    place   bigint GENERATED ALWAYS AS IDENTITY,
    app_id  uuid NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);
