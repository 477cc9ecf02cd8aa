"""People and drivers who keep agents busy while things are killed, and note what they are told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from agentray import (
    AgentrayError,
    DeadlineExceeded,
    HostDied,
    ManagerClient,
    Overloaded,
    Run,
)
from agentray.client.errors import ConnectionFailed, TooManyRequests, Unavailable
from agentray.errors import DeploymentStopped, ManagerUnavailable, StoreUnavailable
from agentray.event_run import DurabilityName
from agentray.ids import AgentId
from tests.chaos.agents import Begun
from tests.chaos.history import History, Told

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long anything may take, in the worst of times."""

COUNTERS = 6
"""Agents for each kind of load."""

_TOKENS = 50
_MANY_ATTEMPTS = 100
_PAUSE_S = 0.1

_NOT_NOW = (
    StoreUnavailable,
    HostDied,
    Overloaded,
    DeploymentStopped,
    ManagerUnavailable,
    DeadlineExceeded,
    Unavailable,
    TooManyRequests,
    ConnectionFailed,
)
"""What one may be told while things are killed. Everything else is a surprise."""


class HttpClient(Protocol):
    """What is used of `AsyncAgentClient`."""

    async def prompt(
        self,
        text: str,
        agent: str | None = None,
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        max_attempts: int | None = None,
    ) -> Run:
        """Give a prompt."""
        ...


