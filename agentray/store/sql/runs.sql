-- name: insert_runs
-- Insert runs, except those whose id or idempotency key is known; return the ids of the new ones.
INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                  idempotency_key, digest, created_at, deadline, not_before, delayed, schedule,
                  in_turn)
SELECT id, 'queued', agent_type, agent_key, pool, slot, input, correlation_id, owner,
       idempotency_key, digest, created_at, deadline, not_before, not_before IS NOT NULL, schedule,
       in_turn
FROM unnest(
    $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::integer[],
    $6::text::json[], $7::text::text[], $8::text::text[], $9::text::text[], $10::text::text[],
    $11::text::timestamptz[], $12::text::timestamptz[], $13::text::timestamptz[],
    $14::text::text[], $15::text::boolean[])
    WITH ORDINALITY
    AS new (id, agent_type, agent_key, pool, slot, input, correlation_id, owner, idempotency_key,
            digest, created_at, deadline, not_before, schedule, in_turn, n)
ORDER BY owner, idempotency_key, n  -- in one order for everybody: no deadlocks
ON CONFLICT DO NOTHING
RETURNING id;

-- name: keep_ended
-- Insert runs that have ended, with their events, except those whose ids are known.
WITH ended AS MATERIALIZED (
    SELECT DISTINCT ON (id) *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::json[],
                $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::integer[],
                $12::json[], $13::text[], $14::json[], $15::json[], $16::json[],
                $17::timestamptz[], $18::timestamptz[]) WITH ORDINALITY
        AS new (id, agent_type, agent_key, pool, slot, input, correlation_id, owner, digest,
                created_at, events, chunk, status, result, error, trace, started_at, finished_at, n)
    ORDER BY id, n  -- in one order for everybody: no deadlocks
), inserted AS (
    INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                      digest, created_at, events, result, error, trace, started_at, finished_at)
    SELECT id, status, agent_type, agent_key, pool, slot, input, correlation_id, owner,
           digest, created_at, events, result, error, trace, started_at, finished_at
    FROM ended ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING id
)
INSERT INTO run_events (run_id, first_offset, events)
SELECT id, 0, chunk FROM ended JOIN inserted USING (id) WHERE ended.events > 0;

-- name: find_admitted
-- Return the runs that have one of the ids, or the same owner and idempotency key.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       owner, idempotency_key, digest, delayed
FROM runs WHERE id = ANY ($1::text[])
UNION ALL
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       owner, idempotency_key, digest, delayed
FROM runs JOIN unnest($2::text[], $3::text[]) AS wanted (owner, idempotency_key)
    USING (owner, idempotency_key)
WHERE idempotency_key IS NOT NULL;

-- name: release_keys
-- Take their idempotency keys from old runs.
UPDATE runs SET idempotency_key = NULL WHERE id = ANY ($1::text[]);

-- name: get_run
-- Return a run with what a host needs.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner,
       cancel_requested, answers, delayed
FROM runs WHERE id = $1;

-- name: list_runs
-- Return runs, newest first.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session
FROM runs
WHERE ($1::text IS NULL OR id < $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR agent_type = $3)
  AND ($4::text IS NULL OR agent_key = $4)
ORDER BY id DESC LIMIT $5;

-- name: list_tenant_runs
-- Return a tenant's runs, newest first, along an index of its own.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session
FROM runs
WHERE split_part(owner, '@', 2) = $6 AND split_part(owner, '@', 2) <> ''
  AND ($1::text IS NULL OR id < $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR agent_type = $3)
  AND ($4::text IS NULL OR agent_key = $4)
ORDER BY id DESC LIMIT $5;

-- name: list_unfinished_runs
-- Return unfinished runs, newest first, without passing a million ended ones on the way.
WITH unfinished AS MATERIALIZED (  -- or the order would make it walk along the primary key
    SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
           started_at, finished_at, usage, questions, not_before, schedule, session
    FROM runs
    WHERE finished_at IS NULL
      AND ($1::text IS NULL OR id < $1)
      AND ($2::text IS NULL OR status = $2)
      AND ($3::text IS NULL OR agent_type = $3)
      AND ($4::text IS NULL OR agent_key = $4)
      AND ($6::text IS NULL OR split_part(owner, '@', 2) = $6)
)
SELECT * FROM unfinished ORDER BY id DESC LIMIT $5;

-- name: count_runs
-- Count runs by status: the ended ones in an index, which is far smaller than the table.
SELECT status, count(*) AS runs FROM runs WHERE finished_at IS NOT NULL GROUP BY status
UNION ALL
SELECT status, count(*) FROM runs WHERE finished_at IS NULL GROUP BY status;

-- name: mark_running
-- Move those of the runs that are queued to running. One with an answer goes on in its attempt.
WITH queued AS (
    SELECT runs.id, started.at
    FROM unnest($1::text[], $2::timestamptz[]) AS started (id, at) JOIN runs USING (id)
    WHERE runs.status = 'queued'
    ORDER BY runs.id FOR UPDATE OF runs
)
UPDATE runs SET status = 'running', started_at = COALESCE(started_at, queued.at), host = $3
FROM queued WHERE runs.id = queued.id;

-- name: retry_run
-- Give an unfinished run its next attempt; the first one where it was to begin later.
UPDATE runs SET status = 'queued', attempt = attempt + CASE WHEN delayed THEN 0 ELSE 1 END,
    delayed = false, started_at = NULL, host = NULL
WHERE id = $1 AND finished_at IS NULL AND status <> 'waiting'
  AND NOT (delayed AND session IS NOT NULL)  -- its session says when it begins
RETURNING id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
          started_at, finished_at, usage, questions, not_before, schedule, session,
          pool, slot, input, events, owner, cancel_requested, answers, delayed;

-- name: unfinished_runs
-- Return unfinished runs that may have begun, oldest first.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner,
       cancel_requested, answers, delayed
FROM runs
WHERE finished_at IS NULL AND NOT delayed AND status <> 'waiting' AND created_at < $1
  AND ($2::text IS NULL OR pool = $2)
  AND ($3::integer[] IS NULL OR slot = ANY ($3))
ORDER BY created_at, id LIMIT $4;

-- name: run_events
-- Return the events of a run from an offset on, each as JSON.
SELECT event.value AS event
FROM run_events AS chunk
CROSS JOIN json_array_elements(chunk.events) WITH ORDINALITY AS event (value, n)
WHERE chunk.run_id = $1
  AND chunk.first_offset >= coalesce(
      (SELECT max(first_offset) FROM run_events WHERE run_id = $1 AND first_offset <= $2), 0)
  AND chunk.first_offset + event.n - 1 >= $2
ORDER BY chunk.first_offset, event.n LIMIT $3;
