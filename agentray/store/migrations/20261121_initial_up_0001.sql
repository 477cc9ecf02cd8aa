-- The first schema. JSON is kept as `json`, not `jsonb`: nothing here looks inside it, and the text
-- of `json` gives back exactly what was written (1e16 stays a float, a NUL stays a NUL).
-- Keys sort by bytes (COLLATE "C"), as Python sorts them, and independent of the server's locale.

CREATE TABLE runs (
    id              text COLLATE "C" PRIMARY KEY,  -- sorts by the time of its making
    status          text NOT NULL,
    agent_type      text NOT NULL,
    agent_key       text NOT NULL,
    pool            text NOT NULL,
    slot            integer NOT NULL,
    input           json NOT NULL,
    result          json,
    error           json,
    trace           json,
    attempt         integer NOT NULL DEFAULT 1,
    events          integer NOT NULL DEFAULT 0,    -- how many are stored: the next offset
    host            text,                          -- that moved it to running
    correlation_id  text NOT NULL,
    owner           text NOT NULL,
    idempotency_key text,
    digest          text NOT NULL,
    created_at      timestamptz NOT NULL,
    started_at      timestamptz,
    finished_at     timestamptz,
    CONSTRAINT runs_finished_when_terminal CHECK
        ((finished_at IS NULL) = (status IN ('queued', 'running', 'waiting')))
) WITH (fillfactor = 85);  -- room for the two updates that nearly every run gets

-- On finished_at and not on status, so that a move from queued to running changes no index.
CREATE INDEX runs_unfinished ON runs (created_at, id) WHERE finished_at IS NULL;

