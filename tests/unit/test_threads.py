"""The threads of a host: bounded, with the caller's context, and never in the way of its end."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from agentray import Agent, App, ConfigurationError, DeadlineExceeded, action
from agentray.runtime.threads import Threads
from agentray.testing import LocalRuntime, run
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


class Relay(Agent):
    """Waits for others in threads."""

    told: list[str] = []  # noqa: RUF012 - shared with the test on purpose
    ended = threading.Event()

    @action
    async def slow(self, seconds: float) -> None:
        Relay.told.append("begins")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            Relay.told.append("cancelled")
            raise

    @action
    async def count(self) -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                yield number
                await asyncio.sleep(1.0)
        finally:
            Relay.told.append("closed")

    @action
    async def passes_on(self, how: str) -> None:
        await self.run_sync(self._pass_on, how)

    def _pass_on(self, how: str) -> None:
        try:
            getattr(self, f"_{how}")()
        finally:
            Relay.ended.set()

    def _call(self) -> None:
        self.handle(Relay, "helper").sync.slow(1000.0)

    def _run_async(self) -> None:
        self.run_async(self.handle(Relay, "helper").slow(1000.0))

    def _stream(self) -> None:
        Relay.told.append("begins")
        for _ in self.handle(Relay, "helper").sync.count():
            pass

    def _insist(self) -> None:
        try:
            self._call()
        except BaseException:
            try:
                self._call()
            except asyncio.CancelledError:
                Relay.told.append("refused")
            raise


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("call", ["begins", "cancelled"]),
        ("run_async", ["begins", "cancelled"]),
        ("stream", ["begins", "closed"]),
        ("insist", ["begins", "cancelled", "refused"]),
    ],
)
@pytest.mark.parametrize("deadline", [True, False])
def test_cancelling_reaches_what_a_thread_waits_for(
    how: str, told: list[str], deadline: bool
) -> None:
    async def scenario() -> None:
        Relay.told, Relay.ended = [], threading.Event()
        async with LocalRuntime() as manager:
            await manager.deploy(App("relay", [Relay]))
            relay = manager.handle(Relay, "one").with_timeout(5.0 if deadline else None)
            call = asyncio.create_task(relay.passes_on(how))
            await asyncio.sleep(3.0)
            if not deadline:
                call.cancel()
                await asyncio.wait([call])
                assert (await manager.handle(Relay, "helper").status())["status"] == "idle"
            else:
                with pytest.raises(DeadlineExceeded):
                    await call
                await asyncio.sleep(3.0)
            assert await asyncio.to_thread(Relay.ended.wait, 30)  # nobody waits for the thread
        if deadline:  # which reaches both of them at the same moment: they end in any order
            assert sorted(Relay.told) == sorted(told)
        else:
            assert Relay.told == told

    run(scenario())


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
