-- When a run must have ended, whoever works on it, and that somebody wants it ended before.

ALTER TABLE runs
    ADD COLUMN deadline timestamptz,          -- NULL: it has none
    ADD COLUMN cancel_requested timestamptz;  -- when somebody asked; NULL: nobody has

-- Few runs are there at a time: what was asked for has its end within seconds.
CREATE INDEX runs_deadline ON runs (deadline)
    WHERE finished_at IS NULL AND deadline IS NOT NULL;
CREATE INDEX runs_cancel_requested ON runs (cancel_requested)
    WHERE finished_at IS NULL AND cancel_requested IS NOT NULL;
