-- Which manager works. One row; see agentray/core/leadership.py for what is decided about it.

CREATE TABLE manager_lead (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    epoch      bigint NOT NULL,
    place      text NOT NULL,
    about      text NOT NULL,
    renewals   bigint NOT NULL,
    expires_at double precision NOT NULL,  -- in seconds, as extract(epoch FROM clock_timestamp())
    cluster    text NOT NULL
);

-- Refuse what a manager writes that does not lead any more (AR003). The sessions of a manager name
-- its epoch; those of hosts, gateways and commands name none and are not asked.
--
-- The lock holds until the write is committed, and taking the lead waits for it; the row is read
-- after the lock was granted. So either the write comes before the change of who leads, or it fails.
CREATE FUNCTION refuse_former_manager() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    leads manager_lead%ROWTYPE;
BEGIN
    SELECT * INTO leads FROM manager_lead FOR SHARE;
    IF leads.epoch IS DISTINCT FROM current_setting('agentray.manager_epoch')::bigint THEN
        RAISE EXCEPTION '%', coalesce(leads.about, '') USING ERRCODE = 'AR003';
    END IF;
    RETURN NULL;
END
$$;

-- Let the writes of a former manager to a table be refused; for each table that managers write.
CREATE FUNCTION fence_managers_at(wanted text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE TRIGGER former_managers BEFORE INSERT OR UPDATE OR DELETE ON %I '
        'FOR EACH STATEMENT '
        'WHEN (coalesce(current_setting(''agentray.manager_epoch'', true), '''') <> '''') '
        'EXECUTE FUNCTION refuse_former_manager()', wanted);
END
$$;

SELECT fence_managers_at(t) FROM unnest(ARRAY[
    'slot_leases', 'hosts', 'pools', 'apps', 'subscriptions', 'agent_states', 'launched_agents',
    'runs', 'dead_letters', 'traces'
]) AS t;
