-- Runs that are durable per step have budgets, and wait for the answers of people. What a step uses
-- is added to its run in the step's own transaction, and so is what it asks. Where nothing else is
-- left of a run it waits instead of ending; the step that goes on with an answer is written once.

ALTER TABLE step_runs
    ADD COLUMN budget json,  -- what it may use, as the JSON of a `Budget`
    ADD COLUMN answered integer NOT NULL DEFAULT 0;  -- answers with which it has gone on

-- Return which limit of a budget is exceeded, as `core/budgets.py` does; NULL: none. The time is
-- the affair of the host that works on the run.
CREATE FUNCTION exceeded_budget(budget json, usage json) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN (usage ->> 'tokens')::bigint > (budget ->> 'tokens')::bigint
            THEN format('Its budget of %s tokens is exceeded: it used %s.',
                        budget ->> 'tokens', usage ->> 'tokens')
        WHEN (usage ->> 'tool_calls')::bigint > (budget ->> 'tool_calls')::bigint
            THEN format('Its budget of %s tool calls is exceeded: it used %s.',
                        budget ->> 'tool_calls', usage ->> 'tool_calls')
        WHEN (usage ->> 'cost')::float8 > (budget ->> 'cost')::float8
            THEN format('Its budget of cost %s is exceeded: it used %s.',
                        trim_scale(round((budget ->> 'cost')::numeric, 6)),
                        trim_scale(round((usage ->> 'cost')::numeric, 6)))
    END
$$;

DROP FUNCTION commit_step_effects(
    text, text[], integer[], bigint[], integer[], text[], integer[], integer[], integer[],
    json[], text[], json[], json[], json[], timestamptz[], timestamptz[], integer[], text[],
    text[], json[], integer[], integer[], text[], timestamptz[], text[], bigint[], boolean[],
    json[], boolean[], json[], boolean[], text[], integer[], bigint[], integer[], bigint[],
    integer[], text[], text[], integer[], json[], json[], integer[], text[], integer, integer
);

