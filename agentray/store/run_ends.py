"""Ends of runs that are not of a host's making: deadlines and cancellations nobody works on.

A host ends what it works on. These ends are for runs that wait in a queue, for an app that is
stopped, for a host that is gone. Whoever comes first ends a run, also here: once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from agentray.core.lifecycle import move
from agentray.protocol.runs import Run, RunError, RunStatus

if TYPE_CHECKING:
    from agentray.store.base import StoredRun


@dataclass(frozen=True, slots=True)
class UnworkedEnd:
    """The end of a run that no host works on."""

    run_id: str
    status: RunStatus  # a terminal one that is not `succeeded`
    error: RunError
    finished_at: datetime


class RunEndStore(Protocol):
    """What ends runs from outside of hosts."""

    async def request_cancel(self, run_id: str, at: datetime) -> StoredRun | None:
        """Keep that somebody wants a run ended; an ended one is returned as it is.

        None: no such run.
        """
        ...

    async def uncancelled_runs(self, before: datetime, *, limit: int = 1000) -> list[StoredRun]:
        """Return unfinished runs whose end somebody asked for before a time, oldest wish first."""
        ...

    async def overdue_runs(
        self, before: datetime, statuses: Collection[RunStatus], *, limit: int = 1000
    ) -> list[StoredRun]:
        """Return runs of these statuses with a deadline before a time, the first ones first."""
        ...

    async def end_unworked(
        self, ends: Sequence[UnworkedEnd], statuses: Collection[RunStatus]
    ) -> list[Run]:
        """End runs that have one of these statuses when it is their turn; return those.

        Others are left alone. The last event of each tells its error.

        Raises:
            IllegalTransition: the table of the lifecycle has no such move; nothing was written.
        """
        ...


def check_ends(ends: Sequence[UnworkedEnd], statuses: Collection[RunStatus]) -> None:
    """Check that runs of these statuses may end so.

    Raises:
        IllegalTransition: they may not.
    """
    for end in ends:
        for status in statuses:
            move(end.run_id, status, end.status)
