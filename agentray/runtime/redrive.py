"""Re-driving: an accepted run that no host works on is given to one.

A run may be left over when the gateway replica that admitted it ends before it has handed it on, or
when its host dies. Giving a run to its host twice does no harm: the host knows what it works on,
and the Store knows what has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from agentray.event_loop import time_of_day
from agentray.ids import AgentId
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Kind, Reply, RunMode
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.message import Post
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store, StoredRun

logger = logging.getLogger(__name__)

LEFT_OVER_AFTER_S = 10.0
"""Age at which the manager makes sure that an unfinished run is in some host's hands."""

SWEEP_S = 5.0
_TIMEOUT_S = 30.0


class Redriver:
    """Finds unfinished runs in the Store and hands them to the hosts of their agents."""

    def __init__(self, store: Store, channel: Channel) -> None:
        self._store = store
        self._channel = channel
        self._tasks = TaskSet("redriver")
        self._swept_at: datetime | None = None

    @property
    def channel(self) -> Channel:
        """The manager's way to the agents."""
        return self._channel

    def update(self, snapshot: Snapshot) -> None:
        """Take the manager's newest snapshot."""
        self._channel.update(snapshot)

    async def sweep(self) -> None:
        """Make sure of the old ones, every few seconds."""
        now = time_of_day()
        if self._swept_at is not None and now - self._swept_at < timedelta(seconds=SWEEP_S):
            return
        self._swept_at = now
        before = now - timedelta(seconds=LEFT_OVER_AFTER_S)
        self._ensure(await self._store.unfinished_runs(created_before=before))

    def slots_moved(self, pool: str, slots: Sequence[int]) -> None:
        """Make sure of the runs whose agents have a new host."""
        self._tasks.spawn(self._after_move(pool, slots), name="redrive after move")

    async def _after_move(self, pool: str, slots: Sequence[int]) -> None:
        runs = await self._store.unfinished_runs(
            created_before=time_of_day(), pool=pool, slots=slots
        )
        self._ensure(runs)

    def _ensure(self, runs: Sequence[StoredRun]) -> None:
        for stored in runs:
            post_run(self._channel, stored.agent, stored.run.id, RunMode.ENSURE)

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()
        await self._channel.close()


def post_run(channel: Channel, agent: AgentId, run_id: str, mode: RunMode) -> None:
    """Hand a run of the Store to the host of its agent; what goes wrong is logged.

    Args:
        channel: the way there.
        agent: the run's own, or the root of its event.
        run_id: of the run.
        mode: one of those that are answered when the run is under way.
    """
    message = Post(Kind.RUN, agent, mode, encode((run_id,)), _Noted(run_id))
    message.deadline = asyncio.get_running_loop().time() + _TIMEOUT_S
    channel.post(message)


class _Noted:
    """Logs a run that could not be handed over; the next sweep tries again."""

    __slots__ = ("_run_id",)

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def __call__(self, reply: Reply) -> Any:
        if isinstance(reply.payload, Exception):
            logger.warning(
                "run waits: %s",
                reply.payload,
                extra={"action": "redrive_waits", "run": self._run_id},
            )