CREATE FUNCTION commit_step_effects(
    committer text,
    pools text[], slots integer[], epochs bigint[], touch_counts integer[],
    run_ids text[],
    touch_runs integer[], first_offsets integer[], event_counts integer[], chunks json[],
    statuses text[], results json[], errors json[], traces json[],
    starts timestamptz[], finishes timestamptz[],
    state_items integer[], agent_types text[], agent_keys text[], states json[], versions integer[],
    step_items integer[], step_run_ids text[], step_times timestamptz[], step_begins text[],
    step_handled bigint[], step_holds boolean[], step_answers json[], step_closes boolean[],
    step_errors json[], step_records boolean[], step_drops text[],
    holding integer[], held_numbers bigint[],
    settling integer[], settled bigint[],
    sending integer[], sent_types text[], sent_keys text[], sent_slots integer[],
    sent_events json[], sent_abouts json[],
    telling integer[], told_events text[],
    step_resumes integer[], step_budgets json[], step_questions json[],
    spending integer[], spent_numbers bigint[], usages json[],
    max_errors integer, max_recorded integer,
    OUT outcomes text[], OUT numbers bigint[],
    OUT changed text[], OUT changed_events integer[], OUT changed_statuses text[],
    OUT changed_results json[], OUT changed_errors json[], OUT changed_at timestamptz[],
    OUT changed_usages json[], OUT changed_questions json[], OUT changed_answered integer[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    alive boolean;
    -- Whether some steps begin or drop their runs; whether some are held.
    bounds boolean := cardinality(array_remove(step_begins, NULL)) > 0
        OR cardinality(array_remove(step_drops, NULL)) > 0;
    holds boolean := coalesce(true = ANY (step_holds), false);
    -- Whether some ask; whether some go on with an answer.
    asks boolean := cardinality(array_remove(step_questions::text[], NULL)) > 0;
    resumes boolean := cardinality(array_remove(step_resumes, NULL)) > 0;
    masked bigint[] := epochs;
    gone integer[];     -- items whose message is not there
    begun text[] := '{}';
    done integer[];     -- steps that are written
    dropping integer[]; -- of these, those that end their run as they say
    over text[] := '{}';       -- runs that have used more than they may
    over_whys text[] := '{}';  -- in words
BEGIN
    -- As in commit_effects: the lock first, the leases after it.
    PERFORM FROM hosts WHERE id = committer AND status <> 'dead' FOR SHARE;
    alive := FOUND;
    IF bounds THEN
        WITH new AS (
            INSERT INTO step_runs (run_id, on_error, started_at, budget)
            SELECT DISTINCT ON (step.run_id)
                step.run_id, coalesce(step.begins, 'fail'), step.at, step.budget
            FROM unnest(
                step_items, step_run_ids, step_begins, step_times, step_drops, step_budgets)
                AS step (item, run_id, begins, at, drops, budget)
            JOIN runs ON runs.id = step.run_id AND runs.finished_at IS NULL
            JOIN slot_leases AS lease
                ON lease.pool = pools[step.item] AND lease.slot = slots[step.item]
                AND lease.epoch = epochs[step.item] AND lease.host = committer
            WHERE step.begins IS NOT NULL OR step.drops IS NOT NULL
            ORDER BY step.run_id
            ON CONFLICT DO NOTHING
            RETURNING run_id
        )
        SELECT coalesce(array_agg(run_id), '{}') INTO begun FROM new;
    END IF;
    -- Locked in one order by everybody, so that two batches cannot wait for each other; and before
    -- the runs themselves.
    PERFORM FROM step_runs WHERE run_id = ANY (step_run_ids) ORDER BY run_id FOR UPDATE;
    -- The runs are locked more than once below: those of plain effects, those that are asked for or
    -- use something, those that are told something. A batch with several of these locks all of
    -- them here, or it would not be in one order.
    IF cardinality(run_ids) > 0 OR cardinality(spending) > 0 OR asks THEN
        PERFORM FROM runs WHERE id = ANY (run_ids || step_run_ids) ORDER BY id FOR UPDATE;
    END IF;

    SELECT coalesce(array_agg(item), '{}') INTO gone
    FROM (
        SELECT step.item, CASE
            WHEN step.begins IS NOT NULL THEN step.run_id <> ALL (begun)
                OR row_number() OVER (
                    PARTITION BY step.run_id, step.begins IS NULL ORDER BY step.k) > 1
            ELSE false END
            OR (step.handled IS NOT NULL AND (
                message.number IS NULL
                OR row_number() OVER (PARTITION BY step.run_id, step.handled ORDER BY step.k) > 1))
            OR (step.drops IS NOT NULL
                AND NOT EXISTS (SELECT FROM step_runs WHERE step_runs.run_id = step.run_id))
            OR (step.resumes IS NOT NULL AND (
                NOT EXISTS (SELECT FROM step_runs WHERE step_runs.run_id = step.run_id
                    AND step_runs.answered < step.resumes)
                OR row_number() OVER (PARTITION BY step.run_id, step.resumes ORDER BY step.k) > 1))
            AS is_gone
        FROM unnest(
            step_items, step_run_ids, step_begins, step_handled, step_drops, step_resumes)
            WITH ORDINALITY AS step (item, run_id, begins, handled, drops, resumes, k)
        LEFT JOIN step_messages AS message
            ON message.run_id = step.run_id AND message.number = step.handled
    ) AS judged WHERE is_gone;

    IF cardinality(run_ids) > 0 OR cardinality(state_items) > 0 THEN
        FOR n IN 1 .. cardinality(gone) LOOP
            masked[gone[n]] := -1;  -- an epoch that is none
        END LOOP;
        outcomes := commit_effects(
            committer, pools, slots, masked, touch_counts, run_ids, touch_runs, first_offsets,
            event_counts, chunks, statuses, results, errors, traces, starts, finishes,
            state_items, agent_types, agent_keys, states, versions
        );
    ELSE
        outcomes := array_fill('committed'::text, ARRAY[cardinality(pools)]);
    END IF;
    -- Of what is not written: whether it is fenced or gone. Where there is nothing but steps, the
    -- leases are looked at here alone.
    SELECT array_agg(
        CASE WHEN NOT alive OR lease.host IS NULL THEN 'fenced'
             WHEN item = ANY (gone) THEN 'gone' ELSE outcome END
        ORDER BY item)
    INTO outcomes
    FROM unnest(outcomes, pools, slots, epochs) WITH ORDINALITY
        AS judged (outcome, pool, slot, epoch, item)
    LEFT JOIN slot_leases AS lease
        ON lease.pool = judged.pool AND lease.slot = judged.slot
        AND lease.epoch = judged.epoch AND lease.host = committer;

    SELECT coalesce(array_agg(k ORDER BY k), '{}'),
           coalesce(array_agg(k ORDER BY k) FILTER (WHERE drops IS NOT NULL), '{}')
    INTO done, dropping
    FROM unnest(step_items, step_drops) WITH ORDINALITY AS step (item, drops, k)
    WHERE outcomes[item] = 'committed';

    IF cardinality(spending) > 0 THEN
        WITH used AS (  -- of each message once, and only while it is there
            SELECT DISTINCT ON (
                step_run_ids[k], spent.number, CASE WHEN spent.number IS NULL THEN n END)
                step_run_ids[k] AS run_id, (usage ->> 'tokens')::bigint AS tokens,
                (usage ->> 'tool_calls')::bigint AS tool_calls, (usage ->> 'cost')::float8 AS cost
            FROM unnest(spending, spent_numbers, usages) WITH ORDINALITY
                AS spent (k, number, usage, n)
            LEFT JOIN step_messages AS message
                ON message.run_id = step_run_ids[k] AND message.number = spent.number
            WHERE outcomes[step_items[k]] = 'committed'
                AND (spent.number IS NULL OR message.number IS NOT NULL)
            ORDER BY step_run_ids[k], spent.number, CASE WHEN spent.number IS NULL THEN n END, n
        ), total AS (
            SELECT run_id, sum(tokens) AS tokens, sum(tool_calls) AS tool_calls, sum(cost) AS cost
            FROM used GROUP BY run_id
        )
        UPDATE runs SET usage = json_build_object(
            'wall_s', coalesce((usage ->> 'wall_s')::float8, 0),
            'tokens', coalesce((usage ->> 'tokens')::bigint, 0) + total.tokens,
            'tool_calls', coalesce((usage ->> 'tool_calls')::bigint, 0) + total.tool_calls,
            'cost', coalesce((usage ->> 'cost')::float8, 0) + total.cost)
        FROM total WHERE runs.id = total.run_id AND runs.finished_at IS NULL;
    END IF;
    IF asks THEN
        UPDATE runs SET questions = (
            SELECT json_agg(question ORDER BY source, n) FROM (
                SELECT 0 AS source, n, question FROM json_array_elements(
                    coalesce(runs.questions, '[]')) WITH ORDINALITY AS kept (question, n)
                UNION ALL
                SELECT k, n, question FROM unnest(step_run_ids, step_items, step_questions)
                    WITH ORDINALITY AS step (run_id, item, questions, k)
                CROSS JOIN LATERAL json_array_elements(step.questions) WITH ORDINALITY
                    AS asked (question, n)
                WHERE step.run_id = runs.id AND outcomes[step.item] = 'committed'
            ) AS all_of)
        WHERE finished_at IS NULL AND id IN (
            SELECT run_id FROM unnest(step_run_ids, step_items, step_questions)
                AS step (run_id, item, questions)
            WHERE step.questions IS NOT NULL AND outcomes[step.item] = 'committed');
    END IF;
    IF resumes THEN
        UPDATE step_runs SET answered = step.answered
        FROM (SELECT run_id, max(resumes) AS answered
              FROM unnest(step_run_ids, step_items, step_resumes) AS s (run_id, item, resumes)
              WHERE resumes IS NOT NULL AND outcomes[item] = 'committed' GROUP BY run_id) AS step
        WHERE step_runs.run_id = step.run_id;
    END IF;

    IF holds THEN
        WITH step AS MATERIALIZED (
            SELECT * FROM unnest(step_items, step_run_ids, step_handled, step_holds)
                WITH ORDINALITY AS s (item, run_id, handled, holds, k)
            WHERE outcomes[item] = 'committed'
        ), holder AS (  -- the agents that hold messages, with the last step of each
            SELECT DISTINCT ON (step.run_id, agent_type, agent_key)
                step.run_id, step.k, agent_type, agent_key
            FROM step JOIN step_messages AS message
                ON message.run_id = step.run_id AND message.number = step.handled
            WHERE step.holds
            ORDER BY step.run_id, agent_type, agent_key, step.k DESC
        ), keeping AS (
            UPDATE step_messages AS message SET held = NOT message.held
            FROM holder
            WHERE message.run_id = holder.run_id AND message.agent_type = holder.agent_type
                AND message.agent_key = holder.agent_key
                AND message.held <> EXISTS (
                    SELECT FROM unnest(holding, held_numbers) AS other (k, number)
                    WHERE other.k = holder.k AND other.number = message.number)
                AND NOT EXISTS (  -- one that is removed is not changed, too
                    SELECT FROM unnest(settling, settled) AS other (k, number)
                    JOIN step AS settler ON settler.k = other.k
                    WHERE settler.run_id = message.run_id AND other.number = message.number)
                AND NOT EXISTS (
                    SELECT FROM step AS remover
                    WHERE remover.run_id = message.run_id AND remover.handled = message.number
                        AND NOT remover.holds)
            RETURNING message.run_id, message.held
        ), change AS (
            SELECT run_id, count(*) FILTER (WHERE held) - count(*) FILTER (WHERE NOT held) AS held
            FROM keeping GROUP BY run_id
        )
        UPDATE step_runs AS run SET held = run.held + change.held
        FROM change WHERE run.run_id = change.run_id;
    END IF;

    WITH step AS MATERIALIZED (
        SELECT * FROM unnest(
            step_items, step_run_ids, step_handled, step_holds, step_answers, step_closes,
            step_errors)
            WITH ORDINALITY AS s (item, run_id, handled, holds, answer, closes, errors, k)
        WHERE outcomes[item] = 'committed'
    ), closing AS (
        SELECT run_id, min(k) AS k FROM step WHERE closes GROUP BY run_id
    ), message AS (  -- that is emitted, and whether its run takes it
        SELECT message.n, run.run_id, run.emitted,
            coalesce(outcomes[step_items[message.k]] = 'committed' AND NOT run.closed
                AND (closing.k IS NULL OR message.k <= closing.k), false) AS taken
        FROM unnest(sending) WITH ORDINALITY AS message (k, n)
        LEFT JOIN step_runs AS run ON run.run_id = step_run_ids[message.k]
        LEFT JOIN closing ON closing.run_id = run.run_id
    ), sent AS MATERIALIZED (
        SELECT n, run_id, taken, CASE WHEN taken THEN emitted
            + count(*) FILTER (WHERE taken) OVER (PARTITION BY run_id ORDER BY n) END AS number
        FROM message
    ), inserted AS (
        INSERT INTO step_messages (run_id, number, agent_type, agent_key, slot, event, about)
        SELECT run_id, number, sent_types[n], sent_keys[n], sent_slots[n], sent_events[n],
            sent_abouts[n]
        FROM sent WHERE taken
    ), removed AS (
        DELETE FROM step_messages AS message
        USING (
            SELECT run_id, handled AS number FROM step WHERE handled IS NOT NULL AND NOT holds
            UNION ALL
            SELECT step_run_ids[other.k], other.number
            FROM unnest(settling, settled) AS other (k, number)
            WHERE outcomes[step_items[other.k]] = 'committed'
        ) AS finished
        WHERE message.run_id = finished.run_id AND message.number = finished.number
        RETURNING message.run_id, message.held
    ), change AS (
        SELECT run_id, sum(sent) AS sent, sum(removed) AS removed, sum(held) AS held
        FROM (
            SELECT run_id, count(*) AS sent, 0 AS removed, 0 AS held
            FROM sent WHERE taken GROUP BY run_id
            UNION ALL
            SELECT run_id, 0, count(*), - count(*) FILTER (WHERE held) FROM removed GROUP BY run_id
            UNION ALL  -- each run of the batch, also one that nothing happens to
            SELECT run_id, 0, 0, 0 FROM step GROUP BY run_id
        ) AS changes GROUP BY run_id
    ), said AS (
        SELECT run_id, bool_or(closes) AS closes,
            (array_agg(answer ORDER BY k) FILTER (WHERE answer IS NOT NULL))[1] AS answer
        FROM step GROUP BY run_id
    ), failed AS (
        SELECT step.run_id, array_agg(error.value ORDER BY step.k, error.n) AS errors
        FROM step CROSS JOIN LATERAL json_array_elements(step.errors) WITH ORDINALITY
            AS error (value, n)
        GROUP BY step.run_id
    ), updated AS (
        UPDATE step_runs AS run SET
            emitted = run.emitted + change.sent,
            outstanding = run.outstanding + change.sent - change.removed,
            held = run.held + change.held,
            closed = run.closed OR said.closes,
            answer = coalesce(run.answer, said.answer),
            errors = (run.errors || failed.errors)[1:max_errors],
            more_errors = run.more_errors + greatest(0, cardinality(run.errors)
                + coalesce(cardinality(failed.errors), 0) - max_errors)
        FROM change JOIN said USING (run_id) LEFT JOIN failed USING (run_id)
        WHERE run.run_id = change.run_id
    )
    SELECT array_agg(number ORDER BY n) INTO numbers FROM sent;

    IF cardinality(spending) > 0 THEN
        SELECT coalesce(array_agg(run_id), '{}'), coalesce(array_agg(why), '{}')
        INTO over, over_whys
        FROM (
            SELECT run_id, exceeded_budget(budget, usage) AS why
            FROM step_runs JOIN runs ON runs.id = step_runs.run_id
            WHERE run_id = ANY (step_run_ids) AND budget IS NOT NULL AND answer IS NULL
        ) AS looked_at WHERE why IS NOT NULL;
    END IF;

    -- What runs are told: their new events, and the ends of those of which nothing is left. Where
    -- one asks something it waits instead.
    SELECT coalesce(array_agg(run_id ORDER BY run_id), '{}') INTO changed FROM (
        SELECT run_id FROM step_runs
        WHERE run_id = ANY (step_run_ids) AND outstanding = held
        UNION
        SELECT step_run_ids[k] FROM unnest(dropping) AS step (k)
        UNION
        SELECT step_run_ids[k] FROM unnest(telling) AS event (k) WHERE k = ANY (done)
        UNION
        SELECT step_run_ids[k] FROM unnest(spending) AS used (k) WHERE k = ANY (done)
    ) AS found;
    IF cardinality(changed) > 0 THEN
        PERFORM FROM runs WHERE id = ANY (changed) ORDER BY id FOR UPDATE;
        WITH looked_at AS MATERIALIZED (
            SELECT step_runs.*, runs.events AS first, runs.questions, runs.usage,
                -- Neither while it waits, nor before it has gone on with the answer that it has.
                outstanding = held AND runs.status <> 'waiting'
                    AND step_runs.answered = coalesce(json_array_length(runs.answers), 0) AS quiet,
                step_runs.answer IS NULL AND json_array_length(runs.questions) > 0
                    AND NOT (on_error = 'fail' AND cardinality(step_runs.errors) > 0) AS open
            FROM step_runs JOIN runs ON runs.id = step_runs.run_id
            WHERE step_runs.run_id = ANY (changed) AND runs.finished_at IS NULL
        ), run AS MATERIALIZED (
            SELECT step_runs.run_id, step_runs.started_at, answer, recorded, unrecorded,
                first, questions, usage, answered,
                quiet AND NOT coalesce(open, false)
                    OR forced.status IS NOT NULL OR excess.why IS NOT NULL AS ended,
                quiet AND open AND forced.status IS NULL AND excess.why IS NULL AS waits,
                CASE WHEN forced.status <> 'succeeded' THEN forced.status
                     WHEN excess.why IS NOT NULL THEN 'budget_exceeded'
                     WHEN on_error = 'fail' AND cardinality(step_runs.errors) > 0 THEN 'failed'
                     ELSE 'succeeded' END AS status,
                CASE WHEN forced.status <> 'succeeded' THEN forced.errors
                     WHEN excess.why IS NOT NULL THEN ARRAY[json_build_object(
                        'type', 'BudgetExceeded', 'message', excess.why,
                        'agent', NULL, 'path', '[]'::json)]
                     WHEN more_errors = 0 THEN step_runs.errors
                     ELSE step_runs.errors || json_build_object(
                        'type', 'MoreErrors',
                        'message', more_errors || ' more errors are not listed.',
                        'agent', NULL, 'path', '[]'::json) END AS errors,
                (SELECT max(at) FROM unnest(step_run_ids, step_times) AS step (id, at)
                 WHERE id = step_runs.run_id) AS at
            FROM looked_at AS step_runs
            LEFT JOIN unnest(over, over_whys) AS excess (run_id, why) USING (run_id)
            LEFT JOIN LATERAL (
                SELECT step_drops[k] AS status, ARRAY(
                    SELECT value FROM json_array_elements(step_errors[k])) AS errors
                FROM unnest(dropping) AS step (k)
                WHERE step_run_ids[k] = step_runs.run_id ORDER BY k LIMIT 1
            ) AS forced ON true
        ), event AS (
            SELECT run.run_id, run.first, run.recorded, message.n, message.told,
                step_records[message.k] AS records
            FROM unnest(telling, told_events) WITH ORDINALITY AS message (k, told, n)
            JOIN run ON run.run_id = step_run_ids[message.k]
            WHERE message.k = ANY (done)
        ), wanted AS (
            SELECT run_id, first, n, told, records FROM event
            WHERE NOT records OR recorded < max_recorded
            UNION ALL
            SELECT run_id, first, 2147483647, concat(
                '"kind":', to_json(status), ',"time":', to_json(at), ',"data":{',
                CASE WHEN status <> 'succeeded' AND cardinality(errors) > 0
                     THEN concat('"error":', errors[1])
                     ELSE concat('"result":', coalesce(answer, 'null'),
                         CASE WHEN cardinality(errors) > 0
                              THEN concat(',"errors":', array_to_json(errors)) END) END,
                CASE WHEN usage IS NOT NULL THEN concat(',"usage":', usage) END,
                CASE WHEN unrecorded > 0 THEN concat(',"unrecorded":', unrecorded) END,
                '}}'), false
            FROM run WHERE ended
            UNION ALL
            SELECT run_id, first, 2147483647, concat(
                '"kind":"waiting","time":', to_json(at), ',"data":{"question":', questions -> 0,
                '}}'), false
            FROM run WHERE waits
        ), numbered AS (
            SELECT run_id, first, told, records,
                first + row_number() OVER (PARTITION BY run_id ORDER BY n) - 1 AS place
            FROM wanted
        ), chunk AS MATERIALIZED (
            SELECT run_id, first, count(*) AS events, count(*) FILTER (WHERE records) AS records,
                concat('[', string_agg(concat('{"offset":', place, ',', told), ',' ORDER BY place),
                    ']')::json AS text
            FROM numbered GROUP BY run_id, first
        ), inserted AS (
            INSERT INTO run_events (run_id, first_offset, events)
            SELECT run_id, first, text FROM chunk
        ), counted AS (
            UPDATE step_runs SET
                recorded = step_runs.recorded + all_of.taken,
                unrecorded = step_runs.unrecorded + all_of.records - all_of.taken
            FROM (SELECT event.run_id, count(*) AS records,
                      CASE WHEN event.recorded < max_recorded THEN count(*) ELSE 0 END AS taken
                  FROM event WHERE records GROUP BY event.run_id, event.recorded) AS all_of
            WHERE step_runs.run_id = all_of.run_id
        ), written AS (
            UPDATE runs SET
                events = runs.events + coalesce(chunk.events, 0),
                status = CASE WHEN run.ended THEN run.status
                              WHEN run.waits THEN 'waiting' ELSE runs.status END,
                host = CASE WHEN NOT run.waits THEN runs.host END,
                result = CASE WHEN run.ended AND run.status = 'succeeded' THEN run.answer END,
                error = CASE WHEN run.ended AND cardinality(run.errors) > 0 THEN
                    CASE WHEN cardinality(run.errors) = 1 THEN run.errors[1]
                         ELSE concat(left(run.errors[1]::text, -1), ',"others":',
                             array_to_json(run.errors[2:]), '}')::json END END,
                started_at = coalesce(runs.started_at,
                    CASE WHEN run.ended OR run.waits THEN run.started_at END),
                finished_at = CASE WHEN run.ended THEN run.at END
            FROM run LEFT JOIN chunk ON chunk.run_id = run.run_id
            WHERE runs.id = run.run_id
            RETURNING runs.id, runs.events, runs.status, runs.result, runs.error,
                coalesce(runs.finished_at, CASE WHEN runs.status = 'waiting' THEN run.at END)
                    AS settled_at,
                runs.usage, run.answered,
                CASE WHEN runs.status = 'waiting' THEN runs.questions -> 0 END AS question
        )
        SELECT coalesce(array_agg(id), '{}'), array_agg(events), array_agg(status),
               array_agg(result), array_agg(error), array_agg(settled_at),
               array_agg(usage), array_agg(question), array_agg(answered)
        INTO changed, changed_events, changed_statuses, changed_results, changed_errors, changed_at,
             changed_usages, changed_questions, changed_answered
        FROM written;
        -- What is left of runs that have ended: messages that are held, or dropped.
        DELETE FROM step_messages WHERE run_id IN (
            SELECT run_id FROM step_runs JOIN runs ON runs.id = step_runs.run_id
            WHERE run_id = ANY (changed) AND outstanding > 0 AND finished_at IS NOT NULL);
        DELETE FROM step_runs USING runs
        WHERE runs.id = step_runs.run_id AND run_id = ANY (changed) AND finished_at IS NOT NULL;
    END IF;
END
$$;
