"""Topics, predicates and subscriptions at run time, as users of agents see them: several hosts."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    Event,
    ManagerClient,
    NoHandler,
    Pool,
    Prompt,
    Run,
    RunStatus,
    TopicId,
    TopicSubscription,
    UnknownAgentType,
    on,
)
from agentray.errors import UnknownSubscription
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support import virtual_time
from tests.support.eventually import eventually_async


class Ordered(Event):
    number: int
    customer: Any = "ada"


class Reordered(Ordered):
    """A subclass, which most of the agents below do not handle."""


class Booked(Event):
    number: int


class Heard(NamedTuple):
    agent: str
    number: int
    topic: str | None


HEARD: list[Heard] = []
"""What all agents of this process have handled."""


@pytest.fixture(autouse=True)
def nothing_heard() -> Iterator[None]:
    HEARD.clear()
    yield
    HEARD.clear()


def heard(agent_type: str = "") -> list[tuple[str, int]]:
    return sorted((h.agent, h.number) for h in HEARD if h.agent.startswith(agent_type))


class Listener(Agent):
    """Notes what it handles; subclasses say what that is."""

    options = AgentOptions(mailbox=10_000)

    def note(self, event: Ordered | Booked) -> None:
        topic = self.context.topic
        HEARD.append(Heard(str(self.id), event.number, None if topic is None else str(topic)))


class Desk(Listener):
    """Publishes what a prompt lists: class, number, topic, and fields."""

    @on(Prompt)
    async def receive(self, prompt: Prompt) -> None:
        for name, number, topic, fields in json.loads(prompt.text):
            event = {"o": Ordered, "r": Reordered, "b": Booked}[name](number=number, **fields)
            self.context.publish(event, topic=topic)

    # Would be its own, if it were sent back.
    @on(Booked, key="any:1")
    async def booked(self, booked: Booked) -> None:
        self.note(booked)


class Exact(Listener):
    @on(Ordered, topic="orders")
    async def take(self, ordered: Ordered) -> None:
        self.note(ordered)


class Beginning(Listener):
    @on(Ordered, topic="orders.*", subclasses=True)
    async def take(self, ordered: Ordered) -> Booked:
        self.note(ordered)
        return Booked(number=ordered.number)


class Everything(Listener):
    """Matches in three ways, and gets an event once all the same."""

    @on(Ordered, key="key:x")
    @on(Ordered, key="key:x", topic="*")
    @on(Ordered, key="key:x", topic="orders")
    async def take(self, ordered: Ordered) -> None:
        self.note(ordered)


class OnDemand(Listener):
    """Gets what somebody subscribes it to."""

    @on(Ordered, Booked, subscribe=False)
    async def take(self, event: Ordered | Booked) -> None:
        self.note(event)


class Broken(Agent):
    def __init__(self) -> None:
        raise OSError("no such disk")

    @on(Ordered, key="key:x")
    async def take(self, ordered: Ordered) -> None: ...


class Choosy(Listener):
    @on(Ordered, key=lambda ordered: ordered.customer, where=lambda ordered: ordered.number > 10)
    async def take(self, ordered: Ordered) -> None:
        self.note(ordered)


class Echo(Listener):
    """Answers each order with two more, until it is enough; wants its own, or not."""

    @on(Ordered, key="any:1", own=True)
    async def take(self, ordered: Ordered) -> list[Ordered]:
        self.note(ordered)
        return [] if ordered.number > 2 else [Ordered(number=ordered.number + 1)]


class Deaf(Listener):
    @on(Ordered, key=lambda ordered: "0" if ordered.number % 2 else "1")
    async def take(self, ordered: Ordered) -> list[Ordered]:
        self.note(ordered)
        return [Ordered(number=n) for n in range(10, 14)] if ordered.number < 10 else []


class Mute(Agent):
    """Handles nothing."""


def order(*numbers: int, topic: str | None = None, kind: str = "o", **fields: Any) -> str:
    return json.dumps([[kind, number, topic, fields] for number in numbers])


async def publish(manager: ManagerClient, what: str, desk: str = "d") -> Run:
    """Have something published, and return when all that it has set off is done."""
    return await asyncio.wait_for(manager.prompt(what, agent=AgentId("desk", desk)), 20)


Cluster = tuple[LocalRuntime, ManagerClient]
Deploy = Callable[..., Coroutine[Any, Any, ManagerClient]]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three hosts on which `deploy` has put nothing yet."""
    runtime = LocalRuntime(hosts=3)
    async with runtime as manager:
        yield runtime, manager


