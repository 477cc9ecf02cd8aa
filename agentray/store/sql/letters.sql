-- name: add_dead_letters
-- Keep dead letters; a repeated one is kept once.
INSERT INTO dead_letters (id, kind, reason, target, name, payload, sender, correlation_id, run_id,
                          attempts, error, created_at, retryable, pool, content)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[],
                     $7::text[], $8::text[], $9::text[], $10::integer[], $11::json[],
                     $12::timestamptz[], $13::boolean[], $14::text[], $15::bytea[])
ON CONFLICT DO NOTHING;

-- name: get_dead_letter
-- Return a dead letter with its content.
SELECT id, kind, reason, target, name, payload, sender, correlation_id, run_id, attempts, error,
       created_at, retryable, retried_as, pool, content, owner
FROM dead_letters WHERE id = $1;

-- name: list_dead_letters
-- Return dead letters, newest first.
SELECT id, kind, reason, target, name, payload, sender, correlation_id, run_id, attempts, error,
       created_at, retryable, retried_as
FROM dead_letters
WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR reason = $2)
    AND ($3::text IS NULL OR target = $3 OR starts_with(target, $3 || '/'))
    AND ($4::boolean IS NULL OR (retried_as IS NOT NULL) = $4)
    AND ($5::timestamptz IS NULL OR created_at < $5) AND ($6::text[] IS NULL OR id = ANY ($6))
    AND ($7::text IS NULL OR split_part(owner, '@', 2) = $7)
    AND ($8::text IS NULL OR id < $8)
ORDER BY id DESC LIMIT $9;

-- name: retry_dead_letter
-- Note the run that tries a letter once more, and admit it; return its id where nobody was quicker.
WITH claimed AS (
    UPDATE dead_letters SET retried_as = $3
    WHERE id = $1 AND retried_as IS NOT DISTINCT FROM $2 RETURNING id
), admitted AS (
    INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id, owner,
                      digest, created_at, deadline)
    SELECT $3, 'queued', $4, $5, $6, $7, $8::json, $9, $10, $11, $12::timestamptz,
           $13::timestamptz
    FROM claimed
    RETURNING id
)
SELECT id FROM admitted;

-- name: retried_as
-- Return the run that tries a letter once more.
SELECT retried_as FROM dead_letters WHERE id = $1;

-- name: purge_dead_letters
-- Delete dead letters; at most so many, the oldest first.
WITH purged AS (
    DELETE FROM dead_letters WHERE id IN (
        SELECT id FROM dead_letters
        WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR reason = $2)
            AND ($3::text IS NULL OR target = $3 OR starts_with(target, $3 || '/'))
            AND ($4::boolean IS NULL OR (retried_as IS NOT NULL) = $4)
            AND ($5::timestamptz IS NULL OR created_at < $5)
            AND ($6::text[] IS NULL OR id = ANY ($6))
            AND ($7::text IS NULL OR split_part(owner, '@', 2) = $7)
        ORDER BY id LIMIT $8
    ) RETURNING 1
)
SELECT count(*) FROM purged;

-- name: prune_dead_letters
-- Delete dead letters beyond the newest; at most so many, the oldest first.
WITH pruned AS (
    DELETE FROM dead_letters WHERE id IN (
        SELECT id FROM dead_letters
        WHERE id <= (SELECT id FROM dead_letters ORDER BY id DESC OFFSET $1 LIMIT 1)
        ORDER BY id LIMIT $2
    ) RETURNING 1
)
SELECT count(*) FROM pruned;
