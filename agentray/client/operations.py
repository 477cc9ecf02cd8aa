"""What operators do, in the asynchronous client: `client.operations`."""

from __future__ import annotations

from typing import Any

from agentray.client.calls import operations as calls
from agentray.client.calls.http import check
from agentray.client.resource import AsyncResource
from agentray.protocol.operations import Drained, FailedAgent, LeftOver, RunningGroup


class AsyncOperations(AsyncResource):
    """Operates the cluster, with an admin's key of no tenant. Every method raises `ClientError`."""

    async def status(self) -> dict[str, Any]:
        """Return `apps`, `pools`, `hosts` and `upgrades` as the manager sees them."""
        return calls.parse_status(await self._connection.send(calls.get_status()))

    async def drain_host(self, host: str, *, wait_s: float = 20.0) -> Drained:
        """Let a host leave; a fresh one takes its place, and nothing under way is lost.

        Args:
            host: its id, as in `status()`.
            wait_s: seconds to wait until it has left; it goes on after that.

        Raises:
            NotFound: there is no such host.
        """
        request = calls.drain("hosts", host, wait_s)
        return calls.parse_drained(await self._connection.send(request))

    async def drain_node(self, node: str, *, wait_s: float = 20.0) -> Drained:
        """Let all hosts leave a machine, and start none there until it is undrained.

        Args:
            node: its id, or how that begins.
            wait_s: see `drain_host`.

        Raises:
            NotFound: there is no such node.
        """
        request = calls.drain("nodes", node, wait_s)
        return calls.parse_drained(await self._connection.send(request))

    async def undrain_node(self, node: str) -> None:
        """Let hosts be started on a machine again.

        Raises:
            NotFound: there is no such node.
        """
        check(await self._connection.send(calls.undrain(node)))

    async def groups(self) -> list[RunningGroup]:
        """Return the groups that started with apps."""
        return calls.parse_groups(await self._connection.send(calls.list_groups()))

    async def failed_agents(
        self, agent_type: str | None = None, *, limit: int = 100
    ) -> list[FailedAgent]:
        """Return agents that have failed or are quarantined, newest first.

        Args:
            agent_type: only those of this type.
            limit: most of them, 1 to 1,000.
        """
        request = calls.list_failed(agent_type, limit)
        return calls.parse_failed(await self._connection.send(request))

    async def reset_agent(self, agent: str) -> bool:
        """Let a failed agent start again; return whether it had failed.

        Args:
            agent: as `type/key`.

        Raises:
            NotFound: no deployed app has its type.
        """
        return calls.parse_reset(await self._connection.send(calls.reset(agent)))

    async def gc(self, *, dry_run: bool = False) -> LeftOver:
        """End what is left over of hosts: actors and rows that nobody looks after.

        Args:
            dry_run: only look; nothing is ended.
        """
        return calls.parse_left(await self._connection.send(calls.collect(dry_run=dry_run)))
