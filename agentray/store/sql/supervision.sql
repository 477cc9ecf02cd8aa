-- name: keep_failures
-- Keep or forget failures where the host leases the slot; return the agents where it does.
WITH writer AS MATERIALIZED (
    SELECT id FROM hosts WHERE id = $1 AND status <> 'dead' FOR SHARE
), allowed AS MATERIALIZED (
    SELECT w.* FROM writer CROSS JOIN
        unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::text[], $7::text[],
               $8::text[], $9::text[], $10::timestamptz[], $11::integer[], $12::text[])
        AS w (pool, slot, epoch, agent_type, agent_key, kind, error, traceback, at, deaths,
              code)
    JOIN slot_leases AS lease
        ON lease.pool = w.pool AND lease.slot = w.slot AND lease.epoch = w.epoch
        AND lease.host = writer.id
), forgotten AS (
    DELETE FROM agent_failures AS known USING allowed
    WHERE allowed.kind IS NULL
        AND known.agent_type = allowed.agent_type AND known.agent_key = allowed.agent_key
), kept AS (
    INSERT INTO agent_failures (agent_type, agent_key, kind, error, traceback, at, deaths,
                                code)
    SELECT agent_type, agent_key, kind, error, traceback, at, deaths, code FROM allowed
    WHERE kind IS NOT NULL
    ORDER BY agent_type COLLATE "C", agent_key COLLATE "C"
    ON CONFLICT (agent_type, agent_key) DO UPDATE SET
        kind = excluded.kind, error = excluded.error, traceback = excluded.traceback,
        at = excluded.at, deaths = excluded.deaths, code = excluded.code
)
SELECT agent_type, agent_key FROM allowed;

-- name: put_failures
-- Keep failures, and forget those of other agents, whoever leases the slots.
WITH forgotten AS (
    DELETE FROM agent_failures AS known
    USING unnest($7::text[], $8::text[]) AS w (agent_type, agent_key)
    WHERE known.agent_type = w.agent_type AND known.agent_key = w.agent_key
)
INSERT INTO agent_failures (agent_type, agent_key, kind, error, traceback, at, deaths, code)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
                     $6::timestamptz[], $9::integer[], $10::text[])
    AS w (agent_type, agent_key, kind, error, traceback, at, deaths, code)
ORDER BY agent_type COLLATE "C", agent_key COLLATE "C"
ON CONFLICT (agent_type, agent_key) DO UPDATE SET
    kind = excluded.kind, error = excluded.error, traceback = excluded.traceback,
    at = excluded.at, deaths = excluded.deaths, code = excluded.code;

-- name: load_failures
-- Return the failures of those agents that have one.
SELECT agent_type, agent_key, kind, error, traceback, at, deaths, code
FROM agent_failures JOIN unnest($1::text[], $2::text[]) AS wanted (agent_type, agent_key)
    USING (agent_type, agent_key);

-- name: list_failures
-- Return failures of some kinds, newest first.
SELECT agent_type, agent_key, kind, error, traceback, at, deaths, code FROM agent_failures
WHERE kind = ANY ($1::text[]) AND ($2::text IS NULL OR agent_type = $2)
ORDER BY at DESC, agent_type, agent_key LIMIT $3;

-- name: types_with_failures
-- Return those of the types that have failed agents.
SELECT wanted.agent_type FROM unnest($1::text[]) AS wanted (agent_type)
WHERE EXISTS (SELECT FROM agent_failures AS f
              WHERE f.agent_type = wanted.agent_type AND f.kind = 'failed');

-- name: keep_permanent
-- Note agents that are brought back whenever their host is lost.
INSERT INTO permanent_agents (agent_type, agent_key, slot)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[]) AS w (agent_type, agent_key, slot)
ORDER BY agent_type COLLATE "C", agent_key COLLATE "C"
ON CONFLICT DO NOTHING;

-- name: forget_permanent
-- Let agents come back with their next message only.
DELETE FROM permanent_agents AS known
USING unnest($1::text[], $2::text[]) AS w (agent_type, agent_key)
WHERE known.agent_type = w.agent_type AND known.agent_key = w.agent_key;

-- name: list_permanent
-- Return the agents of some types and slots that are to be brought back.
SELECT agent_type, agent_key FROM permanent_agents
WHERE agent_type = ANY ($1::text[]) AND slot = ANY ($2::integer[])
ORDER BY agent_type, agent_key LIMIT $3;
