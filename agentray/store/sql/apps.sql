-- name: put_app
-- Insert or replace an app; a replaced one keeps its place in the order.
INSERT INTO apps (name, spec, import_string, digest, status, deployed_at, before)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) DO UPDATE SET
    spec = excluded.spec, import_string = excluded.import_string, digest = excluded.digest,
    status = excluded.status, deployed_at = excluded.deployed_at, before = excluded.before;

-- name: delete_app
-- Forget an app and what is kept of its agents, with their states or without.
WITH launched AS (
    DELETE FROM launched_agents WHERE agent_type = ANY ($2::text[])
), permanent AS (
    DELETE FROM permanent_agents WHERE agent_type = ANY ($2::text[])
), failures AS (
    DELETE FROM agent_failures WHERE agent_type = ANY ($2::text[])
), topics AS (
    DELETE FROM subscriptions WHERE agent_type = ANY ($2::text[])
), states AS (
    DELETE FROM agent_states WHERE $3 AND agent_type = ANY ($2::text[])
), noted AS (
    UPDATE noted_states SET state = NULL, size = 0, dropped = true
    WHERE $3 AND agent_type = ANY ($2::text[]) AND state IS NOT NULL
)
DELETE FROM apps WHERE name = $1;

-- name: list_apps
-- Return the apps in the order of their first deployment.
SELECT name, spec, import_string, digest, status, deployed_at, before FROM apps ORDER BY position;
