-- name: keep_launched
-- Keep, replace or forget launched agents; see the function in the migrations.
SELECT keep_launched($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                     $18);

-- name: load_launched
-- Return those of the agents that were launched.
SELECT agent_type, agent_key, arguments, labels, launched_at, status, owner_type, owner_key,
       driver, last_error, options, max_retries
FROM launched_agents JOIN unnest($1::text[], $2::text[]) AS wanted (agent_type, agent_key)
    USING (agent_type, agent_key);

-- name: list_launched
-- Return launched agents, newest first.
SELECT agent_type, agent_key, arguments, labels, launched_at, status, owner_type, owner_key,
       driver, last_error, options, max_retries
FROM launched_agents
WHERE ($1::text[] IS NULL OR agent_type = ANY ($1))
    AND ($2::text IS NULL OR agent_key = $2)
    AND ($3::jsonb IS NULL OR labels @> $3)
    AND ($4::text[] IS NULL OR status = ANY ($4))
    AND ($5::text IS NULL OR (owner_type = $5 AND owner_key = $6))
    AND ($7::text IS NULL OR driver = $7)
ORDER BY launched_at DESC, agent_type, agent_key LIMIT $8;

-- name: types_with_launched
-- Return those of the types that have launched agents.
SELECT wanted.agent_type FROM unnest($1::text[]) AS wanted (agent_type)
WHERE EXISTS (SELECT FROM launched_agents AS l WHERE l.agent_type = wanted.agent_type);

-- name: live_drivers
-- Return the connections with which agents end that have not ended yet.
SELECT DISTINCT driver FROM launched_agents
WHERE driver <> '' AND status IN ('registered', 'running');
