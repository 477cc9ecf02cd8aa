"""The threads of a host: bounded, with the caller's context, and never in the way of its end."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from agentray import Agent, App, ConfigurationError, action
from agentray.runtime.threads import Threads
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually, eventually_async

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Blocker(Agent):
    gate = threading.Event()
    begun: list[int] = []  # noqa: RUF012 - shared with the test on purpose
    together = 0
    most = 0
    lock = threading.Lock()

    @action
    async def wait(self, number: int) -> str:
        return await self.run_sync(self._wait, number)

    def _wait(self, number: int) -> str:
        with Blocker.lock:
            Blocker.begun.append(number)
            Blocker.together += 1
            Blocker.most = max(Blocker.most, Blocker.together)
        Blocker.gate.wait(30)
        with Blocker.lock:
            Blocker.together -= 1
        return str(self.context.agent)

    @action
    async def names(self) -> str:
        return await self.run_sync(lambda: threading.current_thread().name)

    @action
    async def there_and_back(self) -> str:
        return await self.run_sync(lambda: self.run_async(self.handle(Blocker, "other").names()))

    @action
    async def fail(self) -> None:
        await self.run_sync(next, iter(()))


@pytest.fixture(autouse=True)
def open_gate() -> None:
    Blocker.gate = threading.Event()
    Blocker.begun = []
    Blocker.together = Blocker.most = 0


async def has_begun() -> bool:
    return bool(Blocker.begun)


def _wait_at_the_gate() -> bool:
    Blocker.begun.append(0)
    return Blocker.gate.wait(30)


async def test_no_more_threads_than_the_limit_and_what_has_not_begun_can_be_taken_back() -> None:
    runtime = LocalRuntime(hosts=1, threads=2)
    async with runtime as manager:
        await manager.deploy(App("threads", [Blocker]))
        calls = [asyncio.create_task(manager.handle(Blocker, str(n)).wait(n)) for n in range(6)]

        async def two_have_begun() -> bool:
            (host,) = (await manager.status())["hosts"]
            return len(Blocker.begun) == 2 and host["status"] == "live"

        await eventually_async(two_have_begun)
        waiting = next(n for n in range(6) if n not in Blocker.begun)
        begun = Blocker.begun[0]
        for given_up in (waiting, begun):
            calls[given_up].cancel()
        await asyncio.wait([calls[waiting], calls[begun]])
        assert Blocker.together == 2  # what has begun goes on in its thread
        Blocker.gate.set()
        rest = [n for n in range(6) if n not in {waiting, begun}]
        assert [await calls[n] for n in rest] == [f"blocker/{n}" for n in rest]
        assert waiting not in Blocker.begun
        assert Blocker.most == 2


async def test_they_are_not_asyncios_own() -> None:
    async with LocalRuntime(threads=1) as manager:
        await manager.deploy(App("threads", [Blocker]))
        stuck = asyncio.create_task(manager.handle(Blocker, "stuck").wait(1))
        await eventually_async(has_begun)
        assert await asyncio.to_thread(lambda: 5) == 5
        Blocker.gate.set()
        await stuck


async def test_a_thread_calls_agents_through_the_event_loop() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("threads", [Blocker]))
        assert (await manager.handle(Blocker, "a").there_and_back()).startswith("agentray-")


async def test_an_exhausted_iterator_is_an_error_like_any_other() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("threads", [Blocker]))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await manager.handle(Blocker, "a").fail()


async def test_the_callers_context_is_carried_and_its_changes_stay_in_the_thread() -> None:
    threads = Threads(1)

    def change() -> str:
        was = WHO.get()
        WHO.set("the thread")
        return was

    WHO.set("the caller")
    assert await threads.run(change) == "the caller"
    assert await threads.run(change) == "the caller"
    assert WHO.get() == "the caller"
    threads.close()


async def test_when_the_pool_is_closed_what_waits_is_cancelled_and_the_threads_end() -> None:
    threads = Threads(1, name="closing")
    under_way = asyncio.create_task(threads.run(_wait_at_the_gate))
    await eventually_async(has_begun)
    waiting = asyncio.create_task(threads.run(lambda: None))
    await asyncio.sleep(0)
    assert (threads.busy, threads.waiting) == (1, 1)
    threads.close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="has stopped"):
        await threads.run(lambda: None)
    Blocker.gate.set()
    assert await under_way
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("closing")])


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    program = """
import asyncio, threading
from agentray.runtime.threads import Threads

async def main():
    threads = Threads(1)
    begun = threading.Event()
    def stuck():
        begun.set()
        threading.Event().wait()
    task = asyncio.create_task(threads.run(stuck))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    threads.close()
    task.cancel()

asyncio.run(main())
print("over")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def test_an_agent_that_runs_on_no_host_says_so() -> None:
    async def bare() -> None:
        await Blocker().run_sync(int)

    with pytest.raises(ConfigurationError, match="no message is being handled"):
        asyncio.run(bare())