@pytest.fixture
def runtime(cluster: Cluster) -> LocalRuntime:
    return cluster[0]


@pytest.fixture
def deploy(cluster: Cluster) -> Deploy:
    _, manager = cluster

    async def deploy(*agents: type[Agent]) -> ManagerClient:
        await manager.deploy(App("topics", [Desk, *agents]))
        return manager

    return deploy


# Handlers of classes


async def test_topics_choose_who_gets_an_event_and_their_source_which_instance(deploy: Deploy):
    manager = await deploy(Exact, Beginning, Everything)
    await publish(manager, order(1, topic="orders/eu"))
    await publish(manager, order(2, topic="orders.late/us/1"))
    await publish(manager, order(3, topic="orders"))
    await publish(manager, order(4, topic="news"))
    await publish(manager, order(5))
    assert heard("exact") == [("exact/default", 3), ("exact/eu", 1)]
    assert heard("beginning") == [("beginning/us/1", 2)]
    assert heard("everything") == [("everything/x", n) for n in range(1, 6)]
    # The topic is known in the handler, and what it returns is on none.
    told = {h.number: h.topic for h in HEARD if h.agent.startswith("everything")}
    topics = ["orders/eu", "orders.late/us/1", "orders/default", "news/default", None]
    assert [told[n] for n in range(1, 6)] == topics
    assert [h.topic for h in HEARD if h.agent.startswith("desk")] == [None]


async def test_an_event_of_a_subclass_goes_to_those_who_want_subclasses(deploy: Deploy):
    manager = await deploy(Exact, Beginning, Everything)
    await publish(manager, order(1, topic="orders/eu", kind="r"))
    assert heard() == []
    await publish(manager, order(2, topic="orders.late/eu", kind="r"))
    assert heard() == [("beginning/eu", 2), ("desk/0", 2)]


async def test_an_event_is_never_sent_back_but_goes_to_another_key_of_the_same_type(
    deploy: Deploy,
):
    manager = await deploy(Deaf)
    await publish(manager, order(1))
    # deaf/0 took 1 and published 10 to 13: those for itself were not sent.
    assert heard() == [("deaf/0", 1), ("deaf/1", 10), ("deaf/1", 12)]
    HEARD.clear()
    await publish(manager, order(7, kind="b"), desk="0")
    assert heard() == []
    await publish(manager, order(8, kind="b"), desk="other")
    assert heard() == [("desk/0", 8)]


async def test_an_agent_that_asks_for_its_own_events_gets_them(deploy: Deploy):
    manager = await deploy(Echo)
    await publish(manager, order(0))
    assert heard() == [("echo/0", n) for n in range(4)]


async def test_a_recipient_that_cannot_be_started_keeps_the_event_from_nobody(deploy: Deploy):
    manager = await deploy(Broken, Everything, OnDemand)
    await manager.subscribe(OnDemand, "*")
    run = await publish(manager, order(1, topic="orders/eu"))
    assert heard() == [("everything/x", 1), ("on_demand/eu", 1)]
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.agent) == ("AgentFailed", "broken/x")


# Functions


async def test_functions_of_the_event_choose_whether_and_which_instance(deploy: Deploy):
    manager = await deploy(Choosy)
    for number, customer in ((11, "ada"), (10, "ada"), (12, "bob")):
        await publish(manager, order(number, customer=customer))
    assert heard() == [("choosy/ada", 11), ("choosy/bob", 12)]


@pytest.mark.parametrize(
    ("customer", "error", "message"),
    [
        (7, "ConfigurationError", "returned 7 for .*Ordered: it must return a str"),
        (None, "ConfigurationError", "returned None"),
        ("", "ConfigurationError", "1 to 512 characters"),
        ("nul\0", "ConfigurationError", "none of them NUL"),
        ("x" * 513, "ConfigurationError", "1 to 512 characters"),
    ],
)
async def test_a_key_function_that_returns_nonsense_is_an_error_of_that_branch_only(
    deploy: Deploy, customer: object, error: str, message: str
):
    manager = await deploy(Choosy, Everything)
    run = await publish(manager, order(11, customer=customer))
    assert heard() == [("everything/x", 11)]
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.agent) == (error, "choosy")
    with pytest.raises(ValueError, match=message):
        raise ValueError(run.error.message)
    assert list(run.error.path) == ["Prompt at desk/d", "Ordered to choosy"]


