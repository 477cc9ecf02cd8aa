"""Who can change what is in an event: nobody but the one who has it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, field_validator

from agentray import (
    Agent,
    AgentId,
    App,
    Event,
    ManagerClient,
    Middleware,
    PayloadError,
    RunFailed,
    action,
    loop,
    on,
)
from agentray.event_payloads import payload_of, snapshot_of
from agentray.event_run import DurabilityName
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Copied, copies_of
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

WAYS = ["publishes", "at once", "topic", "returns", "returns a list", "yields", "calls"]


class Cart(BaseModel):
    items: list[Any] = []


class Shopping(BaseModel):
    cart: Cart = Cart()


class Begin(Event):
    way: str
    good: bool = True


class BeginYielding(Begin):
    pass


class Changed(Event):
    cart: Cart


class Shop(Agent):
    """Puts its own state into events, and goes on to change it."""

    state: Shopping

    @on(Begin, key="key:one")
    async def begin(self, begin: Begin) -> Any:
        return await self.add(begin.way, good=begin.good)

    @on(BeginYielding, key="key:one")
    async def begin_yielding(self, begin: BeginYielding) -> AsyncIterator[Event]:
        cart = self.cart(good=begin.good)
        yield Changed(cart=cart)
        cart.items.append("later")

    def cart(self, *, good: bool) -> Cart:
        self.state.cart.items.append("a" if good else threading.Lock())
        return self.state.cart

    @action
    async def add(self, way: str, *, good: bool = True) -> Any:
        cart = self.cart(good=good)
        changed = Changed(cart=cart)
        match way:
            case "returns":
                return changed
            case "returns a list":
                return [changed]
            case "topic":
                self.context.publish(changed, topic="carts/one")
            case _:
                self.context.publish(changed, at_once=way == "at once")
        cart.items.append("later")
        return None

    @action
    async def items(self) -> list[Any]:
        return self.state.cart.items


class Audit(Agent):
    """Changes what it gets."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    @on(Changed, key="key:one")
    @on(Changed, topic="carts", key="key:one")
    async def heard(self, changed: Changed) -> None:
        self.seen.append(list(changed.cart.items))
        changed.cart.items.append("audited")

    @action
    async def report(self) -> list[list[Any]]:
        return self.seen


class SecondAudit(Audit):
    pass


AUDITS = [Audit, SecondAudit]


async def reported(manager: ManagerClient, kind: type[Audit]) -> list[list[Any]]:
    found: list[list[Any]] = []

    async def there() -> bool:
        found[:] = await manager.handle(kind, "one").report()
        return bool(found)

    await eventually_async(there, timeout_s=10)
    return found


def begin_of(way: str, *, good: bool = True) -> Begin:
    return BeginYielding(way=way, good=good) if way == "yields" else Begin(way=way, good=good)


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("durability", ["none", "run", "step"])
@pytest.mark.parametrize("way", WAYS)
async def test_who_gets_an_event_sees_what_was_published(
    way: str, durability: DurabilityName, hosts: int
) -> None:
    async with LocalRuntime(hosts=hosts) as manager:
        await manager.deploy(App("shop", [Shop, *AUDITS]))
        run = await manager.dispatch(begin_of(way), durability=durability)
        await run.wait()
        assert run.status == "succeeded"
        for kind in AUDITS:
            assert await reported(manager, kind) == [["a"]]
        later = [] if way.startswith("returns") else ["later"]
        assert await manager.handle(Shop, "one").items() == ["a", *later]
        kept = [event async for event in run.events() if isinstance(event, Changed)]
        assert [event.cart.items for event in kept] == [["a"]]


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("way", ["publishes", "at once", "topic"])
async def test_what_an_action_publishes_is_nobody_elses(way: str, hosts: int) -> None:
    async with LocalRuntime(hosts=hosts) as manager:
        await manager.deploy(App("shop", [Shop, *AUDITS]))
        shop = manager.handle(Shop, "one")
        await shop.add(way)
        for kind in AUDITS:
            assert await reported(manager, kind) == [["a"]]
        assert await shop.items() == ["a", "later"]


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("durability", ["none", "run", "step"])
@pytest.mark.parametrize("way", WAYS)
async def test_an_event_that_cannot_travel_is_its_senders_error(
    way: str, durability: DurabilityName, hosts: int
) -> None:
    async with LocalRuntime(hosts=hosts) as manager:
        await manager.deploy(App("shop", [Forgetful, *AUDITS]))
        run = await manager.dispatch(begin_of(way, good=False), durability=durability)
        with pytest.raises(RunFailed, match=r"\.cart\.items\[0\] is a _thread\.lock") as failed:
            await run.result()
        assert failed.value.error_type == "PayloadError"
        for kind in AUDITS:
            assert await manager.handle(kind, "one").report() == []


