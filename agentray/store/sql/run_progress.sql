-- name: suspend_run
-- Commit the effects of a host and let a run wait, in one transaction.
SELECT suspend_run($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                   $19, $20, $21, $22, $23, $24);

-- name: resume_run
-- Keep an answer and let a waiting run go on, unless it has moved since it was looked at.
WITH waiting AS MATERIALIZED (
    SELECT id, events FROM runs
    WHERE id = $1 AND status = 'waiting' AND events = $2
    FOR UPDATE
), told AS (
    INSERT INTO run_events (run_id, first_offset, events) SELECT id, events, $3 FROM waiting
)
UPDATE runs SET status = 'queued', events = waiting.events + 1, questions = $4, answers = $5
FROM waiting WHERE runs.id = waiting.id
RETURNING runs.id;

-- name: put_usage
-- Keep what runs have used, as their present attempts count it; of some only the time.
WITH counted AS MATERIALIZED (
    SELECT runs.id, new.usage, new.only_time
    FROM unnest($1::text[], $2::integer[], $3::json[], $4::boolean[])
        AS new (id, attempt, usage, only_time)
    JOIN runs ON runs.id = new.id AND runs.attempt = new.attempt
    ORDER BY runs.id FOR UPDATE OF runs
)
UPDATE runs SET usage = CASE WHEN counted.only_time THEN json_build_object(
        'wall_s', counted.usage -> 'wall_s',
        'tokens', coalesce((runs.usage ->> 'tokens')::bigint, 0),
        'tool_calls', coalesce((runs.usage ->> 'tool_calls')::bigint, 0),
        'cost', coalesce((runs.usage ->> 'cost')::float8, 0))
    ELSE counted.usage END
FROM counted WHERE runs.id = counted.id;

-- name: host_of_run
-- Return the host that moved a run to running in its present attempt.
SELECT hosts.* FROM runs JOIN hosts ON hosts.id = runs.host WHERE runs.id = $1;
