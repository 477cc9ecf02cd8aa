"""What agents may rely on in the finer points: for both ways of hosting.

Collected as `hosting.py` and `lives.py` are, by `test_hosting_local.py` and by
`tests/integration/test_hosting_on_ray.py`. What happens inside of agents is told to a witness, an
agent itself: so nothing but agents is looked at.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentFailed,
    AgentId,
    AgentOptions,
    AgentStopped,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    Handle,
    Launch,
    ManagerClient,
    NoHandler,
    Overloaded,
    PayloadError,
    RestartPolicy,
    StateRecord,
    UnknownAction,
    UnknownAgent,
    UnknownAgentType,
    action,
    on,
    timer,
)
from agentray.errors import StateInvalid, StateRefused
from agentray.ids import new_id
from agentray.runtime.channel import CANCEL_GRACE_S
from tests.contract import lives
from tests.support.eventually import eventually_async

SOON_S = 2.0
"""Within which every failing message is told to its sender."""

_THREADS = 40
"""More blocking calls than any host has threads for, unless it was told to have more."""


class Witness(Agent):
    """Notes what it is told, and lets agents and their threads wait until it says so."""

    options = AgentOptions(concurrency=None)

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.gate = asyncio.Event()

    @action
    async def note(self, line: str) -> None:
        self.lines.append(line)

    @action
    def noted(self) -> list[str]:  # an action need not be a coroutine
        return self.lines

    @action
    async def wait(self) -> None:
        await self.gate.wait()

    @action
    async def open(self) -> None:
        self.gate.set()


class Rung(Event):
    witness: str
    text: str


class Kept(BaseModel):
    lines: list[str] = []


class Clerk(Agent):
    """Does what it is told; its key is also its witness's."""

    options = AgentOptions(
        name="clerk_in_full",  # other apps of the cluster have clerks, too
        mailbox=2,
        restart=RestartPolicy(max_restarts=1, backoff_s=0.01, max_backoff_s=0.02),
    )
    state: Kept

    @property
    def witness(self) -> Handle[Witness]:
        return self.handle(Witness, self.id.key.partition(".")[0])

    async def on_stop(self) -> None:
        await self.witness.note(f"{self.id.key} stopped")

    @action
    def add(self, left: int, right: int = 1) -> int:
        """Add two numbers."""
        return left + right

    @action
    async def nothing(self) -> None:
        """Reply with nothing."""

    @action
    async def seconds_left(self) -> float:
        deadline = self.context.deadline
        assert deadline is not None
        return deadline - asyncio.get_running_loop().time()

    @action
    async def seconds_left_below(self, other: str) -> float:
        below = self.handle(Clerk, other)
        return max([await b.seconds_left() for b in (below, below.with_timeout(None))])

    @action
    async def hold(self) -> None:
        await self.witness.with_timeout(None).wait()

    @action
    async def hold_below(self, other: str) -> None:
        """Wait for another clerk that waits; both take their time to clean up."""
        try:
            if other:
                await self.handle(Clerk, other).hold_below("")
            else:
                await self.witness.wait()
        finally:
            await asyncio.sleep(0.2)
            await self.witness.note(f"{self.id.key} cleaned up")

    @action
    async def swallow_cancellations(self, end: Path) -> str:
        self.state.lines.append("swallowed")
        await self.witness.note("swallows")
        while not os.path.exists(end):  # noqa: ASYNC240, PTH110 - a test makes it
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue
        return "as if nothing was"

    @action
    async def ring(self, *, fail: bool) -> None:
        self.state.lines.append("rung")
        self.context.publish(Rung(witness=self.id.key, text="fails" if fail else "succeeds"))
        if fail:
            raise ValueError("after publishing")

    @action
    async def lines(self) -> list[str]:
        return self.state.lines

    @action
    async def unsendable(self) -> object:
        return {"lock": threading.Lock()}

    @action
    async def unkeepable(self) -> None:
        self.state.lines.append(object())  # type: ignore[arg-type]


