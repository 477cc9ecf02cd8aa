-- name: commit_step_effects
-- Apply a batch of effects with steps in one round trip; see the function in the migrations.
SELECT outcomes, numbers, changed, changed_events, changed_statuses, changed_results,
       changed_errors, changed_at, changed_usages, changed_questions, changed_answered
FROM commit_step_effects(
    $1, $2::text::text[], $3::text::integer[], $4::text::bigint[], $5::text::integer[],
    $6::text::text[], $7::text::integer[], $8::text::integer[], $9::text::integer[],
    $10::text::json[], $11::text::text[], $12::text::json[], $13::text::json[],
    $14::text::json[], $15::text::timestamptz[], $16::text::timestamptz[], $17::text::integer[],
    $18::text::text[], $19::text::text[], $20::text::json[], $21::text::integer[],
    $22::text::integer[], $23::text::text[], $24::text::timestamptz[], $25::text::text[],
    $26::text::bigint[], $27::text::boolean[], $28::text::json[], $29::text::boolean[],
    $30::text::json[], $31::text::boolean[], $32::text::text[], $33::text::integer[],
    $34::text::bigint[], $35::text::integer[], $36::text::bigint[], $37::text::integer[],
    $38::text::text[], $39::text::text[], $40::text::integer[], $41::text::json[],
    $42::text::json[], $43::text::integer[], $44::text::text[], $45::text::integer[],
    $46::text::json[], $47::text::json[], $48::text::integer[], $49::text::bigint[],
    $50::text::json[], $51, $52);

-- name: load_messages
-- Return messages for agents of some types in some slots, in the order in which runs emitted them.
SELECT run_id, number, agent_type, agent_key, event, about, attempts
FROM step_messages
WHERE agent_type = ANY ($1::text[]) AND slot = ANY ($2::integer[]) AND (run_id, number) > ($3, $4)
ORDER BY run_id, number LIMIT $5;

-- name: begin_messages
-- Note who begins messages; one that another host had begun has one attempt more.
WITH wanted AS (
    SELECT message.run_id, message.number,
           message.host IS NOT NULL AND message.host <> $1 AS lost
    FROM unnest($2::text[], $3::bigint[]) AS asked (run_id, number)
    JOIN step_messages AS message USING (run_id, number)
    ORDER BY message.run_id, message.number FOR UPDATE OF message
)
UPDATE step_messages AS message SET host = $1, attempts = message.attempts + wanted.lost::integer
FROM wanted WHERE message.run_id = wanted.run_id AND message.number = wanted.number
RETURNING message.run_id, message.number, message.attempts;

-- name: settled_runs
-- Return those of some runs that have ended, wait, or were answered, with what a host needs.
SELECT id, status, agent_type, agent_key, result, error, attempt, correlation_id, created_at,
       started_at, finished_at, usage, questions, not_before, schedule, session,
       pool, slot, input, events, owner,
       cancel_requested, answers, delayed
FROM runs WHERE id = ANY ($1::text[])
    AND (finished_at IS NOT NULL OR status = 'waiting' OR json_array_length(answers) > 0);

-- name: drop_steps
-- Forget what is left of runs that were ended without their messages.
WITH runs AS MATERIALIZED (
    SELECT run_id FROM step_runs WHERE run_id = ANY ($1::text[]) ORDER BY run_id FOR UPDATE
), dropped AS (
    DELETE FROM step_messages WHERE run_id IN (SELECT run_id FROM runs)
)
DELETE FROM step_runs WHERE run_id IN (SELECT run_id FROM runs);
