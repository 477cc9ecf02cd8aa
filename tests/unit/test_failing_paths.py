"""Every way in which a message can fail: its sender gets the right error, and soon.

In virtual time, so that "soon" is a number: no case takes two seconds of it, and what would wait
for ever fails at once.
"""

# Closing the channel is what a process does when it goes away.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    AgentrayError,
    App,
    DeadlineExceeded,
    DeploymentStopped,
    Event,
    HostDied,
    ManagerClient,
    NoHandler,
    Overloaded,
    PayloadError,
    Prompt,
    RestartPolicy,
    UnknownAction,
    UnknownAgentType,
    action,
    on,
)
from agentray.errors import ChannelClosed, StateRefused
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Kind, Reply
from agentray.runtime.message import Post
from agentray.testing import LocalRuntime
from tests.support import virtual_time
from tests.support.eventually import eventually_async

SOON_S = 2.0


class Nobodys(Event):
    """Nobody subscribes to it."""


class Worker(Agent):
    options = AgentOptions(mailbox=1)

    @action
    async def nothing(self) -> None:
        """Reply with nothing."""

    @action
    async def work(self) -> None:
        await asyncio.sleep(3600)

    @action(idempotent=True)
    async def work_again(self) -> str:
        await asyncio.sleep(0.5)
        return self.id.key

    @action
    async def hold(self) -> object:
        return {"lock": threading.Lock()}

    @action
    async def echo(self, value: object) -> object:
        return value

    @action
    async def ask(self, agent: str, what: str) -> object:
        agent_type, _, key = agent.partition("/")
        return await self.handle(agent_type, key).call_by_name(what)

    @on(Prompt)
    async def publish(self, prompt: Prompt) -> list[Event]:
        return [Nobodys() for _ in prompt.text]


class Hopeless(Agent):
    options = AgentOptions(restart=RestartPolicy(max_restarts=2, backoff_s=0.1))
    attempts = 0

    async def on_start(self) -> None:
        Hopeless.attempts += 1
        raise OSError(f"attempt {Hopeless.attempts}")

    @action
    async def hello(self) -> None: ...


@dataclass
class Bench:
    """What a case works with."""

    runtime: LocalRuntime
    manager: ManagerClient

    def worker(self, key: str = "w") -> Any:
        return self.manager.handle(Worker, key)

    async def running(self, key: str = "w") -> None:
        """Return when an agent is at work."""

        async def at_work() -> bool:
            found = await self.manager.agents("worker")
            return any(a["agent"] == f"worker/{key}" and a["status"] == "running" for a in found)

        await eventually_async(at_work, interval_s=0.01)

    async def kill(self, key: str = "w") -> None:
        await self.runtime.kill_host(self.runtime.host_of(self.worker(key).id) or "")


Case = Callable[[Bench], Awaitable[Any]]


async def killed_at_work(bench: Bench) -> None:
    call = asyncio.create_task(bench.worker().work())
    await bench.running()
    await bench.kill()
    await call


async def nested_in_a_killed_host(bench: Bench) -> None:
    runtime = bench.runtime
    here = runtime.host_of(bench.worker().id)
    other = next(
        key for key in map(str, range(100)) if runtime.host_of(bench.worker(key).id) != here
    )
    call = asyncio.create_task(bench.worker().ask(f"worker/{other}", "work"))
    await bench.running(other)
    await bench.kill(other)
    await call


async def closed_with_a_call_under_way(bench: Bench) -> None:
    call = asyncio.create_task(bench.worker().work())
    await bench.running()
    await bench.runtime._channel.close()
    await call


async def closed_before_the_call(bench: Bench) -> None:
    await bench.runtime._channel.close()
    await bench.worker().nothing()


async def full_mailbox(bench: Bench) -> None:
    calls = [asyncio.create_task(bench.worker().work())]
    await bench.running()
    calls.append(asyncio.create_task(bench.worker().work()))
    await asyncio.sleep(0.05)
    try:
        await bench.worker().nothing()
    finally:
        for call in calls:
            call.cancel()


async def stopped_app(bench: Bench) -> None:
    await bench.manager.stop("paths")
    await bench.worker().nothing()


async def unkeepable_state(bench: Bench) -> None:
    await bench.manager.handle("keeper", "k").keep()


class Keeper(Agent):
    def save_state(self) -> dict[str, Any]:
        return {"lock": self.lock}

    def load_state(self, data: dict[str, Any]) -> None:
        self.lock: Any = data["lock"]

    def __init__(self) -> None:
        self.lock = None

    @action
    async def keep(self) -> None:
        self.lock = threading.Lock()


