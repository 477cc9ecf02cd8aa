"""Orders of operators, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from agentray.store.database import Database
from agentray.store.orders import Order, OrderKind


class PostgresOrders:
    """An `OrderStore`."""

    _database: Database

    async def put_orders(self, orders: Sequence[Order]) -> None:
        """Keep orders, in one statement; one about the same subject is replaced."""
        if not orders:
            return
        kinds = [order.kind.value for order in orders]
        subjects = [order.subject for order in orders]
        values = [json.dumps(order.value) for order in orders]
        await self._database.execute("put_orders", kinds, subjects, values)

    async def delete_orders(self, kind: OrderKind, subjects: Collection[str]) -> None:
        """Forget orders; harmless where there are none."""
        await self._database.execute("delete_orders", kind.value, list(subjects))

    async def list_orders(self) -> list[Order]:
        """Return all orders, by kind and subject."""
        found = await self._database.fetch("list_orders")
        return [
            Order(OrderKind(row["kind"]), row["subject"], json.loads(row["value"])) for row in found
        ]
