"""Topics and subscriptions on a real cluster with two hosts: each routes by what was said last."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    Event,
    ManagerClient,
    Prompt,
    RunStatus,
    TerminateEvent,
    action,
    on,
)
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async

pytestmark = [pytest.mark.timeout(240)]


class Measured(Event):
    number: int
    place: str = "here"


class Corrected(Measured):
    """A subclass."""


class Published(TerminateEvent):
    process: int


class Station(Agent):
    """Publishes what a prompt lists: class, topic, numbers."""

    @on(Prompt)
    async def report(self, prompt: Prompt) -> Published:
        name, topic, numbers = json.loads(prompt.text)
        cls = {"measured": Measured, "corrected": Corrected}[name]
        for number in numbers:
            self.context.publish(cls(number=number), topic=topic)
        return Published(process=os.getpid())


class Keeper(Agent):
    """Remembers what it was sent."""

    options = AgentOptions(mailbox=100_000)

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.topics: set[str] = set()

    def keep(self, measured: Measured) -> None:
        self.numbers.append(measured.number)
        self.topics.add(str(self.context.topic))

    @action
    async def kept(self) -> tuple[list[int], set[str]]:
        return self.numbers, self.topics


class Archive(Keeper):
    @on(Measured, topic="weather.*", subclasses=True)
    async def take(self, measured: Measured) -> None:
        self.keep(measured)


class Alarm(Keeper):
    limit = 1000

    @on(Measured, key=lambda m: f"{m.place}!", where=lambda m: m.number > Alarm.limit)
    async def take(self, measured: Measured) -> None:
        self.keep(measured)


class Screen(Keeper):
    @on(Measured, subscribe=False)
    async def take(self, measured: Measured) -> None:
        self.keep(measured)


APP = App("topics", [Station, Archive, Alarm, Screen])


@pytest.fixture(scope="module", autouse=True)
async def deployed(manager: ManagerClient) -> AsyncGenerator[None]:
    await manager.deploy(APP)
    yield
    await manager.stop(APP.name)


async def publish(
    manager: ManagerClient, station: str, topic: str | None, *numbers: int, kind: str = "measured"
) -> int:
    """Have a station publish; return its host's process when all is done."""
    text = json.dumps([kind, topic, numbers])
    run = await manager.prompt(text, agent=AgentId("station", station), timeout=60)
    assert run.status is RunStatus.SUCCEEDED, run
    return run.result["process"]


async def kept(manager: ManagerClient, agent: type[Keeper], key: str) -> list[int]:
    numbers, _ = await manager.handle(agent, key).call(Keeper.kept)
    return sorted(numbers)


@asynccontextmanager
async def subscribed(manager: ManagerClient, *args: Any, **kwargs: Any) -> AsyncGenerator[str]:
    subscription = await manager.subscribe(*args, **kwargs)
    try:
        yield subscription.id
    finally:
        await manager.unsubscribe(subscription)


async def test_topics_subclasses_and_functions_reach_agents_of_both_hosts(manager: ManagerClient):
    hosts = await until_complete(manager)
    stations = [f"s{n}" for n in range(16)]
    processes = await asyncio.gather(
        *(publish(manager, name, f"weather.sea/{name}", n) for n, name in enumerate(stations))
    )
    assert set(processes) == set(hosts.values())
    for number, name in enumerate(stations):
        numbers, topics = await manager.handle(Archive, name).call(Keeper.kept)
        assert (numbers, topics) == ([number], {f"weather.sea/{name}"})
    await publish(manager, "s0", "weather.sea/s0", 20, kind="corrected")
    assert await kept(manager, Archive, "s0") == [0, 20]
    # The functions are called in whichever process publishes.
    for name in stations[:8]:
        await publish(manager, name, None, 1000, 1001)
    assert await kept(manager, Alarm, "here!") == [1001] * 8