class Bell(Agent):
    """Tells a witness what was rung."""

    @on(Rung, key="field:witness")
    async def hear(self, rung: Rung) -> None:
        await self.handle(Witness, rung.witness).note(rung.text)


class Threaded(Agent):
    """Blocks threads, never the event loop."""

    options = AgentOptions(concurrency=None)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.busy = self.most = self.done = 0

    def _block(self) -> None:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        self.gate.wait(30)
        with self.lock:
            self.busy -= 1
            self.done += 1

    @action
    async def block(self) -> None:
        await self.run_sync(self._block)

    @action
    async def counts(self) -> tuple[int, int, int]:
        return self.busy, self.most, self.done

    @action
    async def open(self) -> None:
        self.gate.set()


class Clock(Agent):
    """Has timers, one of which fails when it is told to."""

    options = AgentOptions(
        restart=RestartPolicy(max_restarts=5, backoff_s=0.01, max_backoff_s=0.02)
    )
    state: Kept

    def __init__(self) -> None:
        self.fail = False

    @timer(3600, run_at_start=True)
    async def at_start(self) -> None:
        self.state.lines.append("at start")

    @timer(3600)
    async def later(self) -> None:
        self.state.lines.append("later")

    @timer(0.05)
    async def often(self) -> None:
        if self.fail:
            raise ValueError("the clock is broken")

    @action
    async def lines(self) -> list[str]:
        return self.state.lines

    @action
    async def break_down(self) -> None:
        self.fail = True


class Brittle(Agent):
    """Does not start as often as it is told; notes each attempt."""

    def __init__(self, witness: str, failures: int, friend: Handle[Brittle] | None = None) -> None:
        self.witness, self.failures, self.friend = witness, failures, friend

    async def on_start(self) -> None:
        witness = self.handle(Witness, self.witness)
        if self.friend is not None:
            await witness.note(await self.friend.greet())
        await witness.note("attempt")
        attempts = (await witness.noted()).count("attempt")
        if attempts <= self.failures:
            raise ValueError(f"attempt {attempts}")

    @action
    async def greet(self) -> str:
        return f"{self.id.key} greets"


class Late(Agent):
    """Starts when its witness lets it; says which one of itself it is."""

    async def on_start(self) -> None:
        witness = self.handle(Witness, self.id.key)
        await witness.note("born")
        await witness.wait()
        self.birth = new_id("birth")

    @action
    async def born(self) -> str:
        return self.birth


class Carrier(Agent):
    """Sends an array to another one, and says what became of it and in which processes."""

    options = AgentOptions(concurrency=None)

    @action(idempotent=True)
    async def process(self) -> int:
        return os.getpid()

    @action
    async def carry(self, other: str) -> tuple[float, bool]:
        array = np.ones(131_072)  # 1 MiB
        total, writeable = await self.handle(Carrier, other).weigh(array)
        array += 1  # what was sent is not what is changed here
        assert await self.handle(Carrier, other).weigh(array) == (2 * total, writeable)
        return total, writeable

    @action
    async def weigh(self, array: Any) -> tuple[float, bool]:
        return float(array.sum()), bool(array.flags.writeable)


class Made(Agent):
    """Comes from a factory that is no coroutine, and takes arguments."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    @action
    async def made_as(self) -> str:
        return self.mark


def make(agent_id: AgentId, number: int = 0) -> Made:
    if number < 0:
        raise OSError("the factory is closed")
    return Made(f"{agent_id.key}: {number}")


class Seal:
    """Has the name of another module's class, which travels in another way."""

    def __init__(self) -> None:
        self.marks = ["of in_full"]


IN_FULL = App(
    "in_full",
    [Witness, Clerk, Bell, Threaded, Clock, Brittle, Late, Carrier, Made],
    factories={Made: make},
)


