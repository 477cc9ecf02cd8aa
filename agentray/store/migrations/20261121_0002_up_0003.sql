-- Pools that an operator has added or changed, and which pool takes over from which.

CREATE TABLE pools (
    name      text COLLATE "C" PRIMARY KEY,
    position  bigint GENERATED ALWAYS AS IDENTITY,  -- in the order of their first mention
    spec      bytea,                                -- NULL: as the apps declare it, or removed
    successor text NOT NULL                         -- where its agents live instead; '': nowhere else
);
