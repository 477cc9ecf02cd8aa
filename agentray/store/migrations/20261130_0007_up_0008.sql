-- Agents in trouble, and agents that are brought back whenever their host is lost.

CREATE TABLE agent_failures (
    agent_type text NOT NULL,
    agent_key  text NOT NULL,
    kind       text NOT NULL,         -- failed, suspected, quarantined
    error      text NOT NULL,
    traceback  text NOT NULL,
    at         timestamptz NOT NULL,
    deaths     integer NOT NULL,      -- of hosts that the agent is blamed for
    code       text NOT NULL DEFAULT '',  -- digest of its class's source at that time
    PRIMARY KEY (agent_type, agent_key)
);
CREATE INDEX agent_failures_at ON agent_failures (at);

-- Launched agents that failed before there was this table.
INSERT INTO agent_failures (agent_type, agent_key, kind, error, traceback, at, deaths)
SELECT agent_type, agent_key, 'failed', last_error, '', launched_at, 0
FROM launched_agents WHERE status = 'failed';

CREATE TABLE permanent_agents (
    agent_type text NOT NULL,
    agent_key  text NOT NULL,
    slot       integer NOT NULL,      -- of its pool's key space, which follows from its id
    PRIMARY KEY (agent_type, agent_key)
);
CREATE INDEX permanent_agents_slot ON permanent_agents (slot, agent_type);

SELECT fence_managers_at('agent_failures');
