-- name: put_orders
-- Insert or replace orders.
INSERT INTO orders (kind, subject, value)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (kind, subject) DO UPDATE SET value = excluded.value;

-- name: delete_orders
-- Forget orders of a kind.
DELETE FROM orders WHERE kind = $1 AND subject = ANY ($2::text[]);

-- name: list_orders
-- Return all orders.
SELECT kind, subject, value FROM orders ORDER BY kind, subject;
