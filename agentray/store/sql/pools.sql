-- name: put_pool
-- Insert or replace a pool; a replaced one keeps its place in the order.
INSERT INTO pools (name, spec, successor) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, successor = excluded.successor;

-- name: delete_pool
-- Forget a pool.
DELETE FROM pools WHERE name = $1;

-- name: list_pools
-- Return the pools in the order of their first mention.
SELECT name, spec, successor FROM pools ORDER BY position;
