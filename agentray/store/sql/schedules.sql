-- name: insert_schedule
-- Insert a schedule unless its id is taken, and with it runs whose ids are new, with their webhooks;
-- tell whether.
WITH written AS (
    INSERT INTO schedules (id, revision, next_at, record, owner) VALUES ($1, $3, $4, $5::json, $21)
    ON CONFLICT DO NOTHING RETURNING $2::bigint
), made AS (
    INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                      idempotency_key, digest, created_at, deadline, not_before, delayed,
                      schedule, in_turn)
    SELECT new.id, 'queued', agent_type, agent_key, pool, slot, input, correlation_id, owner,
           idempotency_key, digest, created_at, deadline, not_before, not_before IS NOT NULL,
           schedule, in_turn
    FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::integer[], $11::json[],
                $12::text[], $13::text[], $14::text[], $15::text[], $16::timestamptz[],
                $17::timestamptz[], $18::timestamptz[], $19::text[], $20::boolean[])
        AS new (id, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                idempotency_key, digest, created_at, deadline, not_before, schedule, in_turn), written
    ON CONFLICT DO NOTHING
), hooked AS (
    INSERT INTO webhooks (id, run_id, owner, url, events, secret, created_at, state)
    SELECT hook.id, hook.run_id, $21, $23, $24::text[], $25, $26, 'waiting'
    FROM unnest($22::text[], $6::text[]) AS hook (id, run_id), written
    WHERE hook.id IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT count(*) > 0 FROM written;

-- name: update_schedule
-- Write a schedule unless somebody else has since, and with it runs whose ids are new; tell whether.
-- Of two writers who have read the same revision the second waits for the first one's row, finds
-- another revision in it, and inserts nothing.
WITH written AS (
    UPDATE schedules SET revision = $3, next_at = $4, record = $5::json, owner = $21
    WHERE id = $1 AND revision = $2 RETURNING id
), made AS (
    INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                      idempotency_key, digest, created_at, deadline, not_before, delayed,
                      schedule, in_turn)
    SELECT new.id, 'queued', agent_type, agent_key, pool, slot, input, correlation_id, owner,
           idempotency_key, digest, created_at, deadline, not_before, not_before IS NOT NULL,
           schedule, in_turn
    FROM unnest($6::text[], $7::text[], $8::text[], $9::text[], $10::integer[], $11::json[],
                $12::text[], $13::text[], $14::text[], $15::text[], $16::timestamptz[],
                $17::timestamptz[], $18::timestamptz[], $19::text[], $20::boolean[])
        AS new (id, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                idempotency_key, digest, created_at, deadline, not_before, schedule, in_turn), written
    ON CONFLICT DO NOTHING
), hooked AS (
    INSERT INTO webhooks (id, run_id, owner, url, events, secret, created_at, state)
    SELECT hook.id, hook.run_id, $21, $23, $24::text[], $25, $26, 'waiting'
    FROM unnest($22::text[], $6::text[]) AS hook (id, run_id), written
    WHERE hook.id IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT count(*) > 0 FROM written;

-- name: get_schedule
-- Return a schedule.
SELECT record FROM schedules WHERE id = $1;

-- name: list_schedules
-- Return schedules in the order of their ids.
SELECT record FROM schedules
WHERE id > $1 AND ($3::text IS NULL OR split_part(owner, '@', 2) = $3)
ORDER BY id LIMIT $2;

-- name: delete_schedule
-- Forget a schedule; tell whether there was one.
WITH deleted AS (DELETE FROM schedules WHERE id = $1 RETURNING 1)
SELECT count(*) > 0 FROM deleted;

-- name: due_schedules
-- Return the schedules whose next firing is due.
SELECT record FROM schedules
WHERE next_at IS NOT NULL AND next_at <= $1 AND (next_at, id) > ($2, $3)
ORDER BY next_at, id LIMIT $4;

-- name: unfinished_of_schedule
-- Count the runs of a schedule that have not ended.
SELECT count(*) FROM runs WHERE schedule = $1 AND finished_at IS NULL;

-- name: due_runs
-- Return runs that are to begin now and that no host has begun.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner, cancel_requested, answers, delayed
FROM runs
WHERE delayed AND finished_at IS NULL AND not_before <= $1 AND (not_before, id) > ($2, $3)
  AND NOT (in_turn AND EXISTS (
      SELECT FROM runs AS earlier
      WHERE earlier.schedule = runs.schedule AND earlier.finished_at IS NULL
        AND (earlier.not_before, earlier.id) < (runs.not_before, runs.id)))
ORDER BY not_before, id LIMIT $4;

-- name: next_due
-- Return when the next run or schedule is due.
SELECT least(
    (SELECT min(not_before) FROM runs WHERE delayed AND finished_at IS NULL AND not_before > $1),
    (SELECT min(next_at) FROM schedules WHERE next_at > $1));
