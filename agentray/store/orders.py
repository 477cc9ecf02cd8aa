"""What operators have ordered of hosts, pools and machines, kept until they take it back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class OrderKind(StrEnum):
    """What is ordered."""

    DRAIN_HOST = "drain_host"  # subject: a host; it leaves, and a fresh one takes its place
    DRAIN_NODE = "drain_node"  # subject: a node; its hosts leave, and none is placed there
    POOL_SIZE = "pool_size"  # subject: a pool; value: how many hosts, whatever its limits are
    PIN_SLOT = "pin_slot"  # subject: pool/slot; value: the host that shall lease it


@dataclass(frozen=True, slots=True)
class Order:
    """Something that was ordered."""

    kind: OrderKind
    subject: str
    value: Any = None  # JSON


class OrderStore(Protocol):
    """Keeps orders."""

    async def put_orders(self, orders: Sequence[Order]) -> None:
        """Keep orders, all or none; one about the same subject is replaced."""
        ...

    async def delete_orders(self, kind: OrderKind, subjects: Collection[str]) -> None:
        """Forget orders; harmless where there are none."""
        ...

    async def list_orders(self) -> list[Order]:
        """Return all orders, by kind and subject."""
        ...