class Load:
    """All that is asked of agents.

    Attributes:
        history: what was told and acknowledged.
        done: how often each kind of load had success.
        errors: how often each error was told.
        surprises: what nobody should have been told.
        effects: of each run, the counters on which it has one.
        repeated: runs whose every attempt may have its effects.
    """

    def __init__(
        self, manager: ManagerClient, client: HttpClient | None, dice: random.Random
    ) -> None:
        """Make one.

        Args:
            manager: of a driver.
            client: over HTTP; None: there is no gateway.
            dice: decide how long handlers take and who is asked.
        """
        self.history = History()
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.effects: dict[str, tuple[str, ...]] = {}
        self.repeated: set[str] = set()
        self._manager = manager
        self._client = client
        self._dice = dice
        self._stopping = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = iter(range(1, 1_000_000_000))

    # Its life

    def start(self) -> None:
        """Begin with everything."""
        kinds: dict[str, tuple[int, Callable[[int], Awaitable[None]]]] = {
            "call": (2, self._call),
            "idempotent call": (2, self._call_idempotent),
            "tell": (1, self._tell),
            "driver's prompt": (3, self._prompt_as_driver),
            "run": (3, lambda who: self._run("run", who)),
            "step-durable run": (3, lambda who: self._run("step", who)),
            "loose run": (1, self._loose_run),
        }
        if self._client is not None:
            kinds["HTTP prompt"] = (3, self._prompt_over_http)
        for kind, (many, work) in kinds.items():
            for who in range(many):
                name = f"{kind} {who}"
                self._tasks[name] = asyncio.create_task(self._again(kind, work, who), name=name)

    async def stop(self) -> None:
        """Let everybody end what they are at; who cannot is a surprise."""
        self._stopping = True
        _, left = await asyncio.wait(self._tasks.values(), timeout=2 * PATIENCE_S)
        for task in left:
            self.surprises.append(f"{task.get_name()} still waits {2 * PATIENCE_S:g} s later.")
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for task in self._tasks.values():
            if not task.cancelled() and (error := task.exception()) is not None:
                self.surprises.append(f"{task.get_name()} broke: {error!r}")

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of load that there are."""
        return list(dict.fromkeys(name.rpartition(" ")[0] for name in self._tasks))

    async def _again(self, kind: str, work: Callable[[int], Awaitable[None]], who: int) -> None:
        while not self._stopping:
            try:
                await work(who)
            except AgentrayError as error:
                self._note(kind, error)
                await asyncio.sleep(_PAUSE_S)
            else:
                self.done[kind] += 1
                await asyncio.sleep(self._dice.uniform(0, _PAUSE_S))

    def _note(self, what: str, error: AgentrayError) -> None:
        self.errors[type(error).__name__] += 1
        if not isinstance(error, _NOT_NOW):
            self.surprises.append(f"{what} was told {type(error).__name__}: {error}")

    async def _until_told(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer: what is asked for bears repetition."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await ask()
                except AgentrayError as error:
                    self._note(what, error)
                    await asyncio.sleep(_PAUSE_S)

    # Calls

    def _counter(self, agent_type: str, what: str) -> AgentId:
        return AgentId(agent_type, f"{what}-{self._dice.randrange(COUNTERS)}")

    async def _effect(self, counter: AgentId, effect: Awaitable[object]) -> None:
        try:
            await effect
        except AgentrayError:
            self.history.doubtful[str(counter)] += 1
            raise
        self.history.acknowledged[str(counter)] += 1

    async def _call(self, _: int) -> None:
        counter = self._counter("counting", "call")
        await self._effect(counter, self._manager.handle(counter).add())

    async def _call_idempotent(self, who: int) -> None:
        token = next(self._numbers)
        counter = AgentId("counting", f"once-{who}-{token // _TOKENS}")
        await self._effect(counter, self._manager.handle(counter).add_once(token))

    async def _tell(self, _: int) -> None:
        counter = self._counter("counting", "tell")
        self.history.doubtful[str(counter)] += 1  # nobody is told whether it was handled
        await self._manager.handle(counter).add.tell()

    # Prompts

    def _prompt(self) -> tuple[AgentId, str, dict[str, str], str]:
        """Return an agent, a prompt for it, its result and a key."""
        number = next(self._numbers)
        text = f"text {number}"
        pause_s = self._dice.choice((0.0, 0.0, 0.05, 0.3))
        counter = self._counter("counting", "prompt")
        return counter, f"{pause_s} {text}", {"text": text}, f"key-{number}"

    async def _prompt_as_driver(self, _: int) -> None:
        counter, text, result, key = self._prompt()

        async def ask() -> Run:
            return await self._manager.prompt(
                text,
                agent=counter,
                idempotency_key=key,
                timeout=PATIENCE_S,
                max_attempts=_MANY_ATTEMPTS,
            )

        self._told(f"driver {key}", await self._until_told("driver's prompt", ask), result)

    async def _prompt_over_http(self, who: int) -> None:
        counter, text, result, key = self._prompt()
        client = self._client
        assert client is not None
        wait_s = PATIENCE_S if who else 0.0

        async def ask() -> Run:
            return await client.prompt(
                text,
                str(counter),
                wait_s=wait_s,
                idempotency_key=key,
                max_attempts=_MANY_ATTEMPTS,
            )

        both = (self._until_told("HTTP prompt", ask) for _ in range(self._dice.choice((1, 1, 2))))
        for run in await asyncio.gather(*both):
            self._told(f"http {key}", run, result)

    def _told(self, key: str, run: Run, result: object) -> None:
        self.history.told.append(Told(run.id, key, run.status.value))
        self.history.wanted[run.id] = result
        self.effects[run.id] = (run.agent,)

    # Runs of events

    async def _run(self, durability: DurabilityName, _: int) -> None:
        number = next(self._numbers)
        begun = Begun(
            number=number,
            counter=f"{durability}-{self._dice.randrange(COUNTERS)}",
            pause_s=self._dice.choice((0.0, 0.0, 0.1)),
        )
        counters = _counters_of(begun)
        try:
            run = await self._manager.dispatch(
                begun, durability=durability, max_attempts=_MANY_ATTEMPTS
            )
        except AgentrayError:
            # It may have been accepted, and have as many attempts as it takes.
            most = 1 if durability == "step" else _MANY_ATTEMPTS
            self.history.doubtful.update(dict.fromkeys(counters, most))
            raise
        self.history.told.append(Told(run.id, "", "queued"))
        self.history.wanted[run.id] = {"number": 2 * number}
        self.effects[run.id] = counters
        if durability == "run":
            self.repeated.add(run.id)
        ended = await run.wait(PATIENCE_S)
        self.history.told.append(Told(run.id, "", ended.status.value))

    async def _loose_run(self, _: int) -> None:
        """One that may be lost, but whose end is told."""
        number = next(self._numbers)
        begun = Begun(number=number, counter=f"none-{number % COUNTERS}", pause_s=0.0)
        self.history.doubtful.update(_counters_of(begun))
        run = await self._manager.dispatch(begun, durability="none")
        ended = await run.wait(PATIENCE_S)
        if ended.error is None:
            if ended.result != {"number": 2 * number}:
                self.surprises.append(f"The run of {number} is {ended}.")
        elif ended.error.type not in {"HostDied", "AgentMoved", "StoreUnavailable"}:
            self.surprises.append(f"A loose run ended with {ended.error}.")
        else:
            self.errors[ended.error.type] += 1


def _counters_of(begun: Begun) -> tuple[str, ...]:
    return f"left_half/{begun.counter}", f"right_half/{begun.counter}"
