"""Orders of operators, in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentray.store.orders import Order, OrderKind


class MemoryOrders:
    """An `OrderStore`."""

    _orders: dict[tuple[OrderKind, str], Order]

    async def put_orders(self, orders: Sequence[Order]) -> None:
        """Keep orders; one about the same subject is replaced."""
        self._orders.update({(order.kind, order.subject): order for order in orders})

    async def delete_orders(self, kind: OrderKind, subjects: Collection[str]) -> None:
        """Forget orders; harmless where there are none."""
        for subject in subjects:
            self._orders.pop((kind, subject), None)

    async def list_orders(self) -> list[Order]:
        """Return all orders, by kind and subject."""
        return [order for _, order in sorted(self._orders.items())]
