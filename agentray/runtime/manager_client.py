"""What a driver does with a cluster: deploy apps, launch and find agents, prompt them."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.dispatching import Dispatches
from agentray.runtime.driver_leases import LEASE_S
from agentray.runtime.kept_states import KeptStates
from agentray.runtime.launch_client import LaunchClient
from agentray.runtime.launcher import Launcher
from agentray.runtime.letter_client import LetterClient
from agentray.runtime.moves_client import MovesClient
from agentray.runtime.pool_client import PoolClient
from agentray.runtime.run_client import RunClient
from agentray.runtime.state_client import StateClient
from agentray.runtime.topic_client import TopicClient
from agentray.runtime.trace_client import TraceClient
from agentray.runtime.watcher import ManagerPort


class ManagerClient(
    LaunchClient,
    PoolClient,
    TopicClient,
    LetterClient,
    StateClient,
    RunClient,
    TraceClient,
    MovesClient,
):
    """A driver's connection to the manager and to all agents of a cluster.

    What it can do is spread over its bases, one for each thing that it is about.
    """

    def __init__(self, manager: ManagerPort, channel: Channel, *, lease_s: float = LEASE_S) -> None:
        """Made by `connect`.

        Args:
            manager: the manager.
            channel: whose snapshot is kept new by a watcher.
            lease_s: how long this process may be silent before the agents end that end with it.
        """
        self._manager = manager
        self._channel = channel
        self._dispatcher = ChannelDispatcher(channel)
        self._dispatches = Dispatches(channel)
        self._states = KeptStates(manager, channel)
        self._launcher = Launcher(manager, channel, lease_s=lease_s)

    async def close(self) -> None:
        """End the agents of the lifetime `driver`; this manager launches nothing any more.

        Leaving the context of `connect()` does it. All other agents go on.
        """
        await self._launcher.close()
        await self._dispatches.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def agents(self, agent_type: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return agents that are in memory, those of one type or all, at most `limit`.

        Each with `agent`, `type`, `host`, `status` (starting, idle, running, failed), `queued`,
        `active_s`, `idle_s` and `last_error`.
        """
        return await self._manager.call("agents", agent_type, limit)

    async def status(self) -> dict[str, Any]:
        """Return apps, pools and hosts as the manager sees them."""
        return await self._manager.call("status")

    async def gc(self, *, dry_run: bool = False) -> list[dict[str, str]]:
        """End what is left over of hosts: actors and rows that nobody looks after.

        The manager does so by itself once a minute. What might be another cluster's is not touched.

        Args:
            dry_run: only look; nothing is changed.

        Returns:
            What was found, each with `kind` (actor, row), `name` and `why`.
        """
        return await self._manager.call("gc", dry_run)
