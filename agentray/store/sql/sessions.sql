-- name: admit_in_sessions
-- Admit prompts to sessions in one round trip; see the function in the migrations.
SELECT outcomes, blockers
FROM admit_in_sessions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: create_session
-- Insert a session unless its id or agent is taken; tell whether.
WITH made AS (
    INSERT INTO sessions (id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s,
                          owner, tenant, created_at, updated_at, expires_at, copied_from, version)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::json, $8, $9, $10, $11, $12, $13, $14, $15)
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT count(*) > 0 FROM made;

-- name: get_session
-- Return a session that has not expired.
SELECT id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s, owner, tenant,
       created_at, updated_at, expires_at, copied_from, version
FROM sessions
WHERE id = $1 AND session_lives(sessions, $2);

-- name: session_of_agent
-- Return the session that an agent is of, also one that is gone.
SELECT id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s, owner, tenant,
       created_at, updated_at, expires_at, copied_from, version
FROM sessions
WHERE agent_type = $1 AND agent_key = $2;

-- name: list_sessions
-- Return sessions by their ids, the last one first.
SELECT id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s, owner, tenant,
       created_at, updated_at, expires_at, copied_from, version
FROM sessions
WHERE session_lives(sessions, $1)
  AND ($2::text IS NULL OR id < $2)
  AND ($3::text IS NULL OR tenant = $3)
  AND ($4::text IS NULL OR owner = $4)
  AND ($5::text IS NULL OR agent_type = $5)
  AND ($6::text IS NULL OR agent_key = $6)
  AND ($7::jsonb IS NULL OR labels @> $7::jsonb)
ORDER BY id DESC LIMIT $8;

-- name: update_session
-- Write what may be changed of a session unless somebody else has since; return it.
UPDATE sessions SET access_level = $3, title = $4, labels = $5::jsonb, metadata = $6::json,
                    ttl_s = $7, updated_at = $8,
                    expires_at = $8 + make_interval(secs => $7::double precision),
                    version = version + 1
WHERE id = $1 AND version = $2 AND session_lives(sessions, $8)
RETURNING id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s, owner, tenant,
          created_at, updated_at, expires_at, copied_from, version;

-- name: delete_session
-- Let a session be gone; see the function in the migrations.
SELECT delete_session($1, $2, $3);

-- name: copy_session
-- Keep a copy of a session; see the function in the migrations.
SELECT copy_session($1, $2, $3, $4, $5, $6, $7::jsonb, $8::json, $9, $10, $11, $12, $13);

-- name: session_runs
-- Return the history of a session, oldest first.
SELECT known.number, known.rolled_back, runs.input,
       id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, runs.session
FROM session_runs AS known JOIN runs ON runs.id = known.run_id
WHERE known.session = $1 AND known.number > $2 AND ($4 OR NOT known.rolled_back)
ORDER BY known.number LIMIT $3;

-- name: session_front
-- Return the runs of a session that have not ended, in their order.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner, cancel_requested, answers, delayed
FROM runs WHERE session = $1 AND finished_at IS NULL ORDER BY turn LIMIT $2;

-- name: rolling_back
-- Return whether the state of a session's agent goes back before the next run begins.
SELECT rolling_back FROM sessions WHERE id = $1;

-- name: begin_in_session
-- Let a held run begin if it is its turn; see the function in the migrations.
SELECT begin_in_session($1, $2, $3, $4, $5);

-- name: due_in_sessions
-- Return the first held run of each session where no earlier one goes on.
SELECT DISTINCT ON (session)
       id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner, cancel_requested, answers, delayed
FROM runs
WHERE session IS NOT NULL AND finished_at IS NULL AND delayed
  AND NOT EXISTS (
      SELECT FROM runs AS earlier
      WHERE earlier.session = runs.session AND earlier.finished_at IS NULL
        AND earlier.turn < runs.turn AND earlier.cancel_requested IS NULL)
ORDER BY session, turn LIMIT $1;

-- name: expire_sessions
-- Let sessions be gone that have expired and have no run under way; return how many.
WITH expired AS MATERIALIZED (
    SELECT id FROM sessions
    WHERE expires_at <= $1 AND gone_at IS NULL AND NOT session_lives(sessions, $1)
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
    UPDATE sessions SET gone_at = $1 WHERE id IN (SELECT id FROM expired) RETURNING 1
)
SELECT count(*) FROM gone;

-- name: gone_sessions
-- Return sessions that are gone and whose runs have all ended.
SELECT id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s, owner, tenant,
       created_at, updated_at, expires_at, copied_from, version
FROM sessions
WHERE gone_at IS NOT NULL AND id > $1 AND NOT EXISTS (
    SELECT FROM runs WHERE runs.session = sessions.id AND runs.finished_at IS NULL)
ORDER BY id LIMIT $2;

-- name: forget_sessions
-- Delete gone sessions and their histories; return how many.
WITH forgotten AS (
    DELETE FROM sessions
    WHERE id = ANY ($1::text[]) AND gone_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM runs WHERE runs.session = sessions.id AND runs.finished_at IS NULL)
    RETURNING id
), of_runs AS (
    DELETE FROM session_runs WHERE session IN (SELECT id FROM forgotten)
)
SELECT count(*) FROM forgotten;
