"""Looking at an agent without disturbing it: ping, status, stats, describe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentOptions, App, Event, ManagerClient, UnknownAgentType, action, on
from agentray.testing import LocalRuntime

if TYPE_CHECKING:
    from decimal import Decimal


class Order(BaseModel):
    item: str
    count: int = 1


class Ordered(Event):
    item: str


class Shelf(BaseModel):
    items: dict[str, int] = {}


class Shop(Agent):
    """Sells things."""

    options = AgentOptions(name="shop")
    state: Shelf
    started = 0

    async def on_start(self) -> None:
        Shop.started += 1

    @action(idempotent=True)
    async def price(self, order: Order, *, currency: str = "EUR") -> float:
        """Return what an order costs."""
        del currency
        if order.count < 0:
            raise ValueError("fewer than none")
        return 2.5 * order.count

    @action
    async def items(self, *names: str, **options: bool) -> AsyncIterator[Order]:
        del options
        for name in names:
            yield Order(item=name)

    @action
    def odd(self, plain: Any, exact: Decimal) -> object:
        return (plain, exact)

    @action
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @on(Ordered, key="key:main")
    async def ordered(self, ordered: Ordered) -> None:
        self.state.items[ordered.item] = 1


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    Shop.started = 0
    async with LocalRuntime() as manager:
        await manager.deploy(App("shops", [Shop]))
        yield manager


async def test_looking_at_an_agent_does_not_start_it(manager: ManagerClient) -> None:
    shop = manager.handle(Shop, "a")
    assert await shop.ping() >= 0.0
    assert (await shop.status())["status"] == "not in memory"
    assert (await shop.stats())["completed"] == 0
    assert (await shop.describe())["type"] == "shop"
    assert Shop.started == 0
    with pytest.raises(UnknownAgentType):
        await manager.handle("nobody", "a").status()


async def test_what_an_agent_does_is_counted(manager: ManagerClient) -> None:
    shop = manager.handle(Shop, "a")
    assert await shop.price(Order(item="pen", count=2)) == 5.0
    with pytest.raises(ValueError, match="fewer"):
        await shop.price(Order(item="pen", count=-1))
    waiting = [asyncio.create_task(shop.wait(0.2)) for _ in range(3)]
    await asyncio.sleep(0.05)
    stats = await shop.stats()
    assert {name: stats[name] for name in ("queued", "running", "completed", "failed")} == {
        "queued": 2,
        "running": 1,
        "completed": 1,
        "failed": 1,
    }
    assert "fewer than none" in stats["last_error"]
    assert (await shop.status())["status"] == "running"
    await asyncio.gather(*waiting)
    status = await shop.status()
    assert (status["status"], status["queued"], status["agent"]) == ("idle", 0, "shop/a")
    assert (await shop.stats())["completed"] == 4


async def test_the_status_knows_agents_that_have_ended(manager: ManagerClient) -> None:
    shop = await manager.register(Shop, name="b")
    assert (await shop.status())["status"] == "registered"
    await manager.launch(shop)
    assert (await shop.status())["status"] == "idle"
    await manager.shutdown(shop)
    assert (await shop.status())["status"] == "stopped"


async def test_a_description_has_schemas_and_texts(manager: ManagerClient) -> None:
    told = await manager.handle(Shop, "a").describe()
    assert told["doc"] == "Sells things."
    assert told["events"] == [Ordered.event_type]
    assert told["state"]["properties"]["items"]["type"] == "object"
    price = told["actions"]["price"]
    assert (price["doc"], price["idempotent"], price["streams"]) == (
        "Return what an order costs.",
        True,
        False,
    )
    assert price["returns"] == {"type": "number"}
    assert price["parameters"]["required"] == ["order"]
    assert price["parameters"]["properties"]["order"]["required"] == ["item"]
    items = told["actions"]["items"]
    assert items["streams"]
    assert items["returns"]["title"] == "Order"
    assert items["parameters"]["properties"]["names"] == {
        "items": {"type": "string"},
        "type": "array",
    }
    odd = told["actions"]["odd"]  # a hint for type checkers only: the parameters stay
    assert odd["parameters"]["required"] == ["plain", "exact"]
