-- Sessions: a keyed agent and the ordered runs of its prompts.

CREATE TABLE sessions (
    id           text COLLATE "C" PRIMARY KEY,
    agent_type   text COLLATE "C" NOT NULL,
    agent_key    text COLLATE "C" NOT NULL,
    access_level text NOT NULL,
    title        text,
    labels       jsonb NOT NULL,
    metadata     json NOT NULL,
    ttl_s        double precision,
    owner        text COLLATE "C" NOT NULL,
    tenant       text COLLATE "C",
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    copied_from  text,
    version      bigint NOT NULL,
    gone_at      timestamptz,                     -- nobody finds it any more; it is being forgotten
    turns        bigint NOT NULL DEFAULT 0,       -- runs so far: the number of the last one
    rolling_back boolean NOT NULL DEFAULT false,  -- before the next run begins
    kept_for     text,                            -- the last run that began
    kept_state   json,                            -- the agent's state before it; NULL: it had none
    kept_version integer
) WITH (fillfactor = 70);  -- each prompt updates it

CREATE UNIQUE INDEX sessions_agent ON sessions (agent_type, agent_key);
CREATE INDEX sessions_owner ON sessions (owner, id);
CREATE INDEX sessions_labels ON sessions USING gin (labels jsonb_path_ops);
CREATE INDEX sessions_expiry ON sessions (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX sessions_gone ON sessions (id) WHERE gone_at IS NOT NULL;

CREATE TABLE session_runs (
    session     text COLLATE "C" NOT NULL,
    number      bigint NOT NULL,
    run_id      text COLLATE "C" NOT NULL,  -- of this session, or of the one that it is a copy of
    rolled_back boolean NOT NULL DEFAULT false,
    PRIMARY KEY (session, number)
);
CREATE INDEX session_runs_run ON session_runs (run_id);

ALTER TABLE runs
    ADD COLUMN session text COLLATE "C",  -- in which it was given
    ADD COLUMN turn bigint;               -- its number there

-- Runs without a session are not in it: they cost nothing.
CREATE INDEX runs_of_sessions ON runs (session, turn)
    WHERE session IS NOT NULL AND finished_at IS NULL;

-- Whether a session is there: neither gone nor expired. It lives on for its time after the end of its
-- last run, and while a run of it is under way.
CREATE FUNCTION session_lives(wanted sessions, at timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT wanted.gone_at IS NULL AND (
        wanted.expires_at IS NULL OR wanted.expires_at > at
        OR EXISTS (
            SELECT FROM runs WHERE runs.session = wanted.id AND runs.finished_at IS NULL)
        OR EXISTS (
            SELECT FROM session_runs AS last JOIN runs ON runs.id = last.run_id
            WHERE last.session = wanted.id AND last.number = wanted.turns
                AND runs.finished_at + make_interval(secs => wanted.ttl_s) > at))
$$;

SELECT fence_managers_at('sessions');
SELECT fence_managers_at('session_runs');

-- Admit prompts to sessions: `core.session_turns.judge` says what becomes of each.
--
-- Sessions are locked first, in one order, and then their unfinished runs, as every commit locks
-- runs: so two admissions, or an admission and the end of a run, are one after the other, and what
-- is found to be under way is.
--
-- Returns for each what became of it: `begins` or `held`; `known`: its id or idempotency key is;
-- `unknown`, `changed`, and `busy` with the run in its way as in `store.sessions.Refusal`.
CREATE FUNCTION admit_in_sessions(
    ids text[], types text[], keys text[], pools text[], slots integer[], inputs json[],
    correlation_ids text[], owners text[], idempotency_keys text[], digests text[],
    times timestamptz[], deadlines timestamptz[],
    wanted text[], policies text[], levels text[],
    OUT outcomes text[], OUT blockers text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_session sessions;
    unfinished text[];
    waits boolean;
    held boolean;
    backwards boolean;
BEGIN
    outcomes := array_fill('known'::text, ARRAY[cardinality(ids)]);
    blockers := array_fill(NULL::text, ARRAY[cardinality(ids)]);
    PERFORM FROM sessions WHERE id = ANY (wanted) ORDER BY id FOR UPDATE;
    PERFORM FROM runs WHERE session = ANY (wanted) AND finished_at IS NULL ORDER BY id FOR UPDATE;
    FOR n IN 1 .. cardinality(ids) LOOP
        CONTINUE WHEN EXISTS (SELECT FROM runs WHERE id = ids[n]) OR EXISTS (
            SELECT FROM runs WHERE owner = owners[n] AND idempotency_key = idempotency_keys[n]);
        SELECT * INTO found_session FROM sessions
        WHERE id = wanted[n] AND session_lives(sessions, times[n]);
        IF NOT FOUND THEN
            outcomes[n] := 'unknown';
            CONTINUE;
        END IF;
        IF (found_session.agent_type, found_session.agent_key, found_session.access_level)
            <> (types[n], keys[n], levels[n])
        THEN
            outcomes[n] := 'changed';
            CONTINUE;
        END IF;
        SELECT coalesce(array_agg(id ORDER BY turn), '{}'), (array_agg(delayed ORDER BY turn))[1]
        INTO unfinished, waits
        FROM runs WHERE session = wanted[n] AND finished_at IS NULL;
        IF cardinality(unfinished) > 0 AND policies[n] = 'reject' THEN
            outcomes[n] := 'busy';
            blockers[n] := unfinished[1];
            CONTINUE;
        END IF;
        -- Where the state has to go back first, nobody begins before it has.
        held := cardinality(unfinished) > 0 OR found_session.rolling_back;
        INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id,
                          owner, idempotency_key, digest, created_at, deadline, delayed, session,
                          turn)
        VALUES (ids[n], 'queued', types[n], keys[n], pools[n], slots[n], inputs[n],
                correlation_ids[n], owners[n], idempotency_keys[n], digests[n], times[n],
                deadlines[n], held, wanted[n], found_session.turns + 1)
        ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;  -- somebody else has used the key just now
        outcomes[n] := CASE WHEN held THEN 'held' ELSE 'begins' END;
        INSERT INTO session_runs (session, number, run_id)
        VALUES (wanted[n], found_session.turns + 1, ids[n]);
        backwards := false;
        IF policies[n] IN ('interrupt', 'rollback') AND cardinality(unfinished) > 0 THEN
            UPDATE runs SET cancel_requested = coalesce(cancel_requested, times[n])
            WHERE id = ANY (unfinished);
            IF policies[n] = 'rollback' THEN
                backwards := NOT waits;
                UPDATE session_runs SET rolled_back = true
                WHERE session = wanted[n] AND run_id = ANY (unfinished);
            END IF;
        END IF;
        UPDATE sessions SET
            turns = found_session.turns + 1,
            expires_at = times[n] + make_interval(secs => ttl_s),
            rolling_back = rolling_back OR backwards
        WHERE id = wanted[n];
        IF NOT held THEN
            PERFORM note_state(wanted[n], ids[n]);
        END IF;
    END LOOP;
END
$$;

-- Note the state that a session's agent has before a run begins.
CREATE FUNCTION note_state(wanted text, run text) RETURNS void LANGUAGE sql AS $$
    UPDATE sessions SET kept_for = run, (kept_state, kept_version) = (
        SELECT state, schema_version FROM agent_states
        WHERE agent_states.agent_type = sessions.agent_type
            AND agent_states.agent_key = sessions.agent_key)
    WHERE id = wanted
$$;

-- Let a held run begin if it is its turn; see `store.sessions`.
CREATE FUNCTION begin_in_session(
    committer text, its_pool text, its_slot integer, its_epoch bigint, run text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found_session sessions;
BEGIN
    -- As in commit_effects: the lock first, the lease after it.
    PERFORM FROM hosts WHERE id = committer AND status <> 'dead' FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'fenced';
    END IF;
    PERFORM FROM slot_leases
    WHERE pool = its_pool AND slot = its_slot AND epoch = its_epoch AND host = committer;
    IF NOT FOUND THEN
        RETURN 'fenced';
    END IF;
    SELECT * INTO found_session FROM sessions
    WHERE id = (SELECT session FROM runs WHERE id = run) FOR UPDATE;
    PERFORM FROM runs
    WHERE id = run AND delayed AND finished_at IS NULL AND cancel_requested IS NULL FOR UPDATE;
    IF NOT FOUND OR EXISTS (
        SELECT FROM runs AS earlier JOIN runs AS held ON held.id = run
        WHERE earlier.session = held.session AND earlier.finished_at IS NULL
            AND earlier.turn < held.turn)
    THEN
        RETURN 'not_yet';
    END IF;
    IF found_session.rolling_back AND found_session.kept_state IS NULL THEN
        DELETE FROM agent_states
        WHERE agent_type = found_session.agent_type AND agent_key = found_session.agent_key;
    ELSIF found_session.rolling_back THEN
        INSERT INTO agent_states (agent_type, agent_key, state, schema_version)
        VALUES (found_session.agent_type, found_session.agent_key,
                found_session.kept_state, found_session.kept_version)
        ON CONFLICT (agent_type, agent_key)
            DO UPDATE SET state = excluded.state, schema_version = excluded.schema_version;
    END IF;
    UPDATE sessions SET rolling_back = false WHERE id = found_session.id;
    PERFORM note_state(found_session.id, run);
    UPDATE runs SET delayed = false WHERE id = run;
    RETURN 'begun';
END
$$;

-- Let a session be gone, and ask for the end of its unfinished runs; tell whether there was one.
CREATE FUNCTION delete_session(wanted text, at timestamptz, known_version bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sessions SET gone_at = delete_session.at
    WHERE id = wanted AND (known_version IS NULL OR version = known_version)
        AND session_lives(sessions, delete_session.at);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- What an admission that was quicker has brought is seen by this statement.
    PERFORM FROM runs WHERE session = wanted AND finished_at IS NULL ORDER BY id FOR UPDATE;
    UPDATE runs SET cancel_requested = coalesce(cancel_requested, delete_session.at)
    WHERE session = wanted AND finished_at IS NULL;
    RETURN true;
END
$$;

-- Keep a copy of a session: its history, and its agent's state; false: it cannot be.
--
-- The runs that have not ended, and what they have changed so far, are no part of it.
CREATE FUNCTION copy_session(
    source text, target text, new_type text, new_key text, level text, new_title text,
    new_labels jsonb, new_metadata json, new_ttl_s double precision, new_owner text,
    new_tenant text, at timestamptz, expiry timestamptz
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    found_session sessions;
    under_way text;
BEGIN
    SELECT * INTO found_session FROM sessions
    WHERE id = source AND session_lives(sessions, copy_session.at) FOR UPDATE;
    IF NOT FOUND OR EXISTS (
        SELECT FROM agent_states WHERE agent_type = new_type AND agent_key = new_key)
    THEN
        RETURN false;
    END IF;
    INSERT INTO sessions (id, agent_type, agent_key, access_level, title, labels, metadata, ttl_s,
                          owner, tenant, created_at, updated_at, expires_at, copied_from, version,
                          turns)
    VALUES (target, new_type, new_key, level, new_title, new_labels, new_metadata, new_ttl_s,
            new_owner, new_tenant, copy_session.at, copy_session.at, expiry, source, 1,
            found_session.turns)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Locked as by an admission: what is seen as ended below has committed its state.
    PERFORM FROM runs WHERE session = source AND finished_at IS NULL ORDER BY id FOR UPDATE;
    SELECT id INTO under_way FROM runs
    WHERE session = source AND finished_at IS NULL AND NOT delayed ORDER BY turn LIMIT 1;
    INSERT INTO session_runs (session, number, run_id, rolled_back)
    SELECT target, number, run_id, rolled_back
    FROM session_runs AS known JOIN runs ON runs.id = known.run_id
    WHERE known.session = source AND runs.finished_at IS NOT NULL;
    IF under_way IS NOT NULL OR found_session.rolling_back THEN
        INSERT INTO agent_states (agent_type, agent_key, state, schema_version)
        SELECT new_type, new_key, found_session.kept_state, found_session.kept_version
        WHERE found_session.kept_state IS NOT NULL;
    ELSE
        INSERT INTO agent_states (agent_type, agent_key, state, schema_version)
        SELECT new_type, new_key, state, schema_version FROM agent_states
        WHERE agent_type = found_session.agent_type AND agent_key = found_session.agent_key;
    END IF;
    RETURN true;
END
$$;