async def noted(witness: Handle[Witness], *lines: str) -> None:
    """Wait until a witness has noted these lines, and no others."""

    async def there() -> bool:
        return sorted(await witness.noted()) == sorted(lines)

    await eventually_async(there)


async def has_status(agent: Handle[Any], status: str) -> None:
    async def is_so() -> bool:
        return (await agent.status())["status"] == status

    await eventually_async(is_so)


async def fails_soon(
    attempt: Callable[[], Awaitable[Any]], error: type[BaseException], why: str
) -> None:
    """Check that something fails, in the right way and soon; a machine that is busy is asked again.

    What hangs, or takes its time, does so each time.
    """

    async def is_soon() -> bool:
        begun = time.monotonic()
        with pytest.raises(error, match=why):
            await attempt()
        return time.monotonic() - begun < SOON_S

    await eventually_async(is_soon, timeout_s=20.0)


async def check_activated_once(*drivers: ManagerClient) -> None:
    """Check that first messages which come together, from all drivers, start one agent."""
    key = new_id("late")
    calls = [asyncio.create_task(d.handle(Late, key).born()) for d in drivers for _ in range(50)]
    witness = drivers[0].handle(Witness, key)
    await noted(witness, "born")  # and waits in its on_start
    late = [asyncio.create_task(driver.handle(Late, key).born()) for driver in drivers]
    assert (await asyncio.wait([*calls, *late], timeout=0.1))[0] == set()
    await witness.open()
    assert len(set(await asyncio.gather(*calls, *late))) == 1
    await noted(witness, "born")


