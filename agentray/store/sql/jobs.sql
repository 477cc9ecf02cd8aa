-- name: admit_job
-- Accept a job unless its id is known or too many are under way.
SELECT created, known_digest, running
FROM admit_job($1, $2, $3, $4, $5, $6::jsonb, $7::json, $8::json, $9::json, $10, $11);

-- name: find_jobs
-- Keep jobs that Ray was given by somebody else.
INSERT INTO jobs (id, owner, tenant, source, status, created_at, ended_at, digest, submitted,
                  metadata, record, report, token_digests)
SELECT id, '', '', 'ray', status, created_at, ended_at, '', true, metadata::jsonb, record, '{}', '{}'
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::json[])
    AS new (id, status, created_at, ended_at, metadata, record)
ON CONFLICT DO NOTHING;

-- name: unknown_jobs
-- Return those of some ids that no job has.
SELECT wanted.id FROM unnest($1::text[]) AS wanted (id)
WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = wanted.id);

-- name: get_job
-- Return a job.
SELECT record, report, owner, submitted, stop_at, log_size, log_whole, log_lost
FROM jobs WHERE id = $1;

-- name: list_jobs
-- Return jobs, newest first.
SELECT record, report, stop_at IS NOT NULL AS stopping FROM jobs
WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR source = $2)
  AND ($3 = '' OR tenant = $3) AND metadata @> $4::jsonb
  AND ($5::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = $5))
ORDER BY created_at DESC, id DESC LIMIT $6;

-- name: open_jobs
-- Return the jobs that have not ended, or whose logs have not been read to their ends.
SELECT record, report, owner, submitted, stop_at, log_size, log_whole, log_lost
FROM jobs WHERE ended_at IS NULL OR NOT (log_whole OR log_lost) ORDER BY id;

-- name: update_job
-- Keep what is new of a job that has not ended; tell whether. Its secrets go with its end.
WITH written AS (
    UPDATE jobs SET status = $2, ended_at = $3, record = $4::json,
                    secrets = CASE WHEN $3::timestamptz IS NULL THEN secrets END,
                    spec = CASE WHEN $3::timestamptz IS NULL THEN spec END
    WHERE id = $1 AND ended_at IS NULL RETURNING 1
)
SELECT count(*) > 0 FROM written;

-- name: job_spec
-- Return what Ray is to be given.
SELECT spec FROM jobs WHERE id = $1;

-- name: job_submitted
-- Note that Ray has a job, and forget what it was given.
UPDATE jobs SET submitted = true, spec = NULL WHERE id = $1 AND NOT submitted;

-- name: add_job_token
-- Let a further token be a job's.
UPDATE jobs SET token_digests = token_digests || $2::text WHERE id = $1;

-- name: stop_job
-- Note that a job shall end; tell whether it has not yet.
WITH written AS (
    UPDATE jobs SET stop_at = coalesce(stop_at, $2) WHERE id = $1 AND ended_at IS NULL RETURNING 1
)
SELECT count(*) > 0 FROM written;

-- name: delete_job
-- Forget a job that has ended; tell whether.
WITH deleted AS (DELETE FROM jobs WHERE id = $1 AND ended_at IS NOT NULL RETURNING 1)
SELECT count(*) > 0 FROM deleted;

-- name: report_job
-- Keep what a job tells of itself; tell whether the token is its own.
WITH written AS (
    UPDATE jobs SET report = ((report::jsonb || $3::jsonb) || jsonb_build_object(
        'metrics', coalesce(report::jsonb -> 'metrics', '{}') || $4::jsonb))::json
    WHERE id = $1 AND $2 = ANY(token_digests) RETURNING 1
)
SELECT count(*) > 0 FROM written;

-- name: take_job_secrets
-- Forget a job's secrets and return what they were.
WITH found AS (
    SELECT id, secrets FROM jobs
    WHERE id = $1 AND $2 = ANY(token_digests) AND secrets IS NOT NULL FOR UPDATE
)
UPDATE jobs SET secrets = NULL FROM found WHERE jobs.id = found.id RETURNING found.secrets;

-- name: append_job_log
-- Keep bytes of a log.
INSERT INTO job_logs (job_id, first, data)
SELECT id, $2, $3 FROM jobs WHERE id = $1
ON CONFLICT DO NOTHING;

-- name: job_log_read
-- Note how far a log was read for keeping.
UPDATE jobs SET log_size = $2, log_whole = $3, log_lost = $4 WHERE id = $1;

-- name: read_job_log
-- Return the part of a log that has an offset, or the next one.
SELECT first, data FROM job_logs
WHERE job_id = $1 AND first >= coalesce((
    SELECT max(first) FROM job_logs WHERE job_id = $1 AND first <= $2), $2)
ORDER BY first LIMIT 2;

-- name: prune_jobs
-- Forget jobs that ended long ago, or that are too many; tell how many.
WITH old AS (
    (SELECT id FROM jobs WHERE ended_at < $1 ORDER BY ended_at LIMIT $3)
    UNION
    (SELECT id FROM jobs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC OFFSET $2 LIMIT $3)
), deleted AS (
    DELETE FROM jobs WHERE id IN (SELECT id FROM old LIMIT $3) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: job_policy
-- Return what of the policy was changed.
SELECT policy FROM job_policy;

-- name: change_job_policy
-- Change fields of the policy, and return all that were ever changed.
INSERT INTO job_policy (policy) VALUES ($1::jsonb)
ON CONFLICT (only_one) DO UPDATE SET policy = job_policy.policy || excluded.policy
RETURNING policy;
