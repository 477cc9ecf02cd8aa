-- Tenants. What is made over HTTP has an owner: an API key, and after an `@` the tenant for which it
-- was used. Runs have had their owner since the first schema.

ALTER TABLE api_keys ADD COLUMN tenant text NOT NULL DEFAULT '';  -- '': it sees everything
ALTER TABLE schedules ADD COLUMN owner text NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN owner text NOT NULL DEFAULT '';  -- of a run: whose that was

-- A tenant's runs, newest first. Those of nobody in particular, most of them, are not in it.
CREATE INDEX runs_of_tenant ON runs (split_part(owner, '@', 2), id)
    WHERE split_part(owner, '@', 2) <> '';

-- That of 0009, and the owner.
CREATE OR REPLACE FUNCTION bury_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dead_letters (id, kind, reason, target, name, payload, correlation_id, run_id,
                              attempts, error, created_at, pool, owner)
    VALUES (
        'dead_' || lpad(to_hex(floor(extract(epoch FROM NEW.finished_at) * 1000)::bigint), 12, '0')
            || left(md5(NEW.id), 16),
        'run', 'run_dead', NEW.agent_type || '/' || NEW.agent_key,
        coalesce(json_field(NEW.input, 'event', 'event_type'), 'agentray.events.Prompt'), '{}',
        NEW.correlation_id, NEW.id, NEW.attempt, NEW.error, NEW.finished_at, NEW.pool, NEW.owner
    ) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
