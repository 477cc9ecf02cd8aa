-- A step that answers its run has used what it has used before that: beyond the budget, the run is
-- `budget_exceeded`, as without `durability="step"`. Only an answer that was kept before counts.

DO $migration$
DECLARE
    body text := pg_get_functiondef('commit_step_effects'::regproc);
    changed text := body;
BEGIN
    -- The function is long; what changes are three places in it.
    changed := replace(changed, $$    over text[] := '{}'; $$,
        $$    answered_before text[] := '{}';
    over text[] := '{}'; $$);
    changed := replace(changed, $$    alive := FOUND;
$$, $$    alive := FOUND;
    IF cardinality(spending) > 0 THEN
        SELECT coalesce(array_agg(run_id), '{}') INTO answered_before FROM step_runs
        WHERE run_id = ANY (step_run_ids) AND answer IS NOT NULL;
    END IF;
$$);
    changed := replace(changed, 'budget IS NOT NULL AND answer IS NULL',
        'budget IS NOT NULL AND run_id <> ALL (answered_before)');
    IF length(changed) - length(body) <> 254 THEN
        RAISE 'commit_step_effects is not what it was: % characters more', length(changed) - length(body);
    END IF;
    EXECUTE changed;
END
$migration$;
