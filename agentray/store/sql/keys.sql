-- name: put_key
-- Insert or replace an API key.
INSERT INTO api_keys (id, digest, label, scopes, created_at, revoked_at, tenant)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO UPDATE SET
    digest = excluded.digest, label = excluded.label, scopes = excluded.scopes,
    created_at = excluded.created_at, revoked_at = excluded.revoked_at, tenant = excluded.tenant;

-- name: find_key
-- Return the API key with a digest, also a revoked one.
SELECT id, digest, label AS name, scopes, created_at, revoked_at, tenant
FROM api_keys WHERE digest = $1;

-- name: get_key
-- Return the API key of an id, also a revoked one.
SELECT id, digest, label AS name, scopes, created_at, revoked_at, tenant
FROM api_keys WHERE id = $1;

-- name: list_keys
-- Return API keys, newest first.
SELECT id, digest, label AS name, scopes, created_at, revoked_at, tenant
FROM api_keys
WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3;

-- name: revoke_key
-- Revoke an API key, once.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1
RETURNING id, digest, label AS name, scopes, created_at, revoked_at, tenant;
