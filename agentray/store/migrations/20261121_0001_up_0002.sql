-- Launched agents get a life: a status, an owner, options. Labels are looked for, hence jsonb.

ALTER TABLE launched_agents
    ALTER COLUMN labels TYPE jsonb USING labels::jsonb,
    ADD COLUMN status      text NOT NULL DEFAULT 'running',
    ADD COLUMN owner_type  text COLLATE "C",
    ADD COLUMN owner_key   text COLLATE "C",
    ADD COLUMN driver      text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN last_error  text NOT NULL DEFAULT '',
    ADD COLUMN options     json NOT NULL DEFAULT '{}',
    ADD COLUMN max_retries integer;

CREATE INDEX launched_agents_labels ON launched_agents USING gin (labels jsonb_path_ops);
CREATE INDEX launched_agents_newest ON launched_agents (launched_at DESC, agent_type, agent_key);
CREATE INDEX launched_agents_owned ON launched_agents (owner_type, owner_key)
    WHERE owner_type IS NOT NULL;
CREATE INDEX launched_agents_of_drivers ON launched_agents (driver)
    WHERE driver <> '' AND status IN ('registered', 'running');

-- Keep, replace or forget launched agents for a host; return an outcome for each write.
--
-- The check is that of commit_effects: whoever has lost a slot cannot write for it any more. NULL
-- as `committer` writes without it.
CREATE FUNCTION keep_launched(
    committer text,
    pools text[], slots integer[], epochs bigint[], forgets boolean[], state_deletes boolean[],
    types text[], keys text[], arguments_ bytea[], labels_ jsonb[], times timestamptz[],
    statuses text[], owner_types text[], owner_keys text[], drivers text[], errors text[],
    options_ json[], retries integer[]
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    outcomes text[] := array_fill('committed'::text, ARRAY[cardinality(types)]);
    counting integer[];  -- of each agent the last write that may be done
BEGIN
    IF committer IS NOT NULL THEN
        PERFORM FROM hosts WHERE id = committer AND status <> 'dead' FOR SHARE;
        IF NOT FOUND THEN
            RETURN array_fill('fenced'::text, ARRAY[cardinality(types)]);
        END IF;
        SELECT array_agg(CASE WHEN lease.host IS NULL THEN 'fenced' ELSE 'committed' END ORDER BY n)
        INTO outcomes
        FROM unnest(pools, slots, epochs) WITH ORDINALITY AS writes (pool, slot, epoch, n)
        LEFT JOIN slot_leases AS lease
            ON lease.pool = writes.pool AND lease.slot = writes.slot
            AND lease.epoch = writes.epoch AND lease.host = committer;
    END IF;
    SELECT array_agg(last) INTO counting FROM (
        SELECT max(n) AS last FROM unnest(types, keys) WITH ORDINALITY AS w (type, key, n)
        WHERE outcomes[n] = 'committed' GROUP BY type, key
    ) AS of_agents;

    DELETE FROM launched_agents AS known
    USING unnest(types, keys, forgets) WITH ORDINALITY AS w (type, key, forget, n)
    WHERE w.n = ANY (counting) AND w.forget
        AND known.agent_type = w.type AND known.agent_key = w.key;
    DELETE FROM agent_states AS known
    USING unnest(types, keys, state_deletes) WITH ORDINALITY AS w (type, key, delete_state, n)
    WHERE w.n = ANY (counting) AND w.delete_state
        AND known.agent_type = w.type AND known.agent_key = w.key;

    -- Sorted, so that two calls cannot wait for each other.
    INSERT INTO launched_agents (agent_type, agent_key, arguments, labels, launched_at, status,
                                 owner_type, owner_key, driver, last_error, options, max_retries)
    SELECT types[n], keys[n], arguments_[n], labels_[n], times[n], statuses[n],
           owner_types[n], owner_keys[n], drivers[n], errors[n], options_[n], retries[n]
    FROM unnest(counting) AS n WHERE NOT forgets[n]
    ORDER BY types[n] COLLATE "C", keys[n] COLLATE "C"
    ON CONFLICT (agent_type, agent_key) DO UPDATE SET
        arguments = excluded.arguments, labels = excluded.labels,
        launched_at = excluded.launched_at, status = excluded.status,
        owner_type = excluded.owner_type, owner_key = excluded.owner_key,
        driver = excluded.driver, last_error = excluded.last_error, options = excluded.options,
        max_retries = excluded.max_retries;
    RETURN outcomes;
END
$$;
