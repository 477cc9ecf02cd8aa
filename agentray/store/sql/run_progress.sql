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
-- Keep what runs have used, as their present attempts count it.
WITH counted AS MATERIALIZED (
    SELECT runs.id, new.usage
    FROM unnest($1::text[], $2::integer[], $3::json[]) AS new (id, attempt, usage)
    JOIN runs ON runs.id = new.id AND runs.attempt = new.attempt
    ORDER BY runs.id FOR UPDATE OF runs
)
UPDATE runs SET usage = counted.usage FROM counted WHERE runs.id = counted.id;

-- name: host_of_run
-- Return the host that moved a run to running in its present attempt.
SELECT hosts.* FROM runs JOIN hosts ON hosts.id = runs.host WHERE runs.id = $1;
