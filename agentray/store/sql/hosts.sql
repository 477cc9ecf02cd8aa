-- name: commit_effects
-- Apply a batch of effects in one round trip; see the function in the migrations.
SELECT commit_effects(
    $1, $2::text::text[], $3::text::integer[], $4::text::bigint[], $5::text::integer[],
    $6::text::text[], $7::text::integer[], $8::text::integer[], $9::text::integer[],
    $10::text::json[], $11::text::text[], $12::text::json[], $13::text::json[],
    $14::text::json[], $15::text::timestamptz[], $16::text::timestamptz[], $17::text::integer[],
    $18::text::text[], $19::text::text[], $20::text::json[], $21::text::integer[]);

-- name: load_states
-- Return the states of those agents that have one.
SELECT agent_type, agent_key, state, schema_version
FROM agent_states JOIN unnest($1::text[], $2::text[]) AS wanted (agent_type, agent_key)
    USING (agent_type, agent_key);

-- name: put_host
-- Insert or replace a host, but never revive a dead one.
INSERT INTO hosts (id, pool, actor_name, status, node_id, pid, reason, made_for)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO UPDATE SET
    pool = excluded.pool, actor_name = excluded.actor_name, status = excluded.status,
    node_id = excluded.node_id, pid = excluded.pid, reason = excluded.reason,
    made_for = excluded.made_for
WHERE hosts.status <> 'dead';

-- name: list_hosts
-- Return the hosts, the dead ones only when asked for.
SELECT id, pool, actor_name, status, node_id, pid, reason, made_for
FROM hosts WHERE status <> 'dead' OR $1 ORDER BY id;

-- name: list_slots
-- Return the leases of one pool or of all.
SELECT pool, slot, host, epoch FROM slot_leases
WHERE $1::text IS NULL OR pool = $1 ORDER BY pool, slot;

-- name: assign_slots
-- Lease slots and declare hosts dead in one round trip; see the function in the migrations.
SELECT pool, slot, host, epoch FROM assign_slots($1, $2, $3, $4, $5);
