"""Whatever comes together, an agent lives once at a time and each message is answered once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    AgentStopped,
    App,
    ManagerClient,
    RestartPolicy,
    action,
)
from agentray.testing import LocalRuntime
from tests.support.virtual_time import VirtualTimeLoop

PATIENCE_S = 600.0


class World:
    """What the agents do, and what the test sees of it."""

    def __init__(self) -> None:
        self.alive: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.done: Counter[int] = Counter()
        self.start_s: defaultdict[str, float] = defaultdict(float)
        self.stop_s: defaultdict[str, float] = defaultdict(float)
        self.failures: Counter[str] = Counter()

    def check(self, key: str, where: str) -> None:
        if self.alive[key] != 1:
            self.wrong.append(f"{self.alive[key]} incarnations of {key} in {where}")

    def fail_perhaps(self, key: str) -> None:
        if self.failures[key] > 0:
            self.failures[key] -= 1
            raise ValueError("not this time")


world = World()


class Lively(Agent):
    options = AgentOptions(
        idle_timeout_s=3.0,
        restart=RestartPolicy(max_restarts=2, backoff_s=0.5, max_backoff_s=2.0),
    )

    async def on_start(self) -> None:
        key = self.id.key
        world.alive[key] += 1
        world.check(key, "on_start")
        try:
            await asyncio.sleep(world.start_s[key])
            world.fail_perhaps(key)
        except BaseException:
            world.alive[key] -= 1
            raise

    async def on_stop(self) -> None:
        world.check(self.id.key, "on_stop")
        await asyncio.sleep(world.stop_s[self.id.key])
        world.alive[self.id.key] -= 1

    @action
    async def work(self, number: int, seconds: float) -> int:
        world.check(self.id.key, "work")
        await asyncio.sleep(seconds)
        world.check(self.id.key, "work")
        world.done[number] += 1
        return number


KEYS = st.sampled_from(["a", "b"])
SECONDS = st.sampled_from([0.0, 0.1, 1.0, 2.5, 4.0])


class ActivationMachine(RuleBasedStateMachine):
    """Messages, idle evictions, slow and failing starts, launches and shutdowns, in any order."""

    def __init__(self) -> None:
        super().__init__()
        global world  # noqa: PLW0603 - the agents look at it
        world = World()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.calls: dict[int, asyncio.Task[Any]] = {}
        self.others: list[asyncio.Task[Any]] = []
        self.manager: ManagerClient = self.runner.run(self.open())

    async def open(self) -> ManagerClient:
        self.runtime = LocalRuntime(hosts=2)
        manager = await self.runtime.__aenter__()
        await manager.deploy(App("lively", [Lively]))
        return manager

    @rule(key=KEYS, seconds=SECONDS, count=st.integers(1, 4))
    def send(self, key: str, seconds: float, count: int) -> None:
        async def send() -> None:
            for _ in range(count):
                number = len(self.calls)
                handle = self.manager.handle(Lively, key).with_timeout(None)
                self.calls[number] = asyncio.create_task(handle.work(number, seconds))

        self.runner.run(send())

    @rule(key=KEYS, start_s=SECONDS, stop_s=SECONDS, failures=st.integers(0, 4))
    def plan(self, key: str, start_s: float, stop_s: float, failures: int) -> None:
        world.start_s[key], world.stop_s[key] = start_s, stop_s
        world.failures[key] = failures

    @rule(key=KEYS, retries=st.sampled_from([None, 0, 3]))
    def launch(self, key: str, retries: int | None) -> None:
        async def launch() -> None:
            launching = self.manager.launch(Lively, name=key, max_retries=retries, timeout=None)
            self.others.append(asyncio.create_task(launching))

        self.runner.run(launch())

    @rule(key=KEYS, grace_s=SECONDS, terminate=st.booleans())
    def shut_down(self, key: str, grace_s: float, terminate: bool) -> None:
        async def shut_down() -> None:
            stopping = self.manager.shutdown(f"lively/{key}", grace_s=grace_s, terminate=terminate)
            self.others.append(asyncio.create_task(stopping))

        self.runner.run(shut_down())

    @rule(key=KEYS)
    def cancel_the_last(self, key: str) -> None:
        del key
        if self.others:
            self.others[-1].cancel()

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 5.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @invariant()
    def nobody_saw_two_of_one(self) -> None:
        assert world.wrong == []

    def teardown(self) -> None:
        try:
            self.runner.run(self.settle())
        finally:
            self.runner.close()

    async def settle(self) -> None:
        tasks = [*self.calls.values(), *self.others]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=PATIENCE_S)
            assert not pending, pending
        for number, call in self.calls.items():
            error = call.exception()
            if error is None:
                assert (call.result(), world.done[number]) == (number, 1)
            else:
                assert isinstance(error, AgentStopped | AgentFailed), error
                assert world.done[number] == 0
        for other in self.others:
            assert other.cancelled() or isinstance(
                other.exception(), AgentStopped | AgentFailed | None
            ), other
        for key in ("a", "b"):
            world.start_s[key] = world.failures[key] = 0
            launched = await asyncio.wait_for(self.revive(key), PATIENCE_S)
            assert await launched.work(-1, 0.0) == -1
        assert world.wrong == []
        await self.runtime.__aexit__(None, None, None)

    async def revive(self, key: str) -> Any:
        """Launch it whatever it is: one that failed while nobody had launched it, too."""
        await self.manager.shutdown(f"lively/{key}")
        return await self.manager.launch(Lively, name=key)


ActivationMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None
)
test_activation = ActivationMachine.TestCase
