"""Restart policies, failed agents and their reset, as users see them; in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    App,
    HostDied,
    ManagerClient,
    RestartPolicy,
    action,
    loop,
)
from agentray.core.supervision import Backoff
from agentray.ids import AgentId
from agentray.store.base import Store
from agentray.store.memory import MemoryStore
from agentray.store.supervision import FailureKind
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async

starts: Counter[str] = Counter()
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    starts.clear()
    broken.clear()


class Fragile(Agent):
    """Starts unless it is broken."""

    policy: ClassVar[RestartPolicy] = RestartPolicy(max_restarts=2, backoff_s=0.1)
    options = AgentOptions(restart=policy)

    async def on_start(self) -> None:
        starts[str(self.id)] += 1
        if str(self.id) in broken:
            raise ValueError(f"{self.id} is broken")

    @action
    async def hello(self) -> str:
        return f"hello {self.id.key}"


class Once(Fragile):
    options = AgentOptions(restart=RestartPolicy(restart="temporary"))


class Kept(BaseModel):
    beats: int = 0


class Pulse(Agent):
    """Has a loop, and is never addressed but once."""

    options = AgentOptions(restart=RestartPolicy(restart="permanent"), idle_timeout_s=5.0)
    state: Kept

    async def on_start(self) -> None:
        starts[str(self.id)] += 1

    @loop
    async def beat(self) -> None:
        while True:
            async with self.turn():
                self.state.beats += 1
            await asyncio.sleep(1.0)

    @action
    async def count(self) -> int:
        return self.state.beats


class Lazy(Pulse):
    options = AgentOptions(restart=RestartPolicy(restart="transient"))


class Idle(Agent):
    """Permanent, and does nothing by itself."""

    options = AgentOptions(restart=RestartPolicy(restart="permanent"), idle_timeout_s=2.0)

    async def on_start(self) -> None:
        starts[str(self.id)] += 1

    @action
    async def hello(self) -> str:
        return "here"


APP = App("policies", [Fragile, Once, Pulse, Lazy, Idle])


async def status(manager: ManagerClient, agent: str) -> dict[str, Any]:
    return await manager.handle(AgentId.parse(agent)).status()


# Failed


def test_a_plain_agent_that_failed_stays_so_on_every_host_and_in_a_new_cluster_until_it_is_reset():
    async def body() -> None:
        store: Store = MemoryStore()
        broken.add("fragile/ada")
        async with LocalRuntime(hosts=2, store=store) as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            with pytest.raises(AgentFailed, match="fragile/ada is broken"):
                await manager.handle(Fragile, "ada").hello()
            assert starts["fragile/ada"] == 3
            told = await status(manager, "fragile/ada")
            assert told["status"] == "failed"
            assert told["last_error"] == "ValueError: fragile/ada is broken"
            assert told["traceback"].rstrip().endswith("ValueError: fragile/ada is broken")
            assert "in on_start" in told["traceback"]
        broken.clear()
        runtime = LocalRuntime(hosts=2, store=store)
        async with runtime as manager, asyncio.timeout(100):
            handle = manager.handle(Fragile, "ada")
            with pytest.raises(AgentFailed, match="fragile/ada is broken"):
                await handle.hello()
            await runtime.kill_host(runtime.host_of(handle.id) or "")

            async def refused() -> bool:
                try:
                    await handle.hello()
                except HostDied:
                    return False  # it was sent before anybody knew
                except AgentFailed:
                    return True
                raise AssertionError("it was started")

            await eventually_async(refused)
            assert starts["fragile/ada"] == 3
            assert (await handle.status())["failed_at"]
            (failure,) = await manager.failed_agents()
            assert (failure.agent, failure.kind) == (handle.id, FailureKind.FAILED)
            assert await manager.failed_agents("once") == []
            assert await manager.handle(Fragile, "bob").hello() == "hello bob"
            # Reset: it starts, and its errors are counted from none.
            assert await handle.reset()
            assert await handle.hello() == "hello ada"
            assert (await handle.status())["status"] == "idle"
            assert await manager.failed_agents() == []
            assert not await manager.reset_agent("fragile/ada")

    run(body())


def test_a_launched_agent_that_failed_is_reset_like_any_other():
    async def body() -> None:
        async with LocalRuntime() as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            broken.add("fragile/ada")
            with pytest.raises(AgentFailed):
                await manager.launch(Fragile, name="ada", max_retries=1)
            assert starts["fragile/ada"] == 2
            assert "in on_start" in (await status(manager, "fragile/ada"))["traceback"]
            broken.clear()
            with pytest.raises(AgentFailed):
                await manager.handle(Fragile, "ada").hello()
            assert await manager.reset_agent("fragile/ada")
            assert await manager.handle(Fragile, "ada").hello() == "hello ada"
            (record,) = await manager.find()
            assert (record.status, record.last_error) == ("running", "")

    run(body())


def test_launching_a_failed_agent_anew_forgets_its_failure():
    async def body() -> None:
        async with LocalRuntime() as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            broken.add("fragile/ada")
            with pytest.raises(AgentFailed):
                await manager.launch(Fragile, name="ada", max_retries=0)
            broken.clear()
            await manager.launch(Fragile, name="ada")
            assert await manager.failed_agents() == []

    run(body())


def test_reset_forgets_the_counters_of_an_agent_that_has_not_failed():
    async def body() -> None:
        async with LocalRuntime() as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            assert not await manager.reset_agent("fragile/ada")
            assert await manager.handle(Fragile, "ada").hello() == "hello ada"
            assert not await manager.reset_agent("fragile/ada")
            assert starts["fragile/ada"] == 1

    run(body())


# Policies


def test_the_first_error_of_a_temporary_agent_is_final():
    async def body() -> None:
        async with LocalRuntime() as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            broken.add("once/ada")
            with pytest.raises(AgentFailed):
                await manager.handle(Once, "ada").hello()
            assert starts["once/ada"] == 1
            assert (await status(manager, "once/ada"))["status"] == "failed"

    run(body())


def test_a_permanent_agent_comes_back_without_a_message_when_its_host_dies():
    async def body() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager, asyncio.timeout(200):
            await manager.deploy(APP)
            pulse, lazy = manager.handle(Pulse, "p"), manager.handle(Lazy, "p")
            await pulse.count()
            await lazy.count()
            hosts = runtime.hosts
            for host in hosts:  # the last one leaves nobody
                await runtime.kill_host(host)

            async def back() -> bool:
                return starts["pulse/p"] >= 2

            await eventually_async(back, timeout_s=60)
            assert (await pulse.status())["status"] in {"idle", "running", "starting"}
            assert (await lazy.status())["status"] == "not in memory"
            assert starts["lazy/p"] == 1

    run(body())


def test_a_permanent_agent_comes_back_when_the_whole_cluster_starts_again():
    async def body() -> None:
        store: Store = MemoryStore()
        async with LocalRuntime(store=store) as manager:
            await manager.deploy(APP)
            await manager.handle(Pulse, "p").count()
        async with LocalRuntime(store=store), asyncio.timeout(100):

            async def back() -> bool:
                return starts["pulse/p"] == 2

            await eventually_async(back, timeout_s=60)

    run(body())


def test_a_permanent_agent_stays_in_memory_and_ends_when_it_is_shut_down():
    async def body() -> None:
        store: Store = MemoryStore()
        async with LocalRuntime(store=store) as manager, asyncio.timeout(200):
            await manager.deploy(APP)
            handle = manager.handle(Idle, "i")
            assert await handle.hello() == "here"
            await asyncio.sleep(30)
            assert (await handle.status())["status"] == "idle"
            assert starts["idle/i"] == 1
            await manager.shutdown(handle)
        async with LocalRuntime(store=store) as manager:
            await asyncio.sleep(10)
            assert starts["idle/i"] == 1
            assert (await manager.handle(Idle, "i").status())["status"] == "stopped"

    run(body())


def test_one_launched_agent_may_be_permanent_where_its_type_is_not():
    async def body() -> None:
        store: Store = MemoryStore()
        async with LocalRuntime(store=store) as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            options = AgentOptions(restart=RestartPolicy(restart="permanent"))
            await manager.launch(Lazy, name="own", options=options)
            await manager.launch(Lazy, name="other")
        async with LocalRuntime(store=store), asyncio.timeout(100):

            async def back() -> bool:
                return starts["lazy/own"] == 2

            await eventually_async(back, timeout_s=60)
            assert starts["lazy/other"] == 1

    run(body())


def test_a_failed_permanent_agent_starts_at_once_when_it_is_reset():
    async def body() -> None:
        async with LocalRuntime() as manager, asyncio.timeout(100):
            await manager.deploy(APP)
            handle = manager.handle(Kaput, "k")
            await manager.deploy(App("kaput", [Kaput]))
            broken.add("kaput/k")
            with pytest.raises(AgentFailed):
                await handle.hello()
            broken.clear()
            assert await handle.reset()

            async def back() -> bool:
                return (await handle.status())["status"] == "idle"

            await eventually_async(back, timeout_s=60)

    run(body())


class Kaput(Fragile):
    options = AgentOptions(restart=RestartPolicy(restart="permanent", max_restarts=0))


# The decision itself


class BackoffMachine(RuleBasedStateMachine):
    """Failures at any times: given up exactly beyond the intensity, with waits within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.backoff = Backoff(3, 10.0, 0.1, 2.0)
        self.now = 0.0
        self.times: list[float] = []
        self.waits: list[float | None] = []

    @rule(gap=st.floats(0.0, 12.0), jitter=st.floats(0.0, 1.0))
    def fail(self, gap: float, jitter: float) -> None:
        before, self.now = self.now, self.now + gap  # the sum may differ from the gap by rounding
        quiet = not self.times or self.now - before >= self.backoff.period_s
        self.times.append(self.now)
        wait = self.backoff.failed(self.now, jitter)
        within = sum(self.now - then < 10.0 for then in self.times)
        assert (wait is None) is (within > 3)
        if quiet:
            assert wait is not None
            assert 0.1 <= wait <= 0.12 + 1e-9  # a quiet time lets the waits start small again
        self.waits.append(wait)

    @invariant()
    def every_wait_lies_between_the_first_and_the_longest(self) -> None:
        assert all(wait is None or 0.1 <= wait <= 2.0 * 1.2 + 1e-9 for wait in self.waits)

    @invariant()
    def only_what_counts_is_remembered(self) -> None:
        assert all(self.now - then < 10.0 for then in self.backoff.failures)
        assert self.backoff.streak >= len(self.backoff.failures)


TestBackoffMachine = BackoffMachine.TestCase
TestBackoffMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
