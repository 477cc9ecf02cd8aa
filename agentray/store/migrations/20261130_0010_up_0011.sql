-- Runs that begin later, and schedules, which make such runs again and again.

ALTER TABLE runs
    ADD COLUMN not_before timestamptz,                  -- when it may begin; NULL: at once
    ADD COLUMN delayed    boolean NOT NULL DEFAULT false, -- and no host has begun it yet
    ADD COLUMN schedule   text COLLATE "C",             -- whose firing it is
    ADD COLUMN in_turn    boolean NOT NULL DEFAULT false; -- after its schedule's earlier runs only

-- Whoever looks for runs that are left over shall not walk past those that are not to begin yet.
DROP INDEX runs_unfinished;
CREATE INDEX runs_unfinished ON runs (delayed, created_at, id) WHERE finished_at IS NULL;
CREATE INDEX runs_delayed ON runs (not_before, id) WHERE delayed AND finished_at IS NULL;
CREATE INDEX runs_of_schedule ON runs (schedule, not_before, id)
    WHERE schedule IS NOT NULL AND finished_at IS NULL;

-- The oldest ended runs of each status, for pruning; and counting reads this instead of the table.
CREATE INDEX runs_ended ON runs (status, finished_at, id) WHERE finished_at IS NOT NULL;

CREATE TABLE schedules (
    id       text COLLATE "C" PRIMARY KEY,
    revision bigint NOT NULL,      -- each write raises it, and names the one it has read
    next_at  timestamptz,          -- of the next firing; NULL: paused, or over
    record   json NOT NULL
);
CREATE INDEX schedules_next ON schedules (next_at, id) WHERE next_at IS NOT NULL;
