-- name: put_webhook
-- Keep a webhook unless its run has one.
INSERT INTO webhooks (id, run_id, owner, url, events, secret, created_at, state)
VALUES ($1, $2, $3, $4, $5::text[], $6, $7, 'waiting')
ON CONFLICT DO NOTHING;

-- name: ripen_webhooks
-- Let the webhooks of runs that have ended be sent; forget those whose ends nobody wants to hear of.
WITH ended AS MATERIALIZED (
    SELECT webhook.id, 'run.' || run.status AS event,
           run.id IS NOT NULL  -- else it is forgotten by now
               AND (webhook.events IS NULL OR 'run.' || run.status = ANY (webhook.events)) AS wanted
    FROM webhooks AS webhook LEFT JOIN runs AS run ON run.id = webhook.run_id
    WHERE webhook.state = 'waiting' AND (run.finished_at IS NOT NULL OR run.id IS NULL)
    ORDER BY webhook.id LIMIT $2
    FOR UPDATE OF webhook SKIP LOCKED
), unwanted AS (
    DELETE FROM webhooks USING ended WHERE webhooks.id = ended.id AND NOT ended.wanted
)
UPDATE webhooks SET state = 'pending', event = ended.event, due_at = $1
FROM ended WHERE webhooks.id = ended.id AND ended.wanted;

-- name: claim_webhooks
-- Take what is due, so that others leave it alone for a while.
WITH due AS MATERIALIZED (
    SELECT id FROM webhooks WHERE state = 'pending' AND due_at <= $1
    ORDER BY due_at, id LIMIT $3
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE webhooks SET attempts = attempts + 1, due_at = $2
    FROM due WHERE webhooks.id = due.id
    RETURNING webhooks.*
)
SELECT claimed.id AS webhook_id, claimed.run_id, claimed.url, claimed.events AS webhook_events,
       claimed.secret, claimed.state, claimed.event, claimed.attempts, claimed.due_at,
       claimed.last_status, claimed.last_error, claimed.created_at AS asked_at,
       claimed.finished_at AS done_at, claimed.owner AS webhook_owner,
       runs.id, runs.status, runs.agent_type, runs.agent_key, runs.result, runs.error, runs.attempt,
       runs.correlation_id, runs.created_at, runs.started_at, runs.finished_at, runs.usage,
       runs.questions, runs.not_before, runs.schedule, runs.session
FROM claimed LEFT JOIN runs ON runs.id = claimed.run_id
ORDER BY claimed.id;

-- name: finish_webhook
-- Note what a try came to, unless it was tried again since; tell whether.
WITH written AS (
    UPDATE webhooks SET state = $3, due_at = $4, last_status = $5, last_error = $6,
        finished_at = CASE WHEN $3 = 'pending' THEN NULL ELSE $7::timestamptz END
    WHERE id = $1 AND attempts = $2 AND state = 'pending'
    RETURNING 1
)
SELECT count(*) > 0 FROM written;

-- name: get_webhook
-- Return a webhook.
SELECT id, run_id, url, events, secret, state, event, attempts, due_at, last_status, last_error,
       created_at, finished_at
FROM webhooks
WHERE id = $1 AND ($2::text IS NULL OR split_part(owner, '@', 2) = $2);

-- name: list_webhooks
-- Return webhooks, newest first.
SELECT id, run_id, url, events, secret, state, event, attempts, due_at, last_status, last_error,
       created_at, finished_at
FROM webhooks
WHERE ($1::text IS NULL OR state = $1)
  AND ($2::text IS NULL OR run_id = $2)
  AND ($3::text IS NULL OR split_part(owner, '@', 2) = $3)
  AND ($4::text IS NULL OR id < $4)
ORDER BY id DESC LIMIT $5;

-- name: resend_webhook
-- Let a webhook be sent now, whatever became of it before.
UPDATE webhooks SET state = 'pending', due_at = $2, finished_at = NULL
WHERE id = $1 AND state <> 'waiting' AND ($3::text IS NULL OR split_part(owner, '@', 2) = $3);

-- name: prune_webhooks
-- Forget webhooks that were delivered or given up before a time; tell how many.
WITH old AS (
    SELECT id FROM webhooks WHERE finished_at < $1 ORDER BY finished_at LIMIT $2
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM webhooks USING old WHERE webhooks.id = old.id RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: put_webhook_secret
-- Keep a secret; what it replaces is the previous one.
INSERT INTO webhook_secrets AS kept (tenant, name, secret, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, name) DO UPDATE
SET previous = kept.secret, rotated_at = $4, secret = excluded.secret
RETURNING name, created_at, rotated_at;

-- name: webhook_secrets_of
-- Return a secret, and the previous one if it was replaced after a time.
SELECT secret, CASE WHEN rotated_at > $3 THEN previous END AS previous
FROM webhook_secrets WHERE tenant = $1 AND name = $2;

-- name: list_webhook_secrets
-- Return a tenant's secrets, without what they are.
SELECT name, created_at, rotated_at FROM webhook_secrets WHERE tenant = $1 ORDER BY name;

-- name: delete_webhook_secret
-- Forget a secret; tell whether there was one.
WITH deleted AS (DELETE FROM webhook_secrets WHERE tenant = $1 AND name = $2 RETURNING 1)
SELECT count(*) > 0 FROM deleted;
