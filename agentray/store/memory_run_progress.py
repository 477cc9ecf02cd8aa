"""Runs between their beginning and their end, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agentray.protocol.budgets import Usage
from agentray.protocol.runs import RunStatus
from agentray.store.base import CommitOutcome, Effects, HostRow
from agentray.store.codec import encode_event, encode_models
from agentray.store.run_progress import Resumption, Suspension, UsageWrite

if TYPE_CHECKING:
    from agentray.store.memory import RunRow


class MemoryRunProgress:
    """A `RunProgressStore`."""

    _runs: dict[str, RunRow]
    _hosts: dict[str, HostRow]

    if TYPE_CHECKING:

        async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
            """See `MemoryStore`."""
            ...

    async def suspend_run(
        self, host: str, effects: Effects, suspension: Suspension
    ) -> CommitOutcome:
        """Commit effects as `commit` does, and in the same transaction let a run wait."""
        questions = encode_models(suspension.questions)  # before anything is written
        (outcome,) = await self.commit(host, [effects])
        row = self._runs.get(suspension.run_id)
        if outcome is CommitOutcome.COMMITTED and row is not None and row.end is None:
            self._runs[suspension.run_id] = replace(
                row,
                status=RunStatus.WAITING,
                host="",
                questions=questions,
                started_at=row.started_at or suspension.started_at,
            )
        return outcome

    async def resume_run(self, resumption: Resumption) -> bool:
        """Keep an answer and move the run from `waiting` to `queued`, in one transaction."""
        row = self._runs.get(resumption.run_id)
        told = encode_event(resumption.event)
        questions = encode_models(resumption.questions)
        answers = encode_models(resumption.answers)
        if row is None or row.status is not RunStatus.WAITING:
            return False
        if resumption.event.offset != len(row.events):
            return False
        self._runs[resumption.run_id] = replace(
            row,
            status=RunStatus.QUEUED,
            events=(*row.events, told),
            questions=questions,
            answers=answers,
        )
        return True

    async def host_of_run(self, run_id: str) -> HostRow | None:
        """Return the host that moved a run to `running`; None: none has, since its last attempt."""
        row = self._runs.get(run_id)
        return self._hosts.get(row.host) if row is not None and row.host else None

    async def put_usage(self, writes: Sequence[UsageWrite]) -> None:
        """Keep what runs have used."""
        for write in writes:
            row = self._runs.get(write.run_id)
            if row is not None and row.attempt == write.attempt:
                usage = write.usage
                if write.only_time:
                    steps = row.usage or Usage()
                    usage = steps.model_copy(update={"wall_s": usage.wall_s})
                self._runs[write.run_id] = replace(row, usage=usage)
