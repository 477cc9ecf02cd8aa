"""The choice of a machine for each host that the manager starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agentray.core.machines import MachineFact, Resident, choose_machine
from agentray.core.reconcile import HostStatus
from agentray.protocol.deployment import PoolSpec
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.order_book import OrderBook
from agentray.runtime.placements import PoolState
from agentray.runtime.ports import HostFactory, HostUnreachable
from agentray.runtime.seats import pool_of

logger = logging.getLogger(__name__)


class MachineChoice:
    """Says on which machine a host is to be started, as its pool's placement has it."""

    def __init__(
        self,
        factory: HostFactory,
        orders: OrderBook,
        pools: Mapping[str, PoolState],
        hosts: Mapping[str, HostKeeper],
        leaves: Callable[[HostKeeper], bool],
    ) -> None:
        """Made by the manager.

        Args:
            factory: knows the machines.
            orders: of operators: which machines are drained.
            pools: by name.
            hosts: the manager's by id; those that are on their way count where they are meant for.
            leaves: whether somebody wants a host gone.
        """
        self._factory = factory
        self._orders = orders
        self._pools = pools
        self._hosts = hosts
        self._leaves = leaves

    async def choose(self, keeper: HostKeeper, spec: PoolSpec) -> None:
        """Note at a keeper for which machine its host is meant: none, where Ray shall decide."""
        try:
            nodes = await self._factory.nodes()
        except HostUnreachable as error:
            logger.warning("%s", error, extra={"action": "machines_unknown"})
            return
        # Nothing is awaited from here on: several hosts are started at once.
        keeper.meant_for = choose_machine(
            pool_of(keeper.pool),
            spec.placement,
            spec.demand,
            [
                MachineFact(node.id, node.resources, node.free)
                for node in nodes
                if node.id not in self._orders.nodes
            ],
            [found for other in self._hosts.values() if (found := self._resident(other))],
        )

    def _resident(self, keeper: HostKeeper) -> Resident | None:
        """Return where a host is that is going to stay; None: it is nowhere, or leaves."""
        pool, machine = self._pools.get(keeper.pool), keeper.node or keeper.meant_for
        leaves = keeper.status in (HostStatus.DRAINING, HostStatus.DEAD) or self._leaves(keeper)
        if machine is None or pool is None or leaves or keeper.generation != pool.generation:
            return None
        return Resident(machine, pool_of(keeper.pool), pool.spec.demand)
