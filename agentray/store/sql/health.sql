-- name: ping
-- Do one round trip.
SELECT 1;
