-- Subscriptions to topics that were made at run time; those of agent types stand in their code.

CREATE TABLE subscriptions (
    id         text COLLATE "C" PRIMARY KEY,
    position   bigint GENERATED ALWAYS AS IDENTITY,
    agent_type text COLLATE "C" NOT NULL,
    topic      text COLLATE "C" NOT NULL,
    event_type text COLLATE "C",             -- NULL: every one that the agents handle
    key        text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    digest     text COLLATE "C" NOT NULL UNIQUE  -- of what it asks for, which may be too long for an index
);
