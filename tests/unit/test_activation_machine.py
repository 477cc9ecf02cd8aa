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
        self.alive: defaultdict[str, set[Lively]] = defaultdict(set)
        self.wrong: list[str] = []
        self.done: Counter[int] = Counter()
        self.swallowed: set[int] = set()  # what went on although it was cancelled
        self.start_s: defaultdict[str, float] = defaultdict(float)
        self.stop_s: defaultdict[str, float] = defaultdict(float)
        self.failures: Counter[str] = Counter()

    def begin(self, agent: Lively) -> None:
        # One that was abandoned is not stopped: it is over when it does nothing any more.
        over = {other for other in self.alive[agent.id.key] if other.abandoned and not other.works}
        self.alive[agent.id.key] -= over
        self.alive[agent.id.key].add(agent)
        self.check(agent, "on_start")

    def check(self, agent: Lively, where: str) -> None:
        if self.alive[agent.id.key] != {agent}:
            number = len(self.alive[agent.id.key])
            self.wrong.append(f"{number} incarnations of {agent.id.key} in {where}")

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

    def __init__(self) -> None:
        self.works = 0
        self.abandoned = False  # perhaps: it went on although it was cancelled

    async def on_start(self) -> None:
        key = self.id.key
        world.begin(self)
        try:
            await asyncio.sleep(world.start_s[key])
            world.fail_perhaps(key)
        except BaseException:
            world.alive[key].discard(self)
            raise

    async def on_stop(self) -> None:
        world.check(self, "on_stop")
        await asyncio.sleep(world.stop_s[self.id.key])
        world.alive[self.id.key].discard(self)

    @action
    async def work(self, number: int, seconds: float, stubborn: bool) -> int:
        world.check(self, "work")
        self.works += 1
        try:
            await self._sleep(number, seconds, stubborn)
        finally:
            self.works -= 1
        world.check(self, "work")
        world.done[number] += 1
        return number

    async def _sleep(self, number: int, seconds: float, stubborn: bool) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            try:
                await asyncio.sleep(end - loop.time())
            except asyncio.CancelledError:
                if not stubborn:
                    raise
                self.abandoned = True
                world.swallowed.add(number)


STUBBORN, MOVED = "a", "b"
KEYS = st.sampled_from([STUBBORN, MOVED])
SECONDS = st.sampled_from([0.0, 0.1, 1.0, 2.5, 4.0])


class ActivationMachine(RuleBasedStateMachine):
    """Messages, idle evictions, slow and failing starts, launches, shutdowns and moves."""

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
        self.hosts = self.runtime.hosts
        return manager

    @rule(key=KEYS, seconds=SECONDS, count=st.integers(1, 4), stubborn=st.booleans())
    def send(self, key: str, seconds: float, count: int, *, stubborn: bool) -> None:
        async def send() -> None:
            for _ in range(count):
                number = len(self.calls)
                work = number, seconds, stubborn and key == STUBBORN
                handle = self.manager.handle(Lively, key).with_timeout(None)
                self.calls[number] = asyncio.create_task(handle.work(*work))

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
    def shut_down(self, key: str, grace_s: float, *, terminate: bool) -> None:
        async def shut_down() -> None:
            stopping = self.manager.shutdown(f"lively/{key}", grace_s=grace_s, terminate=terminate)
            self.others.append(asyncio.create_task(stopping))

        self.runner.run(shut_down())

    @rule(grace_s=st.sampled_from([0.0, 0.1]), wait_s=st.sampled_from([0.5, 1.2, 4.0]))
    def shut_down_at_work(self, grace_s: float, wait_s: float) -> None:
        """Shut one down that does not care that it is cancelled, and go on with its next life."""
        self.send(STUBBORN, 4.0, 1, stubborn=True)
        self.let_time_pass(0.001)
        self.shut_down(STUBBORN, grace_s, terminate=False)
        self.let_time_pass(wait_s)
        self.launch(STUBBORN, None)

    @rule(to=st.integers(0, 1))
    def move(self, to: int) -> None:
        """Move the one that lets itself be cancelled; the other's next host would not wait."""

        async def move() -> None:
            moving = self.manager.move_agent(f"lively/{MOVED}", self.hosts[to], timeout=0.0)
            self.others.append(asyncio.create_task(moving))

        self.runner.run(move())

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
                assert world.done[number] == 0 or number in world.swallowed
        for other in self.others:
            assert other.cancelled() or isinstance(
                other.exception(), AgentStopped | AgentFailed | None
            ), other
        for key in ("a", "b"):
            world.start_s[key] = world.failures[key] = 0
            launched = await asyncio.wait_for(self.revive(key), PATIENCE_S)
            assert await launched.work(-1, 0.0, False) == -1
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
