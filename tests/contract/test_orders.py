"""Orders of operators are kept until they are taken back."""

from __future__ import annotations

from agentray.store.base import Store
from agentray.store.orders import Order, OrderKind


async def test_orders_are_replaced_by_subject_and_forgotten_by_kind(store: Store) -> None:
    size = Order(OrderKind.POOL_SIZE, "default", 3)
    pins = [Order(OrderKind.PIN_SLOT, f"default/{slot}", "host-1") for slot in (3, 4)]
    node = Order(OrderKind.DRAIN_NODE, "default", None)
    await store.put_orders([size, *pins])
    await store.put_orders([node, larger := Order(OrderKind.POOL_SIZE, "default", 4)])
    await store.put_orders([])
    assert await store.list_orders() == [node, *pins, larger]

    await store.delete_orders(OrderKind.PIN_SLOT, ["default/3", "default/9"])
    await store.delete_orders(OrderKind.DRAIN_HOST, ["default"])
    assert await store.list_orders() == [node, pins[1], larger]
