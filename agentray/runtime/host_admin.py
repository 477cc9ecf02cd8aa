"""What operators do with hosts and machines while the cluster runs: drain, resize, move slots.

Each of them is an order that is kept, and carried out by the manager's loop; what is asked here
waits until that has happened. Nothing under way is lost by it, see `departures`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from agentray.core.reconcile import HostStatus
from agentray.errors import ConfigurationError, UnknownPart
from agentray.ids import SLOTS
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.order_book import OrderBook
from agentray.runtime.placements import Placements
from agentray.runtime.ports import HostFactory, NodeInfo

_LOOK_S = 0.5


class HostAdmin:
    """Carries out what is ordered of hosts and machines."""

    def __init__(
        self,
        orders: OrderBook,
        placements: Placements,
        hosts: Mapping[str, HostKeeper],
        factory: HostFactory,
        *,
        wake: Callable[[], None],
    ) -> None:
        """Made by the manager.

        Args:
            orders: what was ordered.
            placements: of the pools.
            hosts: the manager's hosts by id.
            factory: knows the machines.
            wake: lets the manager look at once.
        """
        self._orders = orders
        self._placements = placements
        self._hosts = hosts
        self._factory = factory
        self._wake = wake

    # Hosts

    def leaves(self, keeper: HostKeeper) -> bool:
        """Whether a host is to go where others may stay."""
        if keeper.status is HostStatus.PENDING and not keeper.avoids <= self._orders.nodes:
            return True  # it waits for room, and there may be some now where it must not be
        return self._orders.wants_gone(keeper.ref.id, keeper.node)

    async def drain_host(self, host: str, wait_s: float) -> dict[str, Any]:
        """Replace a host by a fresh one; return when it has left, or after `wait_s`.

        Returns:
            `host`, whether it has `drained`, and what it is `waiting` for if not.

        Raises:
            UnknownPart: there is no such host.
        """
        self._host(host)
        await self._orders.drain_host(host)
        self._wake()
        await self._until(lambda: host not in self._hosts, wait_s)
        return {"host": host, "drained": host not in self._hosts, "waiting": self._waiting([host])}

    def _host(self, host: str) -> HostKeeper:
        keeper = self._hosts.get(host)
        if keeper is None:
            raise UnknownPart("host", host, tuple(self._hosts))
        return keeper

    def _waiting(self, hosts: Collection[str]) -> str:
        """Return what hosts wait for that shall leave and are still there; "": nothing."""
        there = [self._hosts[host] for host in hosts if host in self._hosts]
        if not there:
            return ""
        reasons = [self._placements.shortage(keeper.pool) for keeper in there]
        short = next((shortage.reason for shortage in reasons if shortage is not None), "")
        if short:
            return f"its successor has no room: {short}"
        errors = [self._placements.pools[k.pool].last_error for k in there if self._knows(k.pool)]
        failed = next(filter(None, errors), "")
        return f"its successor does not start: {failed}" if failed else "its agents finish"

    def _knows(self, pool: str) -> bool:
        return pool in self._placements.pools

    async def _until(self, done: Callable[[], bool], wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while not done():
                    await self._news()
        except TimeoutError:
            return

    async def _news(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._placements.news()
        except TimeoutError:
            return  # not all that counts here is announced

    # Pools

    async def scale_pool(self, name: str, hosts: int | None, wait_s: float) -> None:
        """Let a pool have so many hosts; return when it has, or after `wait_s`.

        Args:
            name: of the pool.
            hosts: how many, whatever its limits are; None: as many as its limits and load say.
            wait_s: the longest wait.

        Raises:
            UnknownPart, ConfigurationError: there is no such pool, or it is not resized so.
        """
        spec = self._pool(name).spec
        if spec.isolated:
            raise ConfigurationError(f"The pool {name!r} has a host for each agent that needs one.")
        if hosts is not None and hosts < 1:
            raise ConfigurationError(f"A pool has at least one host, not {hosts}.")
        self._pool(name).last_error = ""  # what failed earlier may succeed now
        await self._orders.size(name, hosts)
        self._wake()

        def has_them() -> bool:
            there = sum(keeper.pool == name for keeper in self._hosts.values())
            live = len(self._placements.live(name))
            wanted = self._placements.wanted(name)
            waits = self._placements.shortage(name) or self._pool(name).last_error
            return (live == there == wanted and self._placements.leased(name)) or bool(waits)

        await self._until(has_them, wait_s)

    def _pool(self, name: str) -> Any:
        if name not in self._placements.pools:
            raise UnknownPart("pool", name, tuple(self._placements.pools))
        return self._placements.pools[name]

    async def move_slots(
        self, pool: str, slots: Collection[int], host: str, wait_s: float
    ) -> dict[str, Any]:
        """Give slots to a host for as long as it lives; return when it has them.

        Returns:
            `pool`, `host`, and the slots that are `waiting`: what is under way in them goes on.

        Raises:
            ConfigurationError: there is no such pool or slot, or the host cannot take it.
        """
        known = self._pool(pool)
        keeper = self._host(host)
        if wrong := [slot for slot in slots if not 0 <= slot < SLOTS]:
            raise ConfigurationError(f"There is no slot {wrong[0]}: they are 0 to {SLOTS - 1}.")
        if keeper.pool != pool:
            raise ConfigurationError(f"The host {host} belongs to the pool {keeper.pool!r}.")
        leaves = self._orders.wants_gone(host, keeper.node)
        if leaves or keeper.status is not HostStatus.LIVE or keeper.generation != known.generation:
            raise ConfigurationError(f"The host {host} takes no slots: it is not live, or leaves.")
        await self._orders.pin(pool, slots, host)
        self._wake()
        await self._until(lambda: all(known.slots[s] == host for s in slots), wait_s)
        return {
            "pool": pool,
            "host": host,
            "waiting": [slot for slot in sorted(slots) if known.slots[slot] != host],
        }

    async def balance_pool(self, name: str) -> int:
        """Spread a pool's slots evenly again; return how many had been given by hand.

        Raises:
            UnknownPart: there is no such pool.
        """
        self._pool(name)
        forgotten = await self._orders.unpin(name)
        self._wake()
        return forgotten

    # Machines

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the machines, as JSON."""
        found = await self._factory.nodes()
        gone = self._orders.nodes - {node.id for node in found}
        return [
            *(self._describe(node) for node in found),
            *(self._describe(NodeInfo(node, "", alive=False)) for node in sorted(gone)),
        ]

    def _describe(self, node: NodeInfo) -> dict[str, Any]:
        hosts = self._hosts_on(node.id)
        drains = node.id in self._orders.nodes
        status = "drained" if drains and not hosts else "draining" if drains else "active"
        return {
            "id": node.id,
            "address": node.address,
            "status": status if node.alive else "gone",
            "drained": drains,
            "hosts": hosts,
            "resources": {n: much for n, much in node.resources.items() if _is_shown(n)},
        }

    def _hosts_on(self, node: str) -> list[str]:
        return [host for host, keeper in self._hosts.items() if keeper.node == node]

    async def _node(self, node: str) -> str:
        """Return the id of a machine of which the beginning was given.

        Raises:
            UnknownPart, ConfigurationError: no machine's id begins so, or those of several.
        """
        known = {found.id for found in await self._factory.nodes()} | self._orders.nodes
        fitting = [each for each in known if node and each.startswith(node)]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise UnknownPart("node", node, tuple(known))
        there = ", ".join(sorted(known))
        raise ConfigurationError(f"There are several nodes {node!r}. There are: {there}.")

    async def drain_node(self, node: str, wait_s: float) -> dict[str, Any]:
        """Let all hosts of a machine leave, and none come; wait for that, at most `wait_s`.

        Returns:
            The `node`, whether it has `drained`, its `hosts`, and what these are `waiting` for.

        Raises:
            UnknownPart: there is no such machine.
        """
        node = await self._node(node)
        await self._orders.drain_node(node)
        self._wake()
        await self._until(lambda: not self._hosts_on(node), wait_s)
        hosts = self._hosts_on(node)
        waiting = self._waiting(hosts)
        return {"node": node, "drained": not hosts, "hosts": hosts, "waiting": waiting}

    async def undrain_node(self, node: str) -> None:
        """Let hosts be placed on a machine again.

        Raises:
            UnknownPart: there is no such machine.
        """
        await self._orders.undrain_node(await self._node(node))
        self._wake()


def _is_shown(resource: str) -> bool:
    """Whether people want to know of it: not what Ray itself calls machines by."""
    return ":" not in resource and resource != "object_store_memory"