class Strict(Listener):
    @on(Ordered, key="key:x", where=lambda ordered: 1 / (ordered.number - 1) > 0)
    async def take(self, ordered: Ordered) -> None:
        self.note(ordered)


async def test_a_predicate_that_raises_is_an_error_of_that_branch_only(deploy: Deploy):
    manager = await deploy(Strict, Everything)
    run = await publish(manager, order(1, 2))
    assert heard() == [("everything/x", 1), ("everything/x", 2), ("strict/x", 2)]
    assert run.error is not None
    assert (run.error.type, run.error.agent) == ("ZeroDivisionError", "strict")
    assert list(run.error.path) == ["Prompt at desk/d", "Ordered to strict"]


# Dead letters


async def test_an_event_that_nobody_wants_is_counted_and_kept_with_all_that_it_was(
    runtime: LocalRuntime, deploy: Deploy
):
    manager = await deploy(Exact, Choosy)
    assert (await manager.status())["dead_letters"] == 0
    await publish(manager, order(1, topic="news/eu"))
    await publish(manager, order(2), desk="e")  # choosy says no
    await publish(manager, order(3, kind="b"), desk="0")  # only the sender itself would want it
    await publish(manager, order(4, topic="orders/eu"))

    async def letters() -> list[Event]:
        found = [Event.from_json(letter.payload) for letter in await manager.dead_letters()]
        return found if len(found) == 3 else []

    found = await eventually_async(letters)
    published = {e.event_id: e for e in runtime.published}
    assert [published[event.event_id] for event in found] == found
    assert {event.number for event in found if isinstance(event, Ordered | Booked)} == {1, 2, 3}
    assert len(await manager.dead_letters(limit=2)) == 2

    async def counted() -> bool:
        status = await manager.status()
        of_hosts = sum(host.get("dead_letters", 0) for host in status["hosts"])
        return status["dead_letters"] == of_hosts == 3

    await eventually_async(counted)
    killed = runtime.host_of(AgentId("desk", "d"))
    assert killed is not None
    await runtime.kill_host(killed)

    async def buried() -> bool:
        return killed not in {host["id"] for host in (await manager.status())["hosts"]}

    await eventually_async(buried)
    assert (await manager.status())["dead_letters"] == 3


def test_what_is_kept_in_memory_does_not_grow_with_the_topics_that_are_seen() -> None:
    async def scenario() -> None:
        store: Any = MemoryStore()
        runtime = LocalRuntime(hosts=1, store=store)
        async with runtime as manager:
            await manager.deploy(App("topics", [Desk, OnDemand]))
            await manager.subscribe(OnDemand, "orders.*", key="key:x")

            async def publish_all(first: int, last: int) -> None:
                events: list[Any] = [("o", n, f"orders.{n}/{n}", {}) for n in range(first, last)]
                run = await publish(manager, json.dumps(events))
                assert await manager.trace(run.id) is not None  # it is written behind the run
                # What a cluster does not keep in its hosts' memory: here it is all one.
                runtime.published.clear()
                store._runs.clear()
                store._traces.clear()
                HEARD.clear()

            await publish_all(0, 600)
            tracemalloc.start()
            await publish_all(600, 1200)
            before = tracemalloc.get_traced_memory()[0]
            for first in range(1200, 6200, 500):
                await publish_all(first, first + 500)
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert grown < 150_000, grown

    virtual_time.run(scenario())


# Subscriptions at run time


async def test_a_subscription_begins_and_ends_at_run_time(deploy: Deploy):
    manager = await deploy(OnDemand)
    await publish(manager, order(0, topic="orders/eu"))
    subscription = await manager.subscribe(OnDemand, "orders")
    assert subscription.id.startswith("sub_")
    assert await manager.subscriptions() == [subscription]
    for desk in "abcdefgh":  # on each of the hosts
        await publish(manager, order(1, topic="orders/eu"), desk)
    await manager.unsubscribe(subscription)
    for desk in "abcdefgh":
        await publish(manager, order(2, topic="orders/eu"), desk)
    assert heard() == [("on_demand/eu", 1)] * 8
    assert await manager.subscriptions() == []
    with pytest.raises(UnknownSubscription, match=subscription.id):
        await manager.unsubscribe(subscription.id)


