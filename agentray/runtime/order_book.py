"""The order book: what operators have ordered of hosts, pools and machines, kept in the Store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from agentray.store.base import Store
from agentray.store.orders import Order, OrderKind


class OrderBook:
    """Orders that hold until they are taken back, or their subject is gone.

    Attributes:
        hosts: that shall leave.
        nodes: whose hosts shall leave, and where none is placed.
        sizes: of pools, whatever their limits are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.hosts: set[str] = set()
        self.nodes: set[str] = set()
        self.sizes: dict[str, int] = {}
        self._pins: dict[str, dict[int, str]] = {}

    async def load(self) -> None:
        """Read what was ordered before."""
        for order in await self._store.list_orders():
            self._note(order)

    def pins(self, pool: str) -> Mapping[int, str]:
        """Return the hosts that slots of a pool were given to by hand."""
        return self._pins.get(pool, {})

    def wants_gone(self, host: str, node: str | None) -> bool:
        """Whether a host shall leave."""
        return host in self.hosts or node in self.nodes

    async def drain_host(self, host: str) -> None:
        """Let a host leave."""
        await self._keep([Order(OrderKind.DRAIN_HOST, host)])

    async def drain_node(self, node: str) -> None:
        """Let the hosts of a machine leave, and none come."""
        await self._keep([Order(OrderKind.DRAIN_NODE, node)])

    async def undrain_node(self, node: str) -> None:
        """Let hosts be placed on a machine again."""
        await self._store.delete_orders(OrderKind.DRAIN_NODE, [node])
        self.nodes.discard(node)

    async def size(self, pool: str, hosts: int | None) -> None:
        """Let a pool have so many hosts; None: as many as its limits and its load say."""
        if hosts is None:
            await self._store.delete_orders(OrderKind.POOL_SIZE, [pool])
            self.sizes.pop(pool, None)
        else:
            await self._keep([Order(OrderKind.POOL_SIZE, pool, hosts)])

    async def pin(self, pool: str, slots: Collection[int], host: str) -> None:
        """Give slots to a host for as long as it lives."""
        kind = OrderKind.PIN_SLOT
        await self._keep([Order(kind, f"{pool}/{slot}", host) for slot in slots])

    async def unpin(self, pool: str) -> int:
        """Forget who was given slots of a pool; return how many there were."""
        pins = self._pins.get(pool, {})
        await self._forget_pins(pool, pins)
        return len(pins)

    async def forget_host(self, host: str) -> None:
        """Forget what was ordered of a host that is gone."""
        if host in self.hosts:
            await self._store.delete_orders(OrderKind.DRAIN_HOST, [host])
            self.hosts.discard(host)
        for pool, pins in list(self._pins.items()):
            await self._forget_pins(pool, [slot for slot, to in pins.items() if to == host])

    async def _forget_pins(self, pool: str, slots: Collection[int]) -> None:
        if slots:
            subjects = [f"{pool}/{slot}" for slot in slots]
            await self._store.delete_orders(OrderKind.PIN_SLOT, subjects)
            left = {s: host for s, host in self._pins[pool].items() if s not in slots}
            self._pins[pool] = left

    async def _keep(self, orders: Sequence[Order]) -> None:
        await self._store.put_orders(orders)
        for order in orders:
            self._note(order)

    def _note(self, order: Order) -> None:
        match order.kind:
            case OrderKind.DRAIN_HOST:
                self.hosts.add(order.subject)
            case OrderKind.DRAIN_NODE:
                self.nodes.add(order.subject)
            case OrderKind.POOL_SIZE:
                self.sizes[order.subject] = order.value
            case OrderKind.PIN_SLOT:
                pool, _, slot = order.subject.rpartition("/")
                self._pins.setdefault(pool, {})[int(slot)] = order.value
