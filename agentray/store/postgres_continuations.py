"""Runs that go on with others, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentray.store import rows
from agentray.store.base import Admission, NewRun, queued_run
from agentray.store.codec import encode_object
from agentray.store.continuations import Continuation
from agentray.store.database import Database
from agentray.store.sessions import Refusal

_REFUSALS = {Refusal.GONE.value, Refusal.DROPPED.value}


class PostgresContinuations:
    """A part of `PostgresStore`."""

    _database: Database

    async def _admit_continuations(
        self, runs: Mapping[int, tuple[NewRun, Continuation]]
    ) -> dict[int, Admission]:
        """Admit runs that go on with others; those whose id or key is known are left out."""
        columns = rows.columns((_row(*each) for each in runs.values()), 16)
        outcomes = await self._database.fetch_value("admit_continuations", *columns)
        admissions: dict[int, Admission] = {}
        for (n, (run, former)), outcome in zip(runs.items(), outcomes, strict=True):
            if outcome in _REFUSALS:
                refused = Refusal(outcome)
                admissions[n] = Admission(queued_run(run), created=False, refused=refused)
            elif outcome == "branch" and former.branch is not None:
                branched = replace(run, agent=former.branch)
                admissions[n] = Admission(queued_run(branched), created=True)
            elif outcome == "main":
                admissions[n] = Admission(queued_run(run), created=True)
        return admissions


def _row(run: NewRun, former: Continuation) -> tuple[Any, ...]:
    branch = None if former.branch is None else former.branch.key
    return (
        *(run.id, *run.agent, branch, run.pool, run.slot, former.branch_slot),
        *(encode_object(run.input), run.correlation_id, run.owner, run.idempotency_key),
        *(run.digest, run.created_at, run.deadline, former.of, former.max_bytes),
    )
