-- name: prune_runs
-- Delete ended runs of a status that are too old, or beyond the newest; at most so many, the oldest
-- first, with what is kept of them. One range of the index of ended runs, whatever its length.
WITH beyond AS MATERIALIZED (  -- the newest of those that are too many
    SELECT finished_at, id FROM runs
    WHERE status = $1 AND finished_at IS NOT NULL AND $3::bigint IS NOT NULL
    ORDER BY finished_at DESC, id DESC OFFSET $3::bigint LIMIT 1
), edge AS MATERIALIZED (  -- the last one that goes
    SELECT at, id FROM (
        SELECT $2::timestamptz AS at, '' COLLATE "C" AS id UNION ALL SELECT finished_at, id FROM beyond
    ) AS edges WHERE at IS NOT NULL ORDER BY at DESC, id DESC LIMIT 1
), pruned AS MATERIALIZED (
    SELECT id FROM runs
    WHERE status = $1 AND finished_at IS NOT NULL AND finished_at < $4
      AND (finished_at, id) <= (SELECT at, id FROM edge)
    ORDER BY finished_at, id LIMIT $5 FOR UPDATE SKIP LOCKED
), of_events AS (
    DELETE FROM run_events WHERE run_id IN (SELECT id FROM pruned)
), of_traces AS (
    DELETE FROM traces WHERE run_id IN (SELECT id FROM pruned)
), of_sessions AS (
    DELETE FROM session_runs WHERE run_id IN (SELECT id FROM pruned)
), of_runs AS (
    DELETE FROM runs WHERE id IN (SELECT id FROM pruned) RETURNING 1
)
SELECT count(*) FROM of_runs;

-- name: forget_run
-- Delete one ended run, with what is kept of it; return its id.
WITH gone AS MATERIALIZED (
    SELECT id FROM runs WHERE id = $1 AND finished_at IS NOT NULL FOR UPDATE
), of_events AS (
    DELETE FROM run_events WHERE run_id IN (SELECT id FROM gone)
), of_traces AS (
    DELETE FROM traces WHERE run_id IN (SELECT id FROM gone)
), of_sessions AS (
    DELETE FROM session_runs WHERE run_id IN (SELECT id FROM gone)
)
DELETE FROM runs WHERE id IN (SELECT id FROM gone) RETURNING id;

-- name: count_prunable
-- Count the runs that `prune_runs` would delete.
WITH beyond AS MATERIALIZED (
    SELECT finished_at, id FROM runs
    WHERE status = $1 AND finished_at IS NOT NULL AND $3::bigint IS NOT NULL
    ORDER BY finished_at DESC, id DESC OFFSET $3::bigint LIMIT 1
), edge AS MATERIALIZED (
    SELECT at, id FROM (
        SELECT $2::timestamptz AS at, '' COLLATE "C" AS id UNION ALL SELECT finished_at, id FROM beyond
    ) AS edges WHERE at IS NOT NULL ORDER BY at DESC, id DESC LIMIT 1
)
SELECT count(*) FROM runs
WHERE status = $1 AND finished_at IS NOT NULL AND finished_at < $4
  AND (finished_at, id) <= (SELECT at, id FROM edge);
