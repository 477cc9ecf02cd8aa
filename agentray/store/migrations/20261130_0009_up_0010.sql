-- What a manager that comes back must know of what the one before it had begun.

ALTER TABLE hosts ADD COLUMN made_for text NOT NULL DEFAULT '';  -- digest of the pool's demands
ALTER TABLE apps ADD COLUMN before bytea;  -- what ran before, while a deployment is under way
