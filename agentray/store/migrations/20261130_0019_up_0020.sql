-- Jobs that Ray runs, their logs, and the policy that lets them in.

CREATE TABLE jobs (
    id             text PRIMARY KEY,
    owner          text NOT NULL,
    tenant         text NOT NULL,
    source         text NOT NULL,             -- agentray, ray
    status         text NOT NULL,
    created_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    digest         text NOT NULL,
    submitted      boolean NOT NULL,          -- Ray has been given it
    stop_at        timestamptz,               -- somebody asked for its end
    metadata       jsonb NOT NULL,
    record         json NOT NULL,             -- what everybody may see
    report         json NOT NULL,             -- what the job tells of itself
    spec           json,                      -- what Ray is given, until it has it
    secrets        json,                      -- until the job has fetched them
    token_digests  text[] NOT NULL,
    log_size       bigint NOT NULL DEFAULT 0, -- how far it was read for keeping
    log_whole      boolean NOT NULL DEFAULT false,
    log_lost       boolean NOT NULL DEFAULT false
);
CREATE INDEX jobs_created ON jobs (created_at, id);
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_running ON jobs (id) WHERE ended_at IS NULL;
CREATE INDEX jobs_open ON jobs (id) WHERE ended_at IS NULL OR NOT (log_whole OR log_lost);

CREATE TABLE job_logs (
    job_id text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    first  bigint NOT NULL,                   -- offset of its first byte
    data   bytea NOT NULL,
    PRIMARY KEY (job_id, first)
);

CREATE TABLE job_policy (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    policy   jsonb NOT NULL
);

-- Accept a job unless its id is known or too many are under way. One at a time: the lock is held
-- until the job that was let in is committed, so that the next one counts it.
CREATE FUNCTION admit_job(
    job_id text, job_owner text, job_tenant text, job_created timestamptz, job_digest text,
    job_metadata jsonb, job_record json, job_spec json, job_secrets json, job_token text,
    max_running bigint, OUT created boolean, OUT known_digest text, OUT running bigint
) LANGUAGE plpgsql AS $$
BEGIN
    created := false;
    running := 0;
    SELECT digest INTO known_digest FROM jobs WHERE id = job_id;
    IF FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('agentray.jobs', 0));
    IF max_running > 0 THEN
        SELECT count(*) INTO running FROM jobs WHERE ended_at IS NULL;
        IF running >= max_running THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO jobs (id, owner, tenant, source, status, created_at, digest, submitted, metadata,
                      record, report, spec, secrets, token_digests)
    VALUES (job_id, job_owner, job_tenant, 'agentray', 'PENDING', job_created, job_digest, false,
            job_metadata, job_record, '{}', job_spec, job_secrets, ARRAY[job_token])
    ON CONFLICT DO NOTHING;
    created := FOUND;
    IF NOT created THEN
        SELECT digest INTO known_digest FROM jobs WHERE id = job_id;
    END IF;
END
$$;

SELECT fence_managers_at(t) FROM unnest(ARRAY['jobs', 'job_logs']) AS t;
