"""What agents may rely on wherever they are hosted: one suite for `LocalRuntime` and for Ray.

Collected by `test_hosting_local.py` here and by `tests/integration/test_hosting_on_ray.py`. Nothing
looks into a host: only what both ways of hosting show to users counts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    App,
    DeadlineExceeded,
    Event,
    Handle,
    ManagerClient,
    Overloaded,
    Prompt,
    RestartPolicy,
    RunStatus,
    TerminateEvent,
    UnknownAction,
    UnknownAgentType,
    action,
    loop,
    on,
    timer,
)
from agentray.ids import new_id
from tests.support.eventually import eventually_async

_sleep = time.sleep  # noqa: TID251 - it blocks on purpose


class Noted(BaseModel):
    lines: list[str] = []
    starts: int = 0
    idle: int = 0


class Said(Event):
    book: str
    text: str


class Answered(TerminateEvent):
    text: str


class Gate(Agent):
    """Lets agents wait for the test, wherever they run."""

    options = AgentOptions(concurrency=None)

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0
        self.most = 0

    @action
    async def pass_through(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1

    @action
    async def open(self) -> None:
        self.opened.set()

    @action
    async def close(self) -> None:
        self.opened.clear()

    @action
    async def counts(self) -> tuple[int, int]:
        return self.waiting, self.most


class Book(Agent):
    """Is written into, by one message at a time; the key is also its gate's."""

    options = AgentOptions(mailbox=3)
    state: Noted

    @action
    async def write(self, text: str) -> list[str]:
        self.state.lines.append(text)
        return self.state.lines

    @action
    async def write_slowly(self, text: str) -> None:
        before = list(self.state.lines)
        await self.handle(Gate, self.id.key).pass_through()
        assert self.state.lines == before
        self.state.lines.append(text)

    @action
    async def write_and_fail(self, text: str) -> None:
        self.state.lines.append(text)
        raise ValueError(f"not {text}")

    @action
    async def read(self) -> list[str]:
        return self.state.lines

    @action
    async def through(self, other: str, text: str) -> list[str]:
        """Write into oneself through another book: two calls, one turn."""
        return await self.handle(Book, other).with_timeout(10.0).back(self.id.key, text)

    @action
    async def back(self, first: str, text: str) -> list[str]:
        return await self.handle(Book, first).write(text)

    @action
    async def say(self, book: str, text: str) -> None:
        self.context.publish(Said(book=book, text=text))

    @on(Said, key="field:book")
    async def hear(self, said: Said) -> None:
        self.state.lines.append(f"{said.text} from {self.context.sender}")

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> Answered:
        self.state.lines.append(prompt.text)
        return Answered(text=prompt.text.upper())

    @action
    async def block(self, seconds: float) -> None:
        _sleep(seconds)

    @action
    async def in_a_thread(self) -> bool:
        here = threading.get_ident()
        return await self.run_sync(threading.get_ident) != here


class Crowd(Agent):
    """Handles several messages at once."""

    options = AgentOptions(concurrency=3)

    @action
    async def enter(self) -> None:
        await self.handle(Gate, self.id.key).pass_through()


class Starter(Agent):
    """Takes as long to start as its gate is closed; keys that begin with bad never do."""

    options = AgentOptions(
        restart=RestartPolicy(max_restarts=1, backoff_s=0.01, max_backoff_s=0.02)
    )

    async def on_start(self) -> None:
        await self.handle(Gate, self.id.key).pass_through()
        if self.id.key.startswith("bad"):
            raise ValueError("it does not start")

    @action
    async def ready(self) -> bool:
        return True


class Guest(Agent):
    """Leaves soon, and notes that it does."""

    options = AgentOptions(idle_timeout_s=1.0)
    state: Noted

    async def on_start(self) -> None:
        self.state.starts += 1

    @action
    async def stays(self) -> tuple[int, int]:
        return self.state.starts, self.state.idle

    async def on_idle(self) -> None:
        self.state.idle += 1


