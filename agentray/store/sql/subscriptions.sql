-- name: put_subscription
-- Keep a subscription; return it, or the one that asked for the same before.
INSERT INTO subscriptions (id, agent_type, topic, event_type, key, created_at, digest)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (digest) DO UPDATE SET id = subscriptions.id
RETURNING id, agent_type, topic, event_type, key, created_at;

-- name: delete_subscription
-- Forget a subscription; return whether there was one.
DELETE FROM subscriptions WHERE id = $1 RETURNING true;

-- name: list_subscriptions
-- Return the subscriptions in the order in which they came.
SELECT id, agent_type, topic, event_type, key, created_at FROM subscriptions ORDER BY position;
