-- Dead letters of messages and runs beside those of events, with all that sending them again needs.

ALTER TABLE dead_letters
    ADD COLUMN name       text NOT NULL DEFAULT '',       -- the event's type, or the action
    ADD COLUMN sender     text,
    ADD COLUMN run_id     text,                           -- that died
    ADD COLUMN attempts   integer NOT NULL DEFAULT 1,
    ADD COLUMN error      json,
    ADD COLUMN retryable  boolean NOT NULL DEFAULT true,  -- its content is kept
    ADD COLUMN retried_as text,                           -- the run that tries it once more
    ADD COLUMN pool       text NOT NULL DEFAULT 'default',
    ADD COLUMN content    bytea NOT NULL DEFAULT '';      -- pickled inside the cluster

-- Return a text within a document; NULL also where some text in it, such as one with a NUL, is none
-- for PostgreSQL: JSON may have those, and no run must fail to end because of it.
CREATE FUNCTION json_field(document json, VARIADIC path text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN document #>> path;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- Those that are there are events that nobody subscribed to; some had no JSON.
UPDATE dead_letters SET
    reason = 'no_subscriber', name = target, sender = nullif(json_field(payload, 'source'), ''),
    retryable = json_field(payload, 'unreadable') IS NULL;

-- The letter of a run is written by whoever ends it, in the same transaction.
CREATE FUNCTION bury_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dead_letters (id, kind, reason, target, name, payload, correlation_id, run_id,
                              attempts, error, created_at, pool)
    VALUES (
        'dead_' || lpad(to_hex(floor(extract(epoch FROM NEW.finished_at) * 1000)::bigint), 12, '0')
            || left(md5(NEW.id), 16),
        'run', 'run_dead', NEW.agent_type || '/' || NEW.agent_key,
        coalesce(json_field(NEW.input, 'event', 'event_type'), 'agentray.events.Prompt'), '{}',
        NEW.correlation_id, NEW.id, NEW.attempt, NEW.error, NEW.finished_at, NEW.pool
    ) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER runs_dead_updated AFTER UPDATE OF status ON runs
    FOR EACH ROW WHEN (NEW.status = 'dead' AND OLD.status <> 'dead') EXECUTE FUNCTION bury_run();
CREATE TRIGGER runs_dead_inserted AFTER INSERT ON runs
    FOR EACH ROW WHEN (NEW.status = 'dead') EXECUTE FUNCTION bury_run();

-- Those that have died so far.
INSERT INTO dead_letters (id, kind, reason, target, name, payload, correlation_id, run_id,
                          attempts, error, created_at, pool)
SELECT 'dead_' || lpad(to_hex(floor(extract(epoch FROM finished_at) * 1000)::bigint), 12, '0')
           || left(md5(id), 16),
       'run', 'run_dead', agent_type || '/' || agent_key,
       coalesce(json_field(input, 'event', 'event_type'), 'agentray.events.Prompt'), '{}',
       correlation_id, id, attempt, error, finished_at, pool
FROM runs WHERE status = 'dead' AND finished_at IS NOT NULL
ON CONFLICT DO NOTHING;