CREATE UNIQUE INDEX runs_idempotency ON runs (owner, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE run_events (
    run_id       text COLLATE "C" NOT NULL,  -- no foreign key: commit_effects has the run locked
    first_offset integer NOT NULL,
    events       json NOT NULL,              -- an array: a row for each event would be mostly overhead
    PRIMARY KEY (run_id, first_offset)
);

CREATE TABLE agent_states (
    agent_type     text COLLATE "C" NOT NULL,
    agent_key      text COLLATE "C" NOT NULL,
    state          json NOT NULL,
    schema_version integer NOT NULL,
    PRIMARY KEY (agent_type, agent_key)
) WITH (fillfactor = 85);

CREATE TABLE hosts (
    id         text COLLATE "C" PRIMARY KEY,
    pool       text NOT NULL,
    actor_name text NOT NULL,
    status     text NOT NULL,
    node_id    text NOT NULL,
    pid        bigint NOT NULL,
    reason     text NOT NULL
);

CREATE TABLE slot_leases (
    pool  text COLLATE "C" NOT NULL,
    slot  integer NOT NULL,
    host  text,
    epoch bigint NOT NULL,
    PRIMARY KEY (pool, slot)
);

CREATE TABLE apps (
    name          text COLLATE "C" PRIMARY KEY,
    position      bigint GENERATED ALWAYS AS IDENTITY,  -- in the order of the first deployments
    spec          bytea NOT NULL,
    import_string text NOT NULL,
    digest        text NOT NULL,
    status        text NOT NULL,
    deployed_at   timestamptz NOT NULL
);

CREATE TABLE launched_agents (
    agent_type  text COLLATE "C" NOT NULL,
    agent_key   text COLLATE "C" NOT NULL,
    arguments   bytea NOT NULL,
    labels      json NOT NULL,
    launched_at timestamptz NOT NULL,
    PRIMARY KEY (agent_type, agent_key)
);

CREATE TABLE api_keys (
    id         text COLLATE "C" PRIMARY KEY,
    digest     text NOT NULL UNIQUE,
    label      text NOT NULL,
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);

CREATE TABLE dead_letters (
    id             text COLLATE "C" PRIMARY KEY,
    kind           text NOT NULL,
    reason         text NOT NULL,
    target         text NOT NULL,
    payload        json NOT NULL,
    correlation_id text NOT NULL,
    created_at     timestamptz NOT NULL
);

-- Apply a batch of Effects for a host, each as a whole or not at all; return an outcome for each.
--
-- Effects are numbered by their place in `pools`. What they do to runs are touches, in the same
-- order: as many for each as `touch_counts` says. A touch names its run by the place in `run_ids`,
-- which has each run once, and has a status where it ends the run.
--
-- Errors (nothing of the batch is written): AR001 a gap in the offsets, AR002 an unknown run.
CREATE FUNCTION commit_effects(
    committer text,
    pools text[], slots integer[], epochs bigint[], touch_counts integer[],
    run_ids text[],
    touch_runs integer[], first_offsets integer[], event_counts integer[], chunks json[],
    statuses text[], results json[], errors json[], traces json[],
    starts timestamptz[], finishes timestamptz[],
    state_items integer[], agent_types text[], agent_keys text[], states json[], versions integer[]
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    outcomes text[];
    stored integer[];  -- of each run: how many events it has; NULL: there is no such run
    ended boolean[];   -- of each run
    -- Of each run: the touch that ends it.
    ending integer[] := array_fill(NULL::integer, ARRAY[cardinality(run_ids)]);
    -- Of each touch: the first offset that is not stored yet; NULL: all are.
    new_from integer[] := array_fill(NULL::integer, ARRAY[cardinality(touch_runs)]);
    run integer;
    first_touch integer := 1;
    last_touch integer;
BEGIN
    -- The lock comes first and every later statement sees what was committed before it was granted.
    -- So either assign_slots waits for this transaction, or the leases below are its new ones.
    PERFORM FROM hosts WHERE id = committer AND status <> 'dead' FOR SHARE;
    IF NOT FOUND THEN
        RETURN array_fill('fenced'::text, ARRAY[cardinality(pools)]);
    END IF;
    SELECT array_agg(CASE WHEN lease.host IS NULL THEN 'fenced' ELSE 'committed' END ORDER BY n)
    INTO outcomes
    FROM unnest(pools, slots, epochs) WITH ORDINALITY AS effects (pool, slot, epoch, n)
    LEFT JOIN slot_leases AS lease
        ON lease.pool = effects.pool AND lease.slot = effects.slot
        AND lease.epoch = effects.epoch AND lease.host = committer;

    -- Locked in one order by everybody, so that two batches cannot wait for each other.
    PERFORM FROM runs WHERE id = ANY (run_ids) ORDER BY id FOR UPDATE;
    SELECT array_agg(runs.events ORDER BY n), array_agg(runs.finished_at IS NOT NULL ORDER BY n)
    INTO stored, ended
    FROM unnest(run_ids) WITH ORDINALITY AS wanted (id, n) LEFT JOIN runs ON runs.id = wanted.id;

    FOR item IN 1 .. cardinality(pools) LOOP
        last_touch := first_touch + touch_counts[item] - 1;
        FOR t IN first_touch .. last_touch LOOP
            EXIT WHEN outcomes[item] <> 'committed';
            run := touch_runs[t];
            IF stored[run] IS NULL THEN
                RAISE EXCEPTION '%', run_ids[run] USING ERRCODE = 'AR002';
            ELSIF ended[run] THEN
                IF statuses[t] IS NOT NULL OR first_offsets[t] + event_counts[t] > stored[run] THEN
                    outcomes[item] := 'already_ended';
                END IF;
            ELSIF event_counts[t] > 0 AND first_offsets[t] > stored[run] THEN
                RAISE EXCEPTION 'The next event of run % has offset %, not %.',
                    run_ids[run], stored[run], first_offsets[t] USING ERRCODE = 'AR001';
            END IF;
        END LOOP;
        FOR t IN first_touch .. last_touch LOOP
            EXIT WHEN outcomes[item] <> 'committed';
            run := touch_runs[t];
            IF first_offsets[t] + event_counts[t] > stored[run] THEN
                new_from[t] := stored[run];
                stored[run] := first_offsets[t] + event_counts[t];
            END IF;
            IF statuses[t] IS NOT NULL THEN
                ended[run] := true;
                ending[run] := t;
            END IF;
        END LOOP;
        first_touch := last_touch + 1;
    END LOOP;

    INSERT INTO run_events (run_id, first_offset, events)
    SELECT run_ids[touch.run], touch.new_from,
        CASE WHEN touch.first_offset = touch.new_from THEN touch.chunk
             ELSE json_tail(touch.chunk, touch.new_from - touch.first_offset) END
    FROM unnest(touch_runs, first_offsets, new_from, chunks)
        AS touch (run, first_offset, new_from, chunk)
    WHERE touch.new_from IS NOT NULL;

    UPDATE runs SET
        events = changed.events,
        status = coalesce(statuses[changed.ending], runs.status),
        result = results[changed.ending],
        error = errors[changed.ending],
        trace = traces[changed.ending],
        started_at = coalesce(starts[changed.ending], runs.started_at),
        finished_at = finishes[changed.ending]
    FROM unnest(run_ids, stored, ending) AS changed (id, events, ending)
    WHERE runs.id = changed.id
        AND (changed.ending IS NOT NULL OR changed.events > runs.events);

    -- The last state of an agent wins; sorted for the same reason as the locks on the runs.
    INSERT INTO agent_states (agent_type, agent_key, state, schema_version)
    SELECT DISTINCT ON (agent_type, agent_key) agent_type, agent_key, state, version
    FROM unnest(state_items, agent_types, agent_keys, states, versions) WITH ORDINALITY
        AS written (item, agent_type, agent_key, state, version, n)
    WHERE outcomes[item] = 'committed'
    ORDER BY agent_type, agent_key, n DESC
    ON CONFLICT (agent_type, agent_key)
        DO UPDATE SET state = excluded.state, schema_version = excluded.schema_version;
    RETURN outcomes;
END
$$;

-- Return a JSON array without its first elements.
CREATE FUNCTION json_tail(elements json, skip integer) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT json_agg(element ORDER BY n)
    FROM json_array_elements(elements) WITH ORDINALITY AS e (element, n)
    WHERE n > skip
$$;

-- Declare hosts dead and lease slots, raising their epochs; return the leases in the order given.
--
-- When it returns, no commit of a former holder can succeed: those under way were waited for, and
-- later ones find the new epochs (see commit_effects).
CREATE FUNCTION assign_slots(
    pools text[], slots integer[], holders text[], dead_ids text[], dead_reasons text[]
) RETURNS TABLE (pool text, slot integer, host text, epoch bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- One at a time, or the former holders could change between reading and locking them.
    PERFORM pg_advisory_xact_lock(hashtext('agentray.assign_slots'));
    PERFORM FROM hosts
    WHERE id = ANY (dead_ids) OR id IN (
        SELECT lease.host FROM slot_leases AS lease
        JOIN unnest(pools, slots) AS wanted (pool, slot)
            ON wanted.pool = lease.pool AND wanted.slot = lease.slot
    )
    ORDER BY id FOR UPDATE;
    UPDATE hosts SET status = 'dead', reason = dead.reason
    FROM unnest(dead_ids, dead_reasons) AS dead (id, reason)
    WHERE hosts.id = dead.id AND hosts.status <> 'dead';
    RETURN QUERY
    WITH assigned AS (
        INSERT INTO slot_leases AS lease (pool, slot, host, epoch)
        SELECT wanted.pool, wanted.slot, wanted.host, 1
        FROM unnest(pools, slots, holders) AS wanted (pool, slot, host)
        ON CONFLICT (pool, slot) DO UPDATE SET host = excluded.host, epoch = lease.epoch + 1
        RETURNING lease.pool, lease.slot, lease.host, lease.epoch
    )
    SELECT assigned.pool, assigned.slot, assigned.host, assigned.epoch
    FROM unnest(pools, slots) WITH ORDINALITY AS wanted (pool, slot, n)
    JOIN assigned ON assigned.pool = wanted.pool AND assigned.slot = wanted.slot
    ORDER BY wanted.n;
END
$$;
