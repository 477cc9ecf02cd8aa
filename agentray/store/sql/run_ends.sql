-- name: request_cancel
-- Note that somebody wants a run ended; the first wish stays.
UPDATE runs SET cancel_requested = coalesce(cancel_requested, $2)
WHERE id = $1 AND finished_at IS NULL
RETURNING id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
          started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner,
       cancel_requested, answers, delayed;

-- name: overdue_runs
-- Return unfinished runs whose deadline has passed, the first ones first.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner,
       cancel_requested, answers, delayed
FROM runs
WHERE finished_at IS NULL AND deadline IS NOT NULL AND deadline < $1 AND status = ANY ($2::text[])
ORDER BY deadline LIMIT $3;

-- name: uncancelled_runs
-- Return unfinished runs that somebody wanted ended before a time.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner,
       cancel_requested, answers, delayed
FROM runs
WHERE finished_at IS NULL AND cancel_requested IS NOT NULL AND cancel_requested < $1
ORDER BY cancel_requested LIMIT $2;

-- name: end_unworked
-- End unfinished runs that have one of the statuses, each with its last event.
--
-- A run is locked first, and looked at again after a wait: either a host's commit waits for this
-- statement and finds the run ended, or this one finds what the host has written.
WITH ending AS MATERIALIZED (
    SELECT runs.id, runs.events, wanted.status, wanted.error, wanted.at
    FROM unnest($1::text[], $2::text[], $3::json[], $4::timestamptz[])
        AS wanted (id, status, error, at)
    JOIN runs USING (id)
    WHERE runs.finished_at IS NULL AND runs.status = ANY ($5::text[])
    ORDER BY runs.id FOR UPDATE OF runs
), told AS (
    INSERT INTO run_events (run_id, first_offset, events)
    SELECT id, events, json_build_array(json_build_object(
        'offset', events, 'kind', status, 'time', at, 'data', json_build_object('error', error)))
    FROM ending
)
UPDATE runs SET status = ending.status, error = ending.error, finished_at = ending.at,
                events = ending.events + 1
FROM ending WHERE runs.id = ending.id
RETURNING runs.id, runs.status, agent_type, agent_key, result, runs.error, attempt,
          correlation_id, created_at, started_at, finished_at, usage, questions, not_before,
          schedule, session;