class Worker(Agent):
    """Works by itself, and fails when it is told to."""

    options = AgentOptions(
        restart=RestartPolicy(max_restarts=2, backoff_s=0.01, max_backoff_s=0.02)
    )
    state: Noted

    def __init__(self) -> None:
        self.fail = ""

    async def on_start(self) -> None:
        self.fail = "loop" if self.id.key.startswith("bad") else ""

    @timer(0.1, run_at_start=True)
    async def tick(self) -> None:
        self.state.lines.append("tick")
        if self.fail == "timer":
            raise ValueError("no tick")

    @loop
    async def watch(self) -> None:
        while True:
            if self.fail == "loop":
                raise ValueError("no loop")
            async with self.turn():
                self.state.lines.append("loop")
            await asyncio.sleep(0.1)

    @action
    async def count(self, what: str) -> int:
        return self.state.lines.count(what)

    @action
    async def break_down(self, how: str) -> None:
        self.fail = how


APP = App("hosting", [Gate, Book, Crowd, Starter, Guest, Worker])


async def in_gate(gate: Handle[Gate], count: int) -> None:
    """Wait until as many wait at a gate."""

    async def there() -> bool:
        return (await gate.counts())[0] == count

    await eventually_async(there)


async def row_of(manager: ManagerClient, agent: str) -> dict[str, Any] | None:
    rows = await manager.agents(agent.partition("/")[0], 1000)
    return next((row for row in rows if row["agent"] == agent), None)


