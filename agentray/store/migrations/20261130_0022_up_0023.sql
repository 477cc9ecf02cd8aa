-- Runs that go on where another one has ended: `store/continuations.py`.

CREATE TABLE noted_states (
    run_id         text COLLATE "C" PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    agent_type     text COLLATE "C" NOT NULL,
    agent_key      text COLLATE "C" NOT NULL,
    state          json,      -- of the run's agent when it was first gone on with; NULL: it had none
    schema_version integer,
    size           bigint NOT NULL,  -- of the JSON
    dropped        boolean NOT NULL DEFAULT false  -- there was too much of its agent
);
CREATE INDEX noted_states_of_agent ON noted_states (agent_type, agent_key, run_id);

-- Admit runs that go on with others.
--
-- Those that they go on with are locked first, in one order: two that go on with the same one are
-- one after the other, and none goes on with one that is being forgotten.
--
-- Returns for each what became of it: `main`, in the agent of the former run; `branch`, in an agent
-- of its own; `known`: its id or idempotency key is; `gone` and `dropped` as in
-- `store.sessions.Refusal`.
CREATE FUNCTION admit_continuations(
    ids text[], types text[], keys text[], branches text[], pools text[], slots integer[],
    branch_slots integer[], inputs json[], correlation_ids text[], owners text[],
    idempotency_keys text[], digests text[], times timestamptz[], deadlines timestamptz[],
    formers text[], most bigint[],
    OUT outcomes text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    noted noted_states;
    branching boolean;
BEGIN
    outcomes := array_fill('known'::text, ARRAY[cardinality(ids)]);
    PERFORM FROM runs WHERE id = ANY (formers) ORDER BY id FOR NO KEY UPDATE;
    FOR n IN 1 .. cardinality(ids) LOOP
        CONTINUE WHEN EXISTS (SELECT FROM runs WHERE id = ids[n]) OR EXISTS (
            SELECT FROM runs WHERE owner = owners[n] AND idempotency_key = idempotency_keys[n]);
        IF NOT EXISTS (
            SELECT FROM runs
            WHERE id = formers[n] AND finished_at IS NOT NULL
                AND agent_type = types[n] AND agent_key = keys[n])
        THEN
            outcomes[n] := 'gone';
            CONTINUE;
        END IF;
        SELECT * INTO noted FROM noted_states WHERE run_id = formers[n];
        branching := FOUND AND branches[n] IS NOT NULL;
        IF branching AND noted.dropped THEN
            outcomes[n] := 'dropped';
            CONTINUE;
        END IF;
        INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, correlation_id,
                          owner, idempotency_key, digest, created_at, deadline, delayed)
        VALUES (ids[n], 'queued', types[n], CASE WHEN branching THEN branches[n] ELSE keys[n] END,
                pools[n], CASE WHEN branching THEN branch_slots[n] ELSE slots[n] END, inputs[n],
                correlation_ids[n], owners[n], idempotency_keys[n], digests[n], times[n],
                deadlines[n], false)
        ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;  -- somebody else has used the key just now
        outcomes[n] := CASE WHEN branching THEN 'branch' ELSE 'main' END;
        IF NOT branching THEN
            PERFORM note_for(formers[n], types[n], keys[n], most[n]);
        ELSIF noted.state IS NOT NULL THEN
            INSERT INTO agent_states (agent_type, agent_key, state, schema_version)
            VALUES (types[n], branches[n], noted.state, noted.schema_version);
        END IF;
    END LOOP;
END
$$;

-- Note the state that an agent has now for a run of it, unless one is noted; drop the oldest ones of
-- the agent where there is too much.
CREATE FUNCTION note_for(former text, its_type text, its_key text, most bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO noted_states (run_id, agent_type, agent_key, state, schema_version, size)
    SELECT former, its_type, its_key, state, schema_version, coalesce(octet_length(state::text), 0)
    FROM (SELECT) AS always LEFT JOIN agent_states
        ON agent_states.agent_type = its_type AND agent_states.agent_key = its_key
    ON CONFLICT DO NOTHING;
    UPDATE noted_states SET state = NULL, size = 0, dropped = true
    WHERE run_id <> former AND run_id IN (
        SELECT run_id FROM (
            SELECT run_id, sum(size) OVER (ORDER BY run_id DESC) AS together FROM noted_states
            WHERE agent_type = its_type AND agent_key = its_key AND size > 0
        ) AS kept WHERE together > most);
END
$$;