CASES: dict[str, tuple[Case, type[BaseException], str]] = {
    "unknown agent type": (
        lambda b: b.manager.handle("nobody", "x").hello(),
        UnknownAgentType,
        "no agent type 'nobody'.*hopeless, keeper, worker",
    ),
    "unknown agent type, nested": (
        lambda b: b.worker().ask("nobody/x", "hello"),
        UnknownAgentType,
        "no agent type 'nobody'",
    ),
    "unknown action": (
        lambda b: b.worker().sing(),
        UnknownAction,
        "worker/w has no action 'sing'.*nothing",
    ),
    "unknown action, nested": (
        lambda b: b.worker().ask("worker/x", "sing"),
        UnknownAction,
        "worker/x has no action 'sing'",
    ),
    "wrong arguments": (lambda b: b.worker().nothing(1, 2), TypeError, "nothing"),
    "no handler for prompts": (
        lambda b: b.manager.prompt("hello", agent="hopeless"),
        NoHandler,
        "no handler for .*Prompt",
    ),
    "unserialisable argument": (
        lambda b: b.worker().echo([threading.Lock()]),
        PayloadError,
        r"argument 1 of echo\(\) .*: \[0\] is a _thread\.lock",
    ),
    "unserialisable result": (
        lambda b: b.worker().hold(),
        PayloadError,
        r"result of hold\(\) .*: \['lock'\] is a _thread\.lock",
    ),
    "unkeepable state": (unkeepable_state, StateRefused, "keeper/k cannot be kept: .*lock"),
    "deadline": (
        lambda b: b.worker().with_timeout(1.0).work(),
        DeadlineExceeded,
        r"worker/w\.work did not reply within|worker/w\.work did not reply",
    ),
    "deadline, nested": (
        lambda b: b.worker().with_timeout(1.0).ask("worker/x", "work"),
        DeadlineExceeded,
        "did not reply",
    ),
    "host killed": (killed_at_work, HostDied, "host_.* died .*worker/w"),
    "host killed, nested": (nested_in_a_killed_host, HostDied, "died"),
    "start that never succeeds": (
        lambda b: b.manager.handle(Hopeless, "h").hello(),
        AgentFailed,
        "hopeless/h has failed: OSError: attempt 3",
    ),
    "closed, call under way": (closed_with_a_call_under_way, ChannelClosed, "closed"),
    "closed before": (closed_before_the_call, ChannelClosed, "closed"),
    "mailbox full": (full_mailbox, Overloaded, "worker/w has too many messages"),
    "app stopped": (stopped_app, DeploymentStopped, "deployment of worker/w is stopped"),
}


async def on_bench(case: Case) -> tuple[Any, float]:
    """Run a case in a cluster of its own; return what it came to, and the seconds that took."""
    Hopeless.attempts = 0
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(App("paths", [Worker, Hopeless, Keeper]))
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            found = await case(Bench(runtime, manager))
        except Exception as error:  # noqa: BLE001 - it is what this is for
            found = error
        return found, loop.time() - start


@pytest.mark.parametrize("name", CASES)
def test_a_failing_message_is_told_to_its_sender_soon(name: str) -> None:
    case, kind, why = CASES[name]
    found, took_s = virtual_time.run(on_bench(case), at_most_s=60.0)
    with pytest.raises(kind, match=why):
        raise found if isinstance(found, BaseException) else AssertionError(f"no error: {found}")
    assert took_s < SOON_S
    if isinstance(found, AgentrayError) and not isinstance(found, ChannelClosed):
        # It says whom it is about also to a program.
        assert {"agent", "type_name", "what"} & found.__dict__.keys()


def test_an_event_that_an_agent_does_not_know_is_told_to_its_sender() -> None:
    async def send(bench: Bench) -> tuple[str, str, str]:
        event, target = Nobodys(), bench.worker().id
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        bench.runtime._channel.post(
            Post(Kind.EVENT, target, event.event_type, encode(event), answer.set_result)
        )
        outcome = (await answer).outcome
        assert outcome is not None
        (failure,) = outcome.errors
        return failure.type, failure.message, failure.agent

    (kind, message, agent), took_s = virtual_time.run(on_bench(send))
    assert (kind, agent) == ("NoHandler", "worker/w")
    assert Nobodys.event_type in message
    assert took_s < SOON_S


def test_a_handler_without_a_reply_replies_none() -> None:
    found, took_s = virtual_time.run(on_bench(lambda b: b.worker().nothing()))
    assert found is None
    assert took_s < SOON_S


def test_an_event_that_nobody_wants_is_a_dead_letter_and_fails_nothing() -> None:
    async def publish(bench: Bench) -> tuple[str, list[str]]:
        run = await bench.manager.prompt("1", agent="worker")

        async def letters() -> list[str]:
            return [letter.target for letter in await bench.runtime.store.list_dead_letters()]

        return run.status.value, await eventually_async(letters, interval_s=0.01)

    found, took_s = virtual_time.run(on_bench(publish))
    assert found == ("succeeded", [Nobodys.event_type])
    assert took_s < SOON_S


def test_an_idempotent_call_is_sent_again_when_its_host_is_killed() -> None:
    async def killed(bench: Bench) -> str:
        call = asyncio.create_task(bench.worker().work_again())
        await bench.running()
        await bench.kill()
        return await call

    found, took_s = virtual_time.run(on_bench(killed))
    assert found == "w"
    assert took_s < SOON_S


def test_a_call_that_is_cancelled_ends_its_handler_and_what_that_waits_for() -> None:
    async def cancelled(bench: Bench) -> list[str]:
        call = asyncio.create_task(bench.worker().ask("worker/x", "work"))
        await bench.running("x")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        async def idle() -> list[str]:
            found = await bench.manager.agents("worker")
            return [a["agent"] for a in found if a["status"] == "idle"]

        async def both_idle() -> list[str]:
            found = await idle()
            return sorted(found) if len(found) == 2 else []

        return await eventually_async(both_idle, interval_s=0.01)

    found, took_s = virtual_time.run(on_bench(cancelled))
    assert found == ["worker/w", "worker/x"]
    assert took_s < SOON_S
