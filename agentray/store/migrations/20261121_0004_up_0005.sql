-- What runs set off, kept for a while after their end. Apart from the runs: a trace is written
-- behind the run's end, many times as large, and forgotten long before the run.

CREATE TABLE traces (
    run_id         text COLLATE "C" PRIMARY KEY,  -- no foreign key: nobody waits for a trace
    correlation_id text NOT NULL,
    trace_id       text NOT NULL,                 -- of the W3C trace context
    agent          text NOT NULL,                 -- that the work was given to, as type/key
    status         text NOT NULL,                 -- of the run at its end
    started_at     timestamptz NOT NULL,
    duration_ms    double precision NOT NULL,
    span_count     integer NOT NULL,
    dropped_spans  integer NOT NULL,
    errors         integer NOT NULL,
    agent_types    text[] NOT NULL,
    events         text[] NOT NULL,
    spans          json NOT NULL
);

-- Newest first for the queries, oldest first for pruning. How many traces there are is bounded, and
-- spans lie apart from their rows (TOAST): what else is asked for is found along this order.
CREATE INDEX traces_started ON traces (started_at, run_id);
CREATE INDEX traces_correlation ON traces (correlation_id);

-- Those that were kept with their runs until now.
INSERT INTO traces (run_id, correlation_id, trace_id, agent, status, started_at, duration_ms,
                    span_count, dropped_spans, errors, agent_types, events, spans)
SELECT runs.id, runs.correlation_id, '', runs.agent_type || '/' || runs.agent_key, runs.status,
       coalesce(runs.started_at, runs.created_at),
       extract(epoch FROM runs.finished_at - coalesce(runs.started_at, runs.created_at)) * 1000,
       told.spans, 0, told.errors, told.agent_types, told.events, runs.trace
FROM runs CROSS JOIN LATERAL (
    SELECT count(*) AS spans,
           count(*) FILTER (WHERE span ->> 'error' IS NOT NULL) AS errors,
           array_agg(DISTINCT split_part(span ->> 'agent', '/', 1)) AS agent_types,
           array_agg(DISTINCT span ->> 'event') AS events
    FROM json_array_elements(runs.trace) AS span
) AS told
WHERE runs.trace IS NOT NULL AND runs.finished_at IS NOT NULL;
UPDATE runs SET trace = NULL WHERE trace IS NOT NULL;
