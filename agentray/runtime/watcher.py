"""The watcher: keeps a channel's snapshot new, for drivers and gateway replicas.

One call to the manager is always open and returns when something changed. While the manager is
away, the channel goes on with what it has.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from agentray.errors import ManagerUnavailable
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.tasks import TaskSet

logger = logging.getLogger(__name__)

_RETRY_S = 0.2


class ManagerPort(Protocol):
    """The manager as seen from another process."""

    async def call(self, method: str, *args: Any) -> Any:
        """Call one of its methods.

        Raises:
            ManagerUnavailable: it does not answer just now.
            AgentrayError: what it raised.
        """
        ...


class SnapshotWatcher:
    """Feeds a channel with the manager's snapshots."""

    def __init__(self, manager: ManagerPort, channel: Channel) -> None:
        self._manager = manager
        self._channel = channel
        self._tasks = TaskSet("watcher")
        self.stale = False  # the manager could not be asked lately

    async def start(self) -> None:
        """Get the first snapshot, then go on in the background.

        Raises:
            ManagerUnavailable: the manager does not answer.
        """
        snapshot = await self._manager.call("watch", -1)
        self._channel.update(snapshot)
        self._tasks.spawn(self._watch(), name="watch snapshots")

    async def _watch(self) -> None:
        while True:
            try:
                snapshot: Snapshot | None = await self._manager.call(
                    "watch", self._channel.snapshot.version
                )
            except ManagerUnavailable as error:
                if not self.stale:
                    logger.warning("%s", error, extra={"action": "manager_unavailable"})
            except Exception:
                # Whatever goes wrong in a manager: without snapshots this process would never find
                # the hosts that are there when all is well again.
                if not self.stale:
                    logger.exception("no snapshot", extra={"action": "snapshot_failed"})
            else:
                self.stale = False
                if snapshot is not None:
                    self._channel.update(snapshot)
                continue
            self.stale = True
            await asyncio.sleep(_RETRY_S)

    async def close(self) -> None:
        """Stop watching."""
        await self._tasks.close()
