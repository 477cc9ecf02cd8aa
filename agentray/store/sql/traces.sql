-- name: put_traces
-- Keep traces; one of a run that has one already replaces it.
INSERT INTO traces (run_id, correlation_id, trace_id, agent, status, started_at, duration_ms,
                    span_count, dropped_spans, errors, agent_types, events, spans)
SELECT run_id, correlation_id, trace_id, agent, status, started_at, duration_ms, span_count,
       dropped_spans, errors,
       ARRAY(SELECT json_array_elements_text(agent_types)),
       ARRAY(SELECT json_array_elements_text(events)), spans
FROM unnest(
    $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
    $6::text::timestamptz[], $7::text::double precision[], $8::text::integer[],
    $9::text::integer[], $10::text::integer[], $11::text::json[], $12::text::json[],
    $13::text::json[])
    AS new (run_id, correlation_id, trace_id, agent, status, started_at, duration_ms, span_count,
            dropped_spans, errors, agent_types, events, spans)
ORDER BY run_id  -- in one order for everybody: no deadlocks
ON CONFLICT (run_id) DO UPDATE SET
    correlation_id = excluded.correlation_id, trace_id = excluded.trace_id,
    agent = excluded.agent, status = excluded.status, started_at = excluded.started_at,
    duration_ms = excluded.duration_ms, span_count = excluded.span_count,
    dropped_spans = excluded.dropped_spans, errors = excluded.errors,
    agent_types = excluded.agent_types, events = excluded.events, spans = excluded.spans;

-- name: get_trace
-- Return the trace of a run.
SELECT run_id, correlation_id, trace_id, agent, status, started_at, duration_ms, span_count,
       dropped_spans, errors, agent_types, events, spans
FROM traces WHERE run_id = $1;

-- name: list_traces
-- Return traces without their spans, newest first.
SELECT run_id, correlation_id, trace_id, agent, status, started_at, duration_ms, span_count,
       dropped_spans, errors, agent_types, events
FROM traces
WHERE ($1::text IS NULL OR correlation_id = $1)
    AND ($2::text IS NULL OR $2 = ANY (agent_types))
    AND ($3::text IS NULL OR EXISTS (
        SELECT FROM unnest(events) AS of (name)
        WHERE of.name = $3 OR right(of.name, length($3) + 1) = '.' || $3))
    AND ($4::timestamptz IS NULL OR started_at >= $4)
    AND ($5::timestamptz IS NULL OR started_at < $5)
    AND ($6::boolean IS NULL OR (errors > 0) = $6)
ORDER BY started_at DESC, run_id DESC LIMIT $7;

-- name: prune_traces
-- Delete traces that are too old, or beyond the newest; at most so many, the oldest first.
WITH beyond AS MATERIALIZED (  -- the newest of those that are too many
    SELECT started_at, run_id FROM traces ORDER BY started_at DESC, run_id DESC OFFSET $2 LIMIT 1
), pruned AS (
    DELETE FROM traces WHERE run_id IN (
        SELECT run_id FROM traces
        WHERE started_at < $1
            OR (started_at, run_id) <= (SELECT started_at, run_id FROM beyond)
        ORDER BY started_at, run_id LIMIT $3
    ) RETURNING 1
)
SELECT count(*) FROM pruned;