class InFullContract:
    """Subclass it with a fixture `full`: a manager's client with the app deployed."""

    # Calls

    async def test_calls_below_inherit_the_deadline(self, full: ManagerClient) -> None:
        clerk = full.handle(Clerk, new_id("clerk"))
        assert 50.0 < await clerk.seconds_left() <= 60.0
        assert await clerk.with_timeout(9.0).seconds_left_below(new_id("clerk")) <= 9.0

    async def test_a_cancelled_call_ends_when_all_below_it_has(self, full: ManagerClient) -> None:
        while True:
            key = new_id("clerk")
            clerk, below = full.handle(Clerk, key), full.handle(Clerk, f"{key}.below")
            call = asyncio.create_task(clerk.hold_below(below.id.key))
            await has_status(below, "running")
            begun = time.monotonic()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            if time.monotonic() - begun < CANCEL_GRACE_S:
                break  # else this machine was too busy to acknowledge it
        # Not eventually: it was acknowledged, so all of it is over.
        lines = await full.handle(Witness, key).noted()
        assert lines == [f"{key}.below cleaned up", f"{key} cleaned up"]
        assert (await below.status())["status"] == (await clerk.status())["status"] == "idle"

    async def test_an_agent_tells_what_it_counts_and_what_it_can_do(
        self, full: ManagerClient
    ) -> None:
        key = new_id("clerk")
        clerk = full.handle(Clerk, key)
        assert await clerk.add(1) == 2
        calls = [asyncio.create_task(clerk.hold()) for _ in range(2)]

        async def counted() -> bool:
            stats = await clerk.stats()
            return (stats["running"], stats["queued"], stats["completed"]) == (1, 1, 1)

        await eventually_async(counted)
        described = (await clerk.describe())["actions"]["add"]
        assert described["doc"] == "Add two numbers."
        parameters = described["parameters"]
        assert {n: p["type"] for n, p in parameters["properties"].items()} == {
            "left": "integer",
            "right": "integer",
        }
        assert parameters["required"] == ["left"]
        await full.handle(Witness, key).open()
        await asyncio.gather(*calls)

    # Turns

    async def test_control_messages_pass_by_what_waits(self, full: ManagerClient) -> None:
        key = new_id("clerk")
        clerk = full.handle(Clerk, key)
        await clerk.nothing()
        calls = [asyncio.create_task(clerk.hold()) for _ in range(3)]

        async def full_up() -> bool:
            return (await clerk.status())["queued"] == 2

        await eventually_async(full_up)
        with pytest.raises(Overloaded):
            await clerk.nothing()
        assert await clerk.ping() >= 0
        assert (await clerk.stats())["queued"] == 2
        calls[0].cancel()  # the one that runs: the next one gets its turn
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        await full.shutdown(clerk, grace_s=0)
        for call in calls[1:]:
            with pytest.raises(AgentStopped):
                await call

    async def test_blocking_code_has_a_bounded_number_of_threads(self, full: ManagerClient) -> None:
        threaded = full.handle(Threaded, new_id("threaded"))
        calls = [asyncio.create_task(threaded.block()) for _ in range(_THREADS)]

        async def all_wait() -> bool:
            stats = await threaded.stats()
            return stats["running"] == _THREADS and (await threaded.counts())[0] > 1

        await eventually_async(all_wait)
        await threaded.open()
        await asyncio.gather(*calls)
        busy, most, done = await threaded.counts()
        assert (busy, done) == (0, _THREADS)
        assert 1 < most <= 32

    # Background work

    async def test_a_timer_ticks_at_the_start_only_if_it_says_so(self, full: ManagerClient) -> None:
        clock = full.handle(Clock, new_id("clock"))

        async def has_ticked() -> list[str]:
            return await clock.lines()

        assert await eventually_async(has_ticked) == ["at start"]

    async def test_an_error_of_a_timer_is_counted(self, full: ManagerClient) -> None:
        clock = full.handle(Clock, new_id("clock"))
        await clock.break_down()

        async def counted() -> bool:
            return (await clock.stats())["restarts"] == 1

        await eventually_async(counted)
        assert "the clock is broken" in (await clock.stats())["last_error"]

    # Launching

    async def test_options_are_for_the_one_that_is_launched_with_them(
        self, full: ManagerClient
    ) -> None:
        key = new_id("clerk")
        clerk = await full.launch(Clerk, name=key, options=AgentOptions(concurrency=None))
        calls = [asyncio.create_task(clerk.hold()) for _ in range(5)]

        async def all_run() -> bool:
            return (await clerk.stats())["running"] == 5

        await eventually_async(all_run)
        await full.handle(Witness, key).open()
        await asyncio.gather(*calls)

    async def test_siblings_of_a_batch_are_called_before_they_run(
        self, full: ManagerClient
    ) -> None:
        witness = full.handle(Witness, new_id("witness"))
        last = Launch(Brittle, (witness.id.key, 0), name=new_id("last"))
        first = Launch(Brittle, (witness.id.key, 0), {"friend": last.handle})
        await full.launch_batch([first, last])
        await noted(witness, f"{last.id.key} greets", "attempt", "attempt")

    async def test_several_are_registered_or_none(self, full: ManagerClient) -> None:
        known = await full.register(Brittle, args=("nobody", 0), name=new_id("known"))
        fresh = Launch(Brittle, ("nobody", 0))
        with pytest.raises(ConfigurationError, match="other arguments"):
            await full.register_many([fresh, Launch(Brittle, ("else", 1), name=known.id.key)])
        with pytest.raises(UnknownAgent):
            await full.get_handle(fresh.id)
        assert await full.register_many([fresh]) == [fresh.handle]
        assert (await full.get_handle(fresh.id)).id == fresh.id

    async def test_agents_are_found_by_what_is_known_of_them(self, full: ManagerClient) -> None:
        tag = new_id("tag")
        one = await full.launch(Made, name=f"{tag}-1", labels={"tag": tag, "odd": "yes"})
        two = await full.launch(Made, name=f"{tag}-2", labels={"tag": tag})
        three = await full.register(Clerk, name=f"{tag}-1", labels={"tag": tag})

        async def found(**query: Any) -> set[Handle[Any]]:
            return {record.handle for record in await full.find(labels={"tag": tag}, **query)}

        assert await found() == {one, two, three}
        assert await found(type=Made) == {one, two}
        assert await found(name=f"{tag}-1") == {one, three}
        assert await found(action="made_as", name=f"{tag}-2") == {two}
        assert await found(status="registered") == {three}
        assert {r.handle for r in await full.find(labels={"tag": tag, "odd": "yes"})} == {one}

    async def test_who_waits_may_wait_for_the_first_or_for_some_time(
        self, full: ManagerClient
    ) -> None:
        one, two = [await full.launch(Made, name=new_id("made")) for _ in range(2)]
        assert await full.wait([one, two], timeout=0.05) == (set(), {one, two})
        waiting = asyncio.create_task(full.wait([one, two], return_when="FIRST_COMPLETED"))
        await full.shutdown(two)
        assert await waiting == ({two}, {one})
        await full.shutdown(one)
        assert await full.wait([one, two], return_when="ALL_COMPLETED") == ({one, two}, set())

    async def test_a_shutdown_cancels_after_its_grace_and_on_stop_runs(
        self, full: ManagerClient
    ) -> None:
        key = new_id("clerk")
        clerk = await full.launch(Clerk, name=key)
        call = asyncio.create_task(clerk.hold())
        await has_status(clerk, "running")
        await full.shutdown(clerk, grace_s=0.1)
        with pytest.raises(AgentStopped):
            await call
        await noted(full.handle(Witness, key), f"{key} stopped")

    async def test_what_does_not_end_after_its_cancellation_is_abandoned(
        self, full: ManagerClient, tmp_path: Path
    ) -> None:
        key, end = new_id("clerk"), tmp_path / "end"
        clerk = await full.launch(Clerk, name=key)
        call = asyncio.create_task(clerk.swallow_cancellations(end))
        await noted(full.handle(Witness, key), "swallows")
        await full.shutdown(clerk, grace_s=0)
        with pytest.raises(AgentStopped):
            await call
        assert (await clerk.status())["status"] == "stopped"
        # Its next life begins when the last one is over, without what that did in vain.
        launching = asyncio.create_task(full.launch(clerk))
        assert (await asyncio.wait([launching], timeout=0.1))[0] == set()
        end.touch()
        await launching
        assert await clerk.lines() == []

    async def test_a_shutdown_need_not_be_waited_for(self, full: ManagerClient) -> None:
        key = new_id("clerk")
        clerk = await full.launch(Clerk, name=key)
        call = asyncio.create_task(clerk.hold())
        await has_status(clerk, "running")
        await full.shutdown(clerk, blocking=False)
        assert not call.done()
        with pytest.raises(AgentStopped):
            await clerk.nothing()
        await full.handle(Witness, key).open()
        await call  # it was within its grace
        await has_status(clerk, "stopped")

    async def test_a_start_is_tried_again_as_often_as_max_retries_says(
        self, full: ManagerClient
    ) -> None:
        good, bad = (full.handle(Witness, new_id("witness")) for _ in range(2))
        policy = RestartPolicy(max_restarts=9, backoff_s=0.01, max_backoff_s=0.02)
        options = AgentOptions(restart=policy)
        args = (good.id.key, 2)
        started = await full.launch(Brittle, args=args, max_retries=2, options=options)
        assert await started.greet()
        await noted(good, *["attempt"] * 3)
        name, args = new_id("brittle"), (bad.id.key, 99)
        with pytest.raises(AgentFailed, match="attempt 3"):
            await full.launch(Brittle, args=args, name=name, max_retries=2, options=options)
        await noted(bad, *["attempt"] * 3)
        failed = await full.get_handle(f"brittle/{name}")
        with pytest.raises(AgentFailed, match="attempt 3"):
            await full.shutdown(failed, raise_error=True)

    # Identity

    async def test_a_key_is_activated_once_however_many_call_it_first(
        self, full: ManagerClient
    ) -> None:
        await check_activated_once(full)

    async def test_keys_cost_nothing_until_they_are_used(self, full: ManagerClient) -> None:
        mark = new_id("key")
        handles = [full.handle(Made, f"{mark}-{number}") for number in range(200_000)]
        used = handles[::50_000]
        assert [await made.made_as() for made in used] == [f"{h.id.key}: 0" for h in used]

        async def those_alone() -> bool:  # a host that is too busy to tell names none
            there = [row["agent"] for row in await full.agents("made", 10_000)]
            return sorted(a for a in there if mark in a) == sorted(str(h.id) for h in used)

        await eventually_async(those_alone)

    async def test_a_factory_takes_the_arguments_of_the_launch(self, full: ManagerClient) -> None:
        made = await full.launch(Made, args=(7,))
        assert await made.made_as() == f"{made.id.key}: 7"

    # State

    async def test_events_leave_with_the_success_of_their_handler(
        self, full: ManagerClient
    ) -> None:
        clerk = full.handle(Clerk, new_id("clerk"))
        with pytest.raises(ValueError, match="after publishing"):
            await clerk.ring(fail=True)
        await clerk.ring(fail=False)  # the same way, so the other one would have come before
        await noted(full.handle(Witness, clerk.id.key), "succeeds")
        assert await clerk.lines() == ["rung"]

    async def test_states_are_imported_all_or_none_after_the_code_has_seen_them(
        self, full: ManagerClient
    ) -> None:
        one, two = (full.handle(Clerk, new_id("clerk")) for _ in range(2))
        good = StateRecord(one.id, {"lines": ["imported"]}, 1)
        with pytest.raises(StateInvalid, match="lines"):
            await full.import_state("in_full", [good, StateRecord(two.id, {"lines": 5}, 1)])
        assert await one.lines() == []
        assert await full.import_state("in_full", [good]) == 1
        assert await one.lines() == ["imported"]

    # Payloads

    async def test_equally_named_classes_of_two_modules_do_not_clash(
        self, full: ManagerClient
    ) -> None:
        await full.deploy(lives.LIVES)
        copyist = full.handle(lives.Copyist, new_id("copyist"))
        ours, theirs = await copyist.same([Seal(), lives.Seal("semper")])
        assert (type(ours), ours.marks) == (Seal, ["of in_full"])
        assert (type(theirs), theirs.motto) == (lives.Seal, "semper")

    # Errors

    async def test_each_way_to_fail_is_told_to_the_sender_soon(self, full: ManagerClient) -> None:
        clerk, stopped = full.handle(Clerk, new_id("clerk")), full.handle(Clerk, new_id("clerk"))
        await full.shutdown(stopped)
        policy = RestartPolicy(max_restarts=9, backoff_s=0.01, max_backoff_s=0.02)

        def broken() -> Awaitable[Any]:
            options = AgentOptions(restart=policy)
            return full.launch(Made, args=(-1,), max_retries=1, options=options)

        ways: list[tuple[Callable[[], Awaitable[Any]], type[BaseException], str]] = [
            (lambda: full.handle("nobody", "x").call_by_name("work"), UnknownAgentType, "nobody"),
            (lambda: clerk.call_by_name("sing"), UnknownAction, "sing"),
            (lambda: clerk.call_by_name("nothing", (1, 2)), TypeError, "nothing"),
            (lambda: full.prompt("hello", agent=clerk.id), NoHandler, "Prompt"),
            (broken, AgentFailed, "OSError: the factory is closed"),
            (stopped.nothing, AgentStopped, str(stopped.id)),
            (clerk.unsendable, PayloadError, "lock"),
            (lambda: clerk.call_by_name("lines", (threading.Lock(),)), PayloadError, "argument 1"),
            (clerk.unkeepable, StateRefused, "lines"),
            (lambda: clerk.with_timeout(0.2).hold(), DeadlineExceeded, "did not reply"),
        ]
        for attempt, error, why in ways:
            await fails_soon(attempt, error, why)
        assert await clerk.call(Clerk.nothing) is None