class HostingContract:
    """Subclass it with a fixture `hosted`: a manager's client with the app deployed."""

    async def test_a_call_returns_the_value_of_its_action(self, hosted: ManagerClient) -> None:
        book = hosted.handle(Book, new_id("book"))
        assert await book.write("one") == ["one"]
        assert await book.call(Book.write, text="two") == ["one", "two"]

    async def test_a_tell_returns_before_the_work_is_done(self, hosted: ManagerClient) -> None:
        key = new_id("book")
        book, gate = hosted.handle(Book, key), hosted.handle(Gate, key)
        await book.write_slowly.tell("slowly")
        await in_gate(gate, 1)
        await gate.open()
        assert await book.read() == ["slowly"]

    async def test_an_error_reaches_its_caller_and_leaves_the_state_as_it_was(
        self, hosted: ManagerClient
    ) -> None:
        book = hosted.handle(Book, new_id("book"))
        await book.write("kept")
        with pytest.raises(ValueError, match="not lost"):
            await book.write_and_fail("lost")
        assert await book.read() == ["kept"]

    async def test_wrong_addresses_are_told_at_once(self, hosted: ManagerClient) -> None:
        with pytest.raises(UnknownAgentType, match="nobody"):
            await hosted.handle("nobody", "x").anything()
        with pytest.raises(UnknownAction, match="sing"):
            await hosted.handle(Book, new_id("book")).sing()

    async def test_a_call_ends_at_its_deadline_and_its_turn_is_free_again(
        self, hosted: ManagerClient
    ) -> None:
        key = new_id("book")
        book = hosted.handle(Book, key)
        with pytest.raises(DeadlineExceeded):
            await book.with_timeout(0.2).write_slowly("late")
        assert await book.read() == []
        await in_gate(hosted.handle(Gate, key), 0)  # what it called was cancelled too

    async def test_cancelling_a_call_cancels_its_handler_and_what_that_called(
        self, hosted: ManagerClient
    ) -> None:
        key = new_id("book")
        book, gate = hosted.handle(Book, key), hosted.handle(Gate, key)
        call = asyncio.create_task(book.write_slowly("never"))
        await in_gate(gate, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await in_gate(gate, 0)
        assert await book.read() == []

    async def test_a_call_back_within_a_call_does_not_wait_for_it(
        self, hosted: ManagerClient
    ) -> None:
        first, second = hosted.handle(Book, new_id("book")), new_id("book")
        assert await first.through(second, "round") == ["round"]

    async def test_messages_are_handled_one_at_a_time_in_order_and_the_mailbox_is_bounded(
        self, hosted: ManagerClient
    ) -> None:
        key = new_id("book")
        book, gate = hosted.handle(Book, key), hosted.handle(Gate, key)
        assert await book.read() == []  # it has started: its mailbox is what is bounded
        writing = [asyncio.create_task(book.write_slowly(str(n))) for n in range(4)]

        async def three_wait() -> bool:
            row = await row_of(hosted, f"book/{key}")
            return row is not None and row["queued"] == 3

        await eventually_async(three_wait)
        with pytest.raises(Overloaded):
            await book.write("more")
        await in_gate(gate, 1)
        await gate.open()
        await asyncio.gather(*writing)
        assert await book.read() == ["0", "1", "2", "3"]
        assert await gate.counts() == (0, 1)

    async def test_an_agent_handles_as_many_messages_at_once_as_its_options_say(
        self, hosted: ManagerClient
    ) -> None:
        key = new_id("crowd")
        crowd, gate = hosted.handle(Crowd, key), hosted.handle(Gate, key)
        entering = [asyncio.create_task(crowd.enter()) for _ in range(7)]
        await in_gate(gate, 3)

        async def four_wait() -> bool:
            row = await row_of(hosted, f"crowd/{key}")
            return row is not None and row["queued"] == 4

        await eventually_async(four_wait)
        assert (await gate.counts())[0] == 3
        await gate.open()
        await asyncio.gather(*entering)
        assert await gate.counts() == (0, 3)

    async def test_messages_wait_until_the_agent_has_started(self, hosted: ManagerClient) -> None:
        key = new_id("good")
        starter, gate = hosted.handle(Starter, key), hosted.handle(Gate, key)
        calls = [asyncio.create_task(starter.ready()) for _ in range(3)]
        await in_gate(gate, 1)
        row = await row_of(hosted, f"starter/{key}")
        assert row is not None
        assert row["status"] == "starting"
        assert not any(call.done() for call in calls)
        await gate.open()
        assert await asyncio.gather(*calls) == [True] * 3

    async def test_messages_get_the_error_of_a_start_that_fails_for_good(
        self, hosted: ManagerClient
    ) -> None:
        key = new_id("bad")
        starter, gate = hosted.handle(Starter, key), hosted.handle(Gate, key)
        calls = [asyncio.create_task(starter.ready()) for _ in range(3)]
        await in_gate(gate, 1)
        await gate.open()
        for ended in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(ended, AgentFailed)
            assert "it does not start" in str(ended)
        with pytest.raises(AgentFailed, match="it does not start"):
            await starter.ready()

    async def test_an_idle_agent_leaves_memory_after_on_idle_and_comes_back_with_its_state(
        self, hosted: ManagerClient
    ) -> None:
        key = new_id("guest")
        guest = hosted.handle(Guest, key)
        assert await guest.stays() == (1, 0)

        async def has_left() -> bool:
            return await row_of(hosted, f"guest/{key}") is None

        await eventually_async(has_left, timeout_s=30.0)
        assert await guest.stays() == (2, 1)

    async def test_blocking_code_runs_in_a_thread(self, hosted: ManagerClient) -> None:
        assert await hosted.handle(Book, new_id("book")).in_a_thread()

    async def test_what_is_published_reaches_the_instance_that_its_key_says(
        self, hosted: ManagerClient
    ) -> None:
        speaker, key = hosted.handle(Book, new_id("book")), new_id("book")
        await speaker.say(key, "hello")
        listener = hosted.handle(Book, key)

        async def heard() -> bool:
            return await listener.read() == [f"hello from {speaker.id}"]

        await eventually_async(heard)

    async def test_a_prompt_is_a_run_that_ends_with_its_result(self, hosted: ManagerClient) -> None:
        key = new_id("book")
        run = await hosted.prompt("shout", agent=f"book/{key}")
        assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": "SHOUT"})
        assert await hosted.handle(Book, key).read() == ["shout"]

    async def test_timers_and_loops_work_beside_messages(self, hosted: ManagerClient) -> None:
        worker = hosted.handle(Worker, new_id("good"))

        async def has_worked() -> bool:
            return await worker.count("tick") >= 3 and await worker.count("loop") >= 3

        await eventually_async(has_worked, timeout_s=30.0)

    @pytest.mark.parametrize("how", ["timer", "loop"])
    async def test_an_error_of_a_timer_or_loop_restarts_the_agent_with_its_state(
        self, hosted: ManagerClient, how: str
    ) -> None:
        worker = hosted.handle(Worker, new_id("good"))
        await worker.break_down(how)
        ticks = await worker.count("tick")

        async def works_again() -> bool:
            return await worker.count("tick") > ticks + 2

        await eventually_async(works_again, timeout_s=30.0)

    async def test_an_agent_that_fails_again_and_again_is_given_up_with_its_last_error(
        self, hosted: ManagerClient
    ) -> None:
        worker = hosted.handle(Worker, new_id("bad"))

        async def is_given_up() -> bool:
            try:
                await worker.count("tick")
            except AgentFailed as error:
                return "ValueError: no loop" in str(error)
            return False

        await eventually_async(is_given_up, timeout_s=30.0)
