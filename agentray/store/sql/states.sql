-- name: list_states
-- Return a page of the states of a type, by key; a page ends early where it grows large.
SELECT agent_type, agent_key, state, schema_version
FROM (
    SELECT *, sum(size) OVER (ORDER BY agent_key) - size AS before
    FROM (
        SELECT agent_type, agent_key, state, schema_version, octet_length(state::text) AS size
        FROM agent_states
        WHERE agent_type = $1 AND agent_key > $2
        ORDER BY agent_key LIMIT $3
    ) AS page
) AS measured
WHERE before < $4
ORDER BY agent_key;

-- name: put_states
-- Insert or replace states, all or none; the last of equals wins.
INSERT INTO agent_states (agent_type, agent_key, state, schema_version)
SELECT DISTINCT ON (agent_type, agent_key) agent_type, agent_key, state, schema_version
FROM unnest($1::text[], $2::text[], $3::json[], $4::integer[]) WITH ORDINALITY
    AS new (agent_type, agent_key, state, schema_version, n)
ORDER BY agent_type, agent_key, n DESC
ON CONFLICT (agent_type, agent_key)
    DO UPDATE SET state = excluded.state, schema_version = excluded.schema_version;

-- name: delete_state
-- Forget a state if the host may write it; return whether it may.
--
-- Host and lease are locked before anything is deleted, and looked at again after a wait: either
-- assign_slots waits for this statement, or it finds the new epoch. See commit_effects.
WITH lease AS MATERIALIZED (
    SELECT 1
    FROM hosts JOIN slot_leases AS held ON held.host = hosts.id
    WHERE hosts.id = $1 AND hosts.status <> 'dead'
        AND held.pool = $2 AND held.slot = $3 AND held.epoch = $4
    FOR SHARE
), deleted AS (
    DELETE FROM agent_states
    WHERE agent_type = $5 AND agent_key = $6 AND EXISTS (SELECT FROM lease)
)
SELECT EXISTS (SELECT FROM lease);