async def test_a_subscription_counts_on_every_host_as_soon_as_it_is_made_or_taken_back(
    manager: ManagerClient,
):
    hosts = await until_complete(manager)
    for turn in range(5):
        async with subscribed(manager, Screen, "lab", key="key:turns") as subscription:
            told = await asyncio.gather(
                *(publish(manager, f"t{n}", "lab/x", 100 * turn + n) for n in range(16))
            )
            assert set(told) == set(hosts.values())
            assert [s.id for s in await manager.subscriptions(Screen)] == [subscription]
        await asyncio.gather(*(publish(manager, f"t{n}", "lab/x", -1) for n in range(16)))
    expected = sorted(100 * turn + n for turn in range(5) for n in range(16))
    assert await kept(manager, Screen, "turns") == expected


async def test_old_subscribers_neither_lose_nor_double_while_subscriptions_change(
    manager: ManagerClient,
):
    await until_complete(manager)
    async with subscribed(manager, Screen, "load", key="key:load"):
        publishing = asyncio.gather(
            *(
                publish(manager, f"l{n % 16}", "load/x", *range(n, n + 10))
                for n in range(0, 3000, 10)
            )
        )
        changes = 0
        while not publishing.done():
            async with subscribed(manager, Archive, "lo*", key="key:passing"):
                changes += 1
        await publishing
        assert changes > 1
        assert Counter(await kept(manager, Screen, "load")) == Counter(range(3000))
        # Who came and went got some of it, and nothing twice.
        passing = Counter(await kept(manager, Archive, "passing"))
        assert set(passing) <= set(range(3000))
        assert set(passing.values()) <= {1}


async def test_a_subscription_survives_the_manager_and_reaches_the_host_that_comes_after(
    manager: ManagerClient,
):
    hosts = await until_complete(manager)
    async with subscribed(manager, Screen, "later", key="any:1") as subscription:
        os.kill((await manager.status())["pid"], signal.SIGKILL)
        victim = next(iter(hosts.values()))
        os.kill(victim, signal.SIGKILL)
        after = await until_complete(manager, without=[victim])
        assert [s.id for s in await manager.subscriptions()] == [subscription]
        told = await asyncio.gather(*(publish(manager, f"a{n}", "later/x", n) for n in range(16)))
        assert set(told) == set(after.values())
        assert await kept(manager, Screen, "0") == list(range(16))


async def test_the_command_line_subscribes_and_shows_what_nobody_wanted(
    manager: ManagerClient, cluster: Cluster
):
    before = (await manager.status())["dead_letters"]
    added = cluster.agentray("subscriptions", "add", "screen", "cli*", "--key", "key:cli")
    assert added.exit_code == 0, added
    subscription = added.stdout.partition(":")[0]
    await publish(manager, "c", "cli.a/x", 1)
    assert await kept(manager, Screen, "cli") == [1]
    (listed,) = json.loads(cluster.agentray("subscriptions", "--json").stdout)
    assert (listed["id"], listed["topic"]) == (subscription, "cli*")
    assert subscription in cluster.agentray("subscriptions").stdout

    removed = cluster.agentray("subscriptions", "remove", subscription)
    assert (removed.exit_code, removed.stdout) == (0, f"{subscription}: removed\n")
    again = cluster.agentray("subscriptions", "remove", subscription)
    assert again.exit_code == 5
    assert subscription in again.complaint
    await publish(manager, "c", "cli.a/x", 2)
    assert await kept(manager, Screen, "cli") == [1]

    async def counted() -> bool:
        return (await manager.status())["dead_letters"] == before + 1

    await eventually_async(counted)
    listed = json.loads(cluster.agentray("dead-letters", "list", "--limit", "1", "--json").stdout)
    (letter,) = listed["dead_letters"]
    assert (letter["target"], letter["payload"]["number"]) == (Measured.event_type, 2)
    event = Event.from_json(letter["payload"])
    assert (type(event), event.topic, event.source) == (Measured, "cli.a/x", "station/c")
    assert "no subscriber" in cluster.agentray("dead-letters", "list").stdout
    assert "agentray dead-letters" in cluster.agentray("status").stdout
