-- What a run asks people and was told, and what it has used of its budget.

ALTER TABLE runs
    ADD COLUMN questions json,  -- an array: those that are open, the one that is asked now first
    ADD COLUMN answers json,    -- an array: in their order, each with its question
    ADD COLUMN usage json;      -- of all attempts together

-- Commit the effects of a host, and let a run wait if they were.
--
-- The commit has the run locked when the second statement looks at it: it cannot have ended since.
-- Repeated after a lost answer, it leaves a run alone that has gone on meanwhile.
CREATE FUNCTION suspend_run(
    run text, open_questions json, started timestamptz, committer text,
    pools text[], slots integer[], epochs bigint[], touch_counts integer[],
    run_ids text[],
    touch_runs integer[], first_offsets integer[], event_counts integer[], chunks json[],
    statuses text[], results json[], errors json[], traces json[],
    starts timestamptz[], finishes timestamptz[],
    state_items integer[], agent_types text[], agent_keys text[], states json[], versions integer[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    outcomes text[];
BEGIN
    outcomes := commit_effects(
        committer, pools, slots, epochs, touch_counts, run_ids, touch_runs, first_offsets,
        event_counts, chunks, statuses, results, errors, traces, starts, finishes, state_items,
        agent_types, agent_keys, states, versions);
    IF outcomes[1] = 'committed' THEN
        UPDATE runs SET status = 'waiting', questions = open_questions, host = NULL,
                        started_at = coalesce(runs.started_at, started)
        WHERE id = run AND finished_at IS NULL
            AND runs.events = first_offsets[1] + event_counts[1];
    END IF;
    RETURN outcomes[1];
END
$$;
