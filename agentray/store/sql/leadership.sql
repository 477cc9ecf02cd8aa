-- name: read_lead
-- Return who leads, and what time it is; without a lead, nulls and the time.
SELECT lead.epoch, lead.place, lead.about, lead.renewals, lead.expires_at, lead.cluster,
       extract(epoch FROM clock_timestamp())::double precision AS now
FROM (SELECT 1) AS always LEFT JOIN manager_lead AS lead ON true;

-- name: write_lead
-- Write who leads in place of the row that was found, or of none; return whether it was.
WITH changed AS (
    UPDATE manager_lead SET epoch = $1, place = $2, about = $3, renewals = $4, expires_at = $5
    WHERE epoch = $7 AND renewals = $8
    RETURNING 1
), made AS (
    INSERT INTO manager_lead (epoch, place, about, renewals, expires_at, cluster)
    SELECT $1::bigint, $2::text, $3::text, $4::bigint, $5::double precision, $6::text
    WHERE $7::bigint = 0
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT EXISTS (SELECT FROM changed) OR EXISTS (SELECT FROM made);
