"""What a driver asks of hosts and machines: drain them, resize pools, move slots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agentray.errors import ConfigurationError, UnknownAgentType
from agentray.ids import AgentId, slot_of
from agentray.runtime.watcher import ManagerPort

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel

WAIT_S = 120.0


class MovesClient:
    """Planned moves. What is under way is not lost: it ends before its slot moves."""

    _manager: ManagerPort
    _channel: Channel

    async def drain_host(self, host: str, *, timeout: float = WAIT_S) -> dict[str, Any]:
        """Let a host leave; a fresh one takes its place.

        Args:
            host: its id, as in `status()`.
            timeout: seconds to wait; the drain goes on after that.

        Returns:
            `host`, whether it has `drained`, and what it is `waiting` for if not.

        Raises:
            UnknownPart: there is no such host.
        """
        return await self._manager.call("drain_host", host, timeout)

    async def scale_pool(
        self, name: str, hosts: int | None, *, timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """Let a pool have so many hosts, whatever its limits are, until something else is said.

        Args:
            name: of the pool.
            hosts: how many; None: as many as its limits and its load say, as before.
            timeout: seconds to wait for them.

        Returns:
            The pool, as in `pools()`.

        Raises:
            UnknownPart: there is no such pool.
            ConfigurationError: it is an isolated one, or hosts is below 1.
        """
        return await self._manager.call("scale_pool", name, hosts, timeout)

    async def move_slots(
        self, slots: Iterable[int], host: str, *, pool: str = "default", timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """Give slots of a pool to one of its hosts, for as long as that lives.

        Args:
            slots: numbers from 0 to 255.
            host: its id.
            pool: theirs.
            timeout: seconds to wait; the move goes on after that.

        Returns:
            `pool`, `host`, and the slots that are `waiting`, since agents in them have to finish.

        Raises:
            UnknownPart: there is no such pool or host.
            ConfigurationError: there is no such slot, or the host takes none.
        """
        return await self._manager.call("move_slots", pool, list(slots), host, timeout)

    async def move_agent(
        self, agent: AgentId | str, host: str, *, timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """Give the slot of an agent to a host of its pool: see `move_slots`.

        The other agents of the slot, 1/256 of the pool, move with it.

        Raises:
            UnknownAgentType: no deployed app has its type.
            ConfigurationError: it is isolated, or the host takes no slots of its pool.
        """
        agent_id = AgentId.parse(agent) if isinstance(agent, str) else AgentId(*agent)
        view = self._channel.snapshot.types.get(agent_id.type)
        if view is None:
            raise UnknownAgentType(agent_id.type, tuple(sorted(self._channel.snapshot.types)))
        if view.isolated:
            raise ConfigurationError(f"{agent_id} has a host of its own, and does not move.")
        return await self.move_slots([slot_of(agent_id)], host, pool=view.pool, timeout=timeout)

    async def balance_pool(self, name: str) -> int:
        """Spread the slots of a pool evenly again; return how many had been moved by hand.

        Raises:
            UnknownPart: there is no such pool.
        """
        return await self._manager.call("balance_pool", name)

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the machines of the cluster.

        Each with `id`, `address`, `status` (active, draining, drained, gone), `drained` (it was
        told to be), its `hosts`, and its `resources`.
        """
        return await self._manager.call("nodes")

    async def drain_node(self, node: str, *, timeout: float = WAIT_S) -> dict[str, Any]:
        """Let all hosts of a machine leave; none is placed there until `undrain_node`.

        Args:
            node: its id, or how that begins.
            timeout: seconds to wait; the drain goes on after that.

        Returns:
            The `node`, whether it has `drained`, its `hosts`, and what these are `waiting` for.

        Raises:
            UnknownPart: there is no such machine.
        """
        return await self._manager.call("drain_node", node, timeout)

    async def undrain_node(self, node: str) -> None:
        """Let hosts be placed on a machine again.

        Raises:
            UnknownPart: there is no such machine.
        """
        await self._manager.call("undrain_node", node)