async def test_a_subscription_that_is_there_is_returned_and_delivers_once(deploy: Deploy):
    manager = await deploy(OnDemand, Everything)
    first = await manager.subscribe(OnDemand, "orders")
    again = await asyncio.gather(*(manager.subscribe("on_demand", "orders") for _ in range(3)))
    assert again == [first] * 3
    others = [
        await manager.subscribe(OnDemand, "orders.*"),
        await manager.subscribe(OnDemand, "orders*"),
        await manager.subscribe(OnDemand, "orders", event=Ordered),
        await manager.subscribe(OnDemand, "orders", key="key:eu"),
        await manager.subscribe(Everything, "*", event=Ordered, key="key:x"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 6
    assert await manager.subscriptions(OnDemand) == [first, *others[:4]]
    await publish(manager, order(1, topic="orders/eu"))
    assert heard() == [("everything/x", 1), ("on_demand/eu", 1)]
    # Each of them counts by itself: when one is gone, the others deliver.
    await manager.unsubscribe(first)
    await publish(manager, order(2, topic="orders/eu"))
    assert heard("on_demand") == [("on_demand/eu", 1), ("on_demand/eu", 2)]


async def test_a_subscription_may_be_to_one_class_and_choose_the_instance(deploy: Deploy):
    manager = await deploy(OnDemand, Beginning)
    await manager.subscribe(OnDemand, "*", event=Booked.event_type, key="field:number")
    await manager.subscribe(Beginning, "late", event=Reordered, key="key:only")
    await publish(manager, order(1, topic="late/eu"))
    await publish(manager, order(2, topic="late/eu", kind="b"))
    await publish(manager, order(3, topic="late/eu", kind="r"))
    assert heard() == [("beginning/only", 3), ("desk/0", 2), ("desk/0", 3), ("on_demand/2", 2)]


@pytest.mark.parametrize(
    ("wish", "error", "why"),
    [
        ({"agent": "nobody"}, UnknownAgentType, "nobody"),
        ({"event": Booked}, NoHandler, "Booked"),
        ({"event": Reordered}, NoHandler, "Reordered"),
        ({"event": "shop.Typo"}, NoHandler, "shop.Typo"),
        ({"agent": "mute"}, NoHandler, "any event"),
        ({"topic": "a b"}, ConfigurationError, "no type of a topic"),
        ({"topic": "orders/eu"}, ConfigurationError, "no type of a topic"),
        ({"topic": TopicId("orders", "eu")}, ConfigurationError, "subscribe to the type"),
        ({"key": "nearest"}, ConfigurationError, "write correlation"),
        ({"key": str}, ConfigurationError, "write correlation"),
    ],
)
async def test_a_subscription_that_makes_no_sense_is_refused(
    deploy: Deploy, wish: dict[str, Any], error: type[Exception], why: str
):
    manager = await deploy(Exact, Mute)
    arguments: dict[str, Any] = {"agent": Exact, "topic": "orders", **wish}
    with pytest.raises(error, match=why):
        await manager.subscribe(**arguments)
    assert await manager.subscriptions() == []


async def test_a_subscription_survives_the_manager_and_reaches_new_hosts(
    runtime: LocalRuntime, deploy: Deploy
):
    manager = await deploy(OnDemand)
    subscription = await manager.subscribe(OnDemand, "orders")
    await runtime.restart_manager()
    assert await manager.subscriptions() == [subscription]
    for host in list(runtime.hosts):
        await runtime.kill_host(host)
        await publish(manager, order(1, topic="orders/eu"))
    assert heard() == [("on_demand/eu", 1)] * 3
    await manager.unsubscribe(subscription.id)
    await runtime.restart_manager()
    assert await manager.subscriptions() == []
    await publish(manager, order(2, topic="orders/eu"))
    assert len(heard()) == 3


async def test_a_host_that_cannot_be_reached_is_waited_for(runtime: LocalRuntime, deploy: Deploy):
    manager = await deploy(OnDemand)
    runtime.cut_off(runtime.hosts[0])
    subscribing = asyncio.create_task(manager.subscribe(OnDemand, "orders"))
    await eventually_async(manager.subscriptions)
    assert not subscribing.done()
    runtime.cut_off(runtime.hosts[0], cut=False)
    assert await subscribing == (await manager.subscriptions())[0]
    for desk in "abcdefgh":
        await publish(manager, order(1, topic="orders/eu"), desk)
    assert heard() == [("on_demand/eu", 1)] * 8


def test_without_await_it_is_the_same() -> None:
    with LocalRuntime() as manager:
        manager.deploy(App("topics", [Desk, OnDemand]))
        subscription = manager.subscribe(OnDemand, "orders")
        assert manager.subscribe("on_demand", "orders") == subscription
        assert manager.subscriptions("on_demand") == [subscription]
        manager.prompt(order(1, topic="orders/eu"), agent=AgentId("desk", "d"))
        manager.unsubscribe(subscription)
        manager.prompt(order(2, topic="orders/eu"), agent=AgentId("desk", "d"))
        assert [letter.reason for letter in manager.dead_letters()] == ["no_subscriber"]
    assert heard() == [("on_demand/eu", 1)]


# Under load


async def test_old_subscribers_neither_lose_nor_double_while_subscriptions_change(deploy: Deploy):
    manager = await deploy(Exact, OnDemand, Everything)
    old = await manager.subscribe(OnDemand, "orders", key="any:3")
    changes = 0
    publishing = asyncio.gather(
        *(
            publish(manager, order(*range(n, n + 5), topic=f"orders/{n}"), f"{n % 16}")
            for n in range(0, 2000, 5)
        )
    )
    while not publishing.done():
        topics = [f"{name}*" for name in ("o", "or", "ord", "orders.", "news")]
        made = await asyncio.gather(
            *(manager.subscribe(Everything, topic, key="key:x") for topic in topics)
        )
        await asyncio.gather(*map(manager.unsubscribe, made))
        changes += 1
    runs = await publishing
    assert changes > 2
    assert {run.status for run in runs} == {RunStatus.SUCCEEDED}
    for agent_type in ("exact", "on_demand", "everything"):
        numbers = Counter(number for _, number in heard(agent_type))
        assert numbers == Counter(range(2000)), agent_type
    assert await manager.subscriptions() == [old]


TOPICS = ["orders", "orders.late", "news"]
PATTERNS = [*TOPICS, "orders*", "orders.*", "*"]
KEYS = ["topic", "key:x", "field:number"]


class Subscriptions(RuleBasedStateMachine):
    """Subscriptions come and go, hosts die, the manager restarts; a model says who gets what."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = virtual_time.VirtualTimeLoop()
        self.runtime = LocalRuntime(hosts=2)
        HEARD.clear()
        self.known: dict[tuple[str, str | None, str], TopicSubscription] = {}
        self.number = 0
        self.manager = self.do(self.begin())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def begin(self) -> ManagerClient:
        manager = await self.runtime.__aenter__()
        await manager.deploy(App("topics", [Desk, OnDemand, Exact]))
        return manager

    @rule(
        pattern=st.sampled_from(PATTERNS),
        event=st.sampled_from([None, Ordered, Booked]),
        key=st.sampled_from(KEYS),
    )
    def subscribe(self, pattern: str, event: type[Event] | None, key: str) -> None:
        made = self.do(self.manager.subscribe(OnDemand, pattern, event=event, key=key))
        wish = (pattern, event.event_type if event else None, key)
        assert self.known.setdefault(wish, made) == made

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        if self.known:
            wish = data.draw(st.sampled_from(sorted(self.known, key=str)))
            self.do(self.manager.unsubscribe(self.known.pop(wish)))

    @rule()
    def restart_manager(self) -> None:
        self.do(self.runtime.restart_manager())

    @rule()
    def kill_a_host(self) -> None:
        async def replace() -> None:
            before = self.runtime.hosts
            await self.runtime.kill_host(before[0])

            async def complete() -> bool:
                pools = (await self.manager.status())["pools"]
                slots = {self.runtime.host_of(AgentId("desk", f"{n}")) for n in range(100)}
                return pools[0]["hosts"] == 2 and slots.isdisjoint(before[:1])

            await eventually_async(complete)

        self.do(replace())

    @rule(
        topic=st.none() | st.sampled_from(TOPICS),
        kind=st.sampled_from(["o", "b"]),
        desks=st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
    )
    def publish(self, topic: str | None, kind: str, desks: list[str]) -> None:
        expected: list[tuple[str, int]] = []
        prompts: list[Coroutine[Any, Any, Run]] = []
        for desk in desks:
            self.number += 1
            on_topic = None if topic is None else f"{topic}/{desk}"
            prompts.append(
                publish(self.manager, order(self.number, topic=on_topic, kind=kind), desk)
            )
            expected += [(agent, self.number) for agent in self.wanted(topic, kind, desk)]
        HEARD.clear()

        async def all_of_them() -> list[Run]:
            return list(await asyncio.gather(*prompts))

        runs = self.do(all_of_them())
        assert {run.status for run in runs} == {RunStatus.SUCCEEDED}
        assert heard() == sorted(expected)
        assert self.do(self.manager.subscriptions()) == sorted(
            self.known.values(), key=lambda known: (known.created_at, known.id)
        )

    def wanted(self, topic: str | None, kind: str, source: str) -> set[str]:
        agents = {"desk/0"} if kind == "b" else set[str]()
        if kind == "o" and topic == "orders":
            agents.add(f"exact/{source}")
        if topic is None:
            return agents
        name = (Ordered if kind == "o" else Booked).event_type
        for pattern, event, key in self.known:
            begins = pattern.endswith("*") and topic.startswith(pattern[:-1])
            if (begins or topic == pattern) and event in {None, name}:
                keys = {"topic": source, "key:x": "x", "field:number": str(self.number)}
                agents.add(f"on_demand/{keys[key]}")
        return agents

    def teardown(self) -> None:
        self.do(self.runtime.__aexit__(None, None, None))
        self.loop.close()


def test_who_gets_an_event_is_what_the_subscriptions_say_at_that_moment() -> None:
    run_state_machine_as_test(
        Subscriptions,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
        ),
    )


# A new version of the code


# Of no module, so each version goes to the hosts as it is.


def clerk_of_orders() -> type[Agent]:
    class Clerk(Listener):
        options = AgentOptions(name="clerk", pool="clerks", mailbox=10_000)

        @on(Ordered, key="any:40")
        async def take(self, ordered: Ordered) -> None:
            self.note(ordered)

    return Clerk


def clerk_of_both() -> type[Agent]:
    class Clerk(Listener):
        options = AgentOptions(name="clerk", pool="clerks", mailbox=10_000)

        @on(Ordered, Booked, key="any:40")
        async def take(self, event: Ordered | Booked) -> None:
            self.note(event)

    return Clerk


def clerk_of_bookings() -> type[Agent]:
    class Clerk(Listener):
        options = AgentOptions(name="clerk", pool="clerks", mailbox=10_000)

        @on(Booked, key="any:40")
        async def take(self, booked: Booked) -> None:
            self.note(booked)

    return Clerk


async def test_handlers_that_come_or_go_with_new_code_get_events_while_the_hosts_have_them(
    deploy: Deploy, runtime: LocalRuntime
):
    # There is room for no more: each new host takes the place of an old one.
    runtime.provide({"CPU": 3})
    manager = await deploy(OnDemand)
    runs: list[Run] = []
    done = asyncio.Event()

    async def put_up(clerk: type[Agent]) -> str:
        pools = [Pool("clerks", hosts=3, num_cpus=1)]
        return await manager.deploy(App("clerks", [clerk], pools=pools))

    async def go_on_publishing() -> None:
        number = 0
        while not done.is_set():
            number += 1
            # What else changes tells everybody of everything, in the midst of the replacement.
            await manager.unsubscribe(await manager.subscribe(OnDemand, "news"))
            runs.append(await publish(manager, order(number)))
            runs.append(await publish(manager, order(-number, kind="b")))

    await put_up(clerk_of_orders())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on_publishing())
        assert await put_up(clerk_of_both()) == "replaced"
        done.set()
    assert [run.error for run in runs if run.status is not RunStatus.SUCCEEDED] == []
    numbers = [number for _, number in heard("clerk")]
    assert Counter(n for n in numbers if n > 0) == Counter(range(1, len(runs) // 2 + 1))
    await publish(manager, order(-1000, kind="b"))
    assert -1000 in {number for _, number in heard("clerk")}

    done.clear()
    runs.clear()
    HEARD.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on_publishing())
        assert await put_up(clerk_of_bookings()) == "replaced"
        done.set()
    assert [run.error for run in runs if run.status is not RunStatus.SUCCEEDED] == []
    numbers = [number for _, number in heard("clerk")]
    assert Counter(n for n in numbers if n < 0) == Counter(range(-len(runs) // 2, 0))
