"""What happens to a run between its beginning and its end: it waits, goes on, uses its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import RunEvent

if TYPE_CHECKING:
    from agentray.store.base import CommitOutcome, Effects, HostRow


@dataclass(frozen=True, slots=True)
class Suspension:
    """A run that waits for an answer from now on."""

    run_id: str
    questions: Sequence[Question]  # the one that is asked now first
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Resumption:
    """A waiting run that goes on with an answer."""

    run_id: str
    questions: Sequence[Question]  # that stay open
    answers: Sequence[Answer]  # all of them, the one that it goes on with last
    event: RunEvent  # that tells; its offset must be the run's next one


@dataclass(frozen=True, slots=True)
class UsageWrite:
    """What a run has used so far."""

    run_id: str
    attempt: int  # that counted it
    usage: Usage
    only_time: bool = False  # its steps count the rest


class RunProgressStore(Protocol):
    """Keeps what happens to a run before its end."""

    async def suspend_run(
        self, host: str, effects: Effects, suspension: Suspension
    ) -> CommitOutcome:
        """Commit effects as `commit` does, and in the same transaction let a run wait.

        Raises:
            ValueError, UnknownRun, PayloadError: as `commit`; nothing was written.
        """
        ...

    async def resume_run(self, resumption: Resumption) -> bool:
        """Keep an answer and move the run from `waiting` to `queued`, in one transaction.

        False: it does not wait, or has other events than who decided knew; nothing was written.

        Raises:
            PayloadError: the answer has no JSON; nothing was written.
        """
        ...

    async def host_of_run(self, run_id: str) -> HostRow | None:
        """Return the host that moved a run to `running`; None: none has, since its last attempt."""
        ...

    async def put_usage(self, writes: Sequence[UsageWrite]) -> None:
        """Keep what runs have used; what another attempt counted, or an unknown run, is ignored."""
        ...
