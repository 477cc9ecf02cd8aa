-- Webhooks: whom to tell of the end of a run, derived from that, and the secrets that sign them.

CREATE TABLE webhooks (
    id text PRIMARY KEY,
    run_id text NOT NULL UNIQUE,
    owner text NOT NULL,
    url text NOT NULL,
    events text[],  -- NULL: each end
    secret text NOT NULL,  -- the name of one
    state text NOT NULL,
    event text,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz,
    last_status integer,
    last_error text,
    created_at timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX webhooks_waiting ON webhooks (id) WHERE state = 'waiting';
CREATE INDEX webhooks_due ON webhooks (due_at, id) WHERE state = 'pending';
CREATE INDEX webhooks_done ON webhooks (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE webhook_secrets (
    tenant text NOT NULL,  -- '': of those who belong to none
    name text NOT NULL,
    secret text NOT NULL,
    previous text,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz,
    PRIMARY KEY (tenant, name)
);
