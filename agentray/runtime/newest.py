"""The manager's newest snapshot, for who is asked for what is not in the one at hand.

A deployment is complete when its hosts are up and the manager says so; a gateway hears of it a
moment later. Whoever asks it for the new agents in this moment is not told that there are none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from agentray.errors import AgentrayError, UnknownAgentType, UnknownRequestType
from agentray.runtime.channel import Channel
from agentray.runtime.ports import RunDispatcher
from agentray.runtime.tasks import TaskSet
from agentray.runtime.watcher import ManagerPort

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_S = 0.25
"""Between two questions: whoever guesses names asks this process, and not the manager."""

PATIENCE_S = 2.0
"""How long an answer is waited for; then what is known holds."""


class NewestSnapshot:
    """Asks the manager for its snapshot, once for all who want it."""

    def __init__(self, manager: ManagerPort, channel: Channel) -> None:
        """Make it.

        Args:
            manager: which is asked.
            channel: which gets the snapshot.
        """
        self._manager = manager
        self._channel = channel
        self._tasks = TaskSet("newest snapshot")
        self._next: asyncio.Task[None] | None = None  # serves all who come before it begins
        self._now: asyncio.Task[None] | None = None
        self._may_begin_at = 0.0

    async def wait(self) -> None:
        """Return when the channel has a snapshot that is no older than this call.

        Or after `PATIENCE_S`, or when the manager cannot be asked.
        """
        if self._next is None:
            self._next = self._tasks.spawn(self._ask(self._now), name="ask for a snapshot")
        await asyncio.wait((self._next,), timeout=PATIENCE_S)

    async def _ask(self, before: asyncio.Task[None] | None) -> None:
        loop = asyncio.get_running_loop()
        if before is not None:
            await asyncio.wait((before,))
        if (left_s := self._may_begin_at - loop.time()) > 0:
            await asyncio.sleep(left_s)
        self._may_begin_at = loop.time() + EVERY_S
        self._now, self._next = self._next, None
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._channel.update(await self._manager.call("watch", -1))
        except (AgentrayError, TimeoutError) as error:
            # The watcher goes on trying.
            logger.info("no newer snapshot: %s", error, extra={"action": "manager_unavailable"})
        finally:
            self._now = None

    async def close(self) -> None:
        """Ask no more."""
        await self._tasks.close()


async def up_to_date(dispatcher: RunDispatcher, look: Callable[[], T]) -> T:
    """Return what `look` finds; where an agent type is missing, by the newest snapshot.

    Raises:
        UnknownAgentType, UnknownRequestType: it is not there either.
    """
    try:
        return look()
    except (UnknownAgentType, UnknownRequestType):
        await dispatcher.newest()
        return look()