class Forgetful(Shop):
    """Does not keep what it publishes: it is its event that fails, and not its state."""

    def cart(self, *, good: bool) -> Cart:
        return Cart(items=["a" if good else threading.Lock()])


async def test_an_action_hears_that_its_event_cannot_travel_wherever_it_would_go() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("shop", [Forgetful, *AUDITS]))
        with pytest.raises(PayloadError, match=r"\.cart\.items\[0\]"):
            await manager.handle(Forgetful, "one").add("publishes", good=False)
        with pytest.raises(PayloadError, match=r": \.cart\.items\[0\]"):
            await manager.dispatch(Changed(cart=Cart(items=[threading.Lock()])))


class Looping(Agent):
    """Publishes in a loop, and changes what it has published."""

    @action
    async def start(self) -> None:
        pass

    @loop
    async def work(self) -> None:
        cart = Cart(items=["a"])
        self.context.publish(Changed(cart=cart))
        async with self.turn():
            cart.items.append("later")
            self.context.publish(Changed(cart=cart))
            cart.items.append("later still")


async def test_what_a_loop_publishes_is_nobody_elses() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("shop", [Looping, Audit]))
        await manager.handle(Looping, "one").start()

        async def both() -> bool:
            return len(await manager.handle(Audit, "one").report()) == 2

        await eventually_async(both, timeout_s=10)
        assert await manager.handle(Audit, "one").report() == [["a"], ["a", "later"]]


class Rewriting(Middleware):
    """Changes events, and keeps the list that it has put into them."""

    items: list[Any] = []  # noqa: RUF012 - it is what is tested

    def on_publish(self, event: Event) -> Event:
        if isinstance(event, Changed):
            event.cart.items.append("in place")
            event = event.model_copy(update={"cart": Cart.model_construct(items=self.items)})
            self.items.append("made")
        return event


async def test_what_middleware_makes_of_an_event_is_what_is_published() -> None:
    Rewriting.items = []
    async with LocalRuntime() as manager:
        await manager.deploy(App("shop", [Shop, *AUDITS], middleware=[Rewriting]))
        shop = manager.handle(Shop, "one")
        await shop.add("publishes")
        for kind in AUDITS:
            assert await reported(manager, kind) == [["made"]]
        assert await shop.items() == ["a", "later"]


# Which events are shared


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    left: Any
    right: Any


class Point(BaseModel):
    model_config = ConfigDict(frozen=True)

    x: Any = 1


class Mark(BaseModel):
    x: int = 1


class Anything(Event):
    x: Any = None


class Plain(Event):
    text: str = "a"
    number: float | None = None
    when: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "event",
    [
        Plain(),
        Anything(x=b"bytes"),
        Anything(x=("a", (1, frozenset({2.0, None})))),
        Anything(x=Colour.RED),
        Anything(x=Point(x=(1, Point()))),
        Anything(x=Pair(1, AgentId("a", "b"))),
    ],
)
def test_an_event_that_nobody_can_change_is_shared(event: Event) -> None:
    assert snapshot_of(event) is event
    assert payload_of(event) is event


class Loose(Event):
    model_config = ConfigDict(frozen=False)

    x: int = 1


class More(Event):
    model_config = ConfigDict(extra="allow")


class Hidden(Event):
    _kept: int = PrivateAttr(default=1)


class Split(Event):
    text: str = ""

    @field_validator("text")
    @classmethod
    def _split(cls, text: str) -> Any:
        return text.split()


class SplitToo(Event):
    text: Annotated[str, AfterValidator(str.split)] = ""


class WrongDefault(Event):
    text: str = []  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize(
    "event",
    [
        Anything(x=[1]),
        Anything(x=({},)),
        Anything(x=Point(x=[1])),
        Anything(x=Mark()),
        Anything(x=Pair([], 1)),
        Anything(x=bytearray(b"a")),
        Loose(),
        More(items=[1]),  # pyright: ignore[reportCallIssue]
        Hidden(),
        Split(text="a b"),
        SplitToo(text="a b"),
        WrongDefault(),
    ],
    ids=lambda event: f"{type(event).__name__} {getattr(event, 'x', '')}",
)
def test_an_event_that_can_be_changed_is_encoded_once_and_read_by_each(event: Event) -> None:
    taken = snapshot_of(event)
    assert taken is not event
    assert taken == event
    payload = payload_of(taken)
    assert type(payload) is Copied
    assert payload_of(taken) is payload
    fields = (1, 3, "a", "b", event.event_type, payload, *[None] * 9, [("a", "c")])
    first, second = (decode(envelope.payload) for envelope in copies_of(fields))
    assert first == second == event
    assert first is not second


def test_a_copy_of_an_event_does_not_have_its_bytes() -> None:
    taken = snapshot_of(Anything(x=[1]))
    changed = taken.model_copy(update={"x": [2]})
    assert decode(payload_of(changed)).x == [2]
    assert decode(payload_of(taken)).x == [1]
