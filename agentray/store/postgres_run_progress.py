"""Runs between their beginning and their end, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from agentray.store import rows
from agentray.store.base import CommitOutcome, Effects, HostRow
from agentray.store.codec import encode, encode_event, encode_models
from agentray.store.database import Database, error_of_commit
from agentray.store.run_progress import Resumption, Suspension, UsageWrite


class PostgresRunProgress:
    """A `RunProgressStore`."""

    _database: Database

    async def suspend_run(
        self, host: str, effects: Effects, suspension: Suspension
    ) -> CommitOutcome:
        """Commit effects as `commit` does, and in the same transaction let a run wait."""
        questions = encode_models(suspension.questions)
        about = (suspension.run_id, questions, suspension.started_at, host)
        try:
            outcome = await self._database.fetch_value(
                "suspend_run", *about, *rows.effects_columns([effects])
            )
        except asyncpg.PostgresError as error:
            raise error_of_commit(error) from error
        return CommitOutcome(outcome)

    async def resume_run(self, resumption: Resumption) -> bool:
        """Keep an answer and move the run from `waiting` to `queued`, in one transaction."""
        told = f"[{encode_event(resumption.event)}]"
        questions = encode_models(resumption.questions)
        answers = encode_models(resumption.answers)
        about = (resumption.run_id, resumption.event.offset, told, questions, answers)
        return bool(await self._database.fetch_value("resume_run", *about))

    async def host_of_run(self, run_id: str) -> HostRow | None:
        """Return the host that moved a run to `running`; None: none has, since its last attempt."""
        row = await self._database.fetch_row("host_of_run", run_id)
        return rows.host_of(row) if row else None

    async def put_usage(self, writes: Sequence[UsageWrite]) -> None:
        """Keep what runs have used."""
        columns = rows.columns(
            (
                (w.run_id, w.attempt, encode(w.usage.model_dump(mode="json")), w.only_time)
                for w in writes
            ),
            4,
        )
        await self._database.execute("put_usage", *columns)
