"""The manager for programs that do not await: scripts, notebooks, tests without an event loop."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import threading
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    App,
    ChannelClosed,
    ClusterNotRunning,
    ConfigurationError,
    DeadlineExceeded,
    Handle,
    Launch,
    ManagerClient,
    Prompt,
    Settings,
    StateRecord,
    SyncManager,
    TerminateEvent,
    action,
    connect,
    on,
)
from agentray.event_run import EventRun
from agentray.runtime.sync_event_run import SyncEventRun
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually


class Sum(BaseModel):
    total: int = 0


class Answer(TerminateEvent):
    text: str


class Adder(Agent):
    state: Sum

    def __init__(self, friend: Handle[Any] | None = None) -> None:
        self.friend = friend
        self.cancelled = 0

    @action
    async def add(self, number: int) -> int:
        self.state.total += number
        return self.state.total

    @action
    async def pass_on(self, number: int) -> int:
        assert self.friend is not None
        return await self.friend.add(number)

    @action
    async def up_to(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number

    @action
    async def wait_for_ever(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @action
    async def cancellations(self) -> int:
        return self.cancelled

    @action
    async def misuse(self) -> str:
        """Calls what blocks on the very event loop that it would block."""
        try:
            self.handle(Adder, "other").sync.add(1)
        except ConfigurationError as error:
            return str(error)
        return "it went well"

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Answer:
        return Answer(text=prompt.text.upper())


app = App("sums", [Adder])


@pytest.fixture
def manager() -> Generator[SyncManager]:
    with LocalRuntime() as manager:
        assert manager.deploy(app) == "added"
        yield manager


# The same as the asynchronous one


def public(cls: type) -> dict[str, Callable[..., Any]]:
    return {n: m for n, m in inspect.getmembers(cls, callable) if not n.startswith("_")}


def test_it_has_the_methods_of_the_asynchronous_manager_with_their_arguments() -> None:
    expected, found = public(ManagerClient), public(SyncManager)
    assert list(found) == list(expected)
    for name, method in found.items():
        assert inspect.getdoc(method)
        wanted = inspect.signature(expected[name]).parameters
        assert list(inspect.signature(method).parameters.values()) == list(wanted.values()), name


def test_its_methods_return_what_those_of_the_asynchronous_manager_do() -> None:
    expected, found = public(ManagerClient), public(SyncManager)
    for name, method in found.items():
        assert not inspect.iscoroutinefunction(method)
        wanted = typing.get_type_hints(expected[name])["return"]
        if typing.get_origin(wanted) is AsyncGenerator:
            wanted = Generator[typing.get_args(wanted)[0], None, None]
        wanted = SyncEventRun if wanted is EventRun else wanted
        # Type variables of two modules are two; their names are what a reader sees.
        assert str(typing.get_type_hints(method)["return"]) == str(wanted), name


def test_every_argument_may_be_given_by_its_name(manager: SyncManager) -> None:
    launched = manager.launch(agent=Adder, name="named", labels={})
    assert launched.id.key == "named"
    assert [record.id for record in manager.find(name="named")] == [launched.id]
    assert manager.sessions.create(session_id="one", agent="adder").id == "one"
    run = manager.dispatch(event=Prompt(text="a"), on_error="collect")
    assert run.wait(timeout=60).status == "succeeded"


def test_its_runs_have_what_those_of_the_asynchronous_manager_have() -> None:
    heard = {"ended", "kept", "lost", "root", "waits"}  # of the message that brings the run back
    assert {n for n in dir(EventRun) if n[0] != "_"} - heard == {
        n for n in dir(SyncEventRun) if n[0] != "_"
    }
    for name in ("wait", "result", "cancel", "events"):
        expected = inspect.signature(getattr(EventRun, name)).parameters
        assert inspect.signature(getattr(SyncEventRun, name)).parameters == expected


# What it does


def test_agents_are_launched_called_found_and_shut_down(manager: SyncManager) -> None:
    first = Launch(Adder, name="first")
    second = Launch(Adder, kwargs={"friend": first.handle}, name="second")
    handles = manager.launch_batch([first, second])
    assert handles[1].sync.pass_on(3) == 3
    assert handles[0].sync.add(4) == 7

    labelled = manager.launch(Adder, name="third", labels={"team": "blue"})
    (record,) = manager.find(labels={"team": "blue"})
    assert (record.handle, record.status) == (labelled, "running")
    assert manager.get_handle("adder/third") == labelled
    manager.shutdown(labelled)
    done, pending = manager.wait([labelled], timeout=60)
    assert (done, pending) == ({labelled}, set())

    later = manager.register(Adder, name="later")
    (also,) = manager.register_many([Launch(Adder, name="also")])
    assert later.sync.add(1) == also.sync.add(1) == 1
    assert {str(agent) for agent in manager.running()} == {
        "adder/first",
        "adder/second",
        "adder/later",
        "adder/also",
    }
    assert len(manager.agents("adder")) == 4
    assert manager.status()["apps"]


def test_states_and_pools_are_looked_after(manager: SyncManager) -> None:
    ada = manager.handle(Adder, "ada")
    ada.sync.add(3)
    assert manager.save_state(ada.id) == StateRecord(ada.id, {"total": 3}, 1)
    manager.load_state(ada.id, {"total": 10})
    assert ada.sync.add(1) == 11
    kept = list(manager.export_state("sums"))
    manager.delete_state(ada.id)
    assert ada.sync.add(1) == 1
    assert manager.import_state("sums", iter(kept)) == 1
    assert ada.sync.add(1) == 12

    assert manager.add_pool("big", hosts=1)["name"] == "big"
    manager.add_pool("small", hosts=1)
    manager.remove_pool("small", successor="big")
    manager.set_default_pool("big")
    assert [pool["name"] for pool in manager.pools() if pool["default"]] == ["big"]
    assert ada.sync.add(1) == 13


def test_prompts_streams_and_tells(manager: SyncManager) -> None:
    assert manager.prompt("hello", agent=Adder).result == {"text": "HELLO"}
    ada = manager.handle(Adder, "ada").sync
    assert list(ada.up_to(500)) == list(range(500))
    assert list(ada.stream(Adder.up_to, 3)) == [0, 1, 2]
    ada.add.tell(2)
    assert ada.call(Adder.add, 1) == 3
    assert ada.id == manager.handle(Adder, "ada").id
    with pytest.raises(DeadlineExceeded):
        ada.with_timeout(0.05).wait_for_ever()


def test_threads_share_it(manager: SyncManager) -> None:
    ada = manager.handle(Adder, "ada").sync
    with ThreadPoolExecutor(8) as threads:
        totals = list(threads.map(ada.add, [1] * 200))
    assert sorted(totals) == list(range(1, 201))


async def test_it_is_entered_beside_a_running_event_loop() -> None:
    """As in a notebook, whose cells run on one."""
    with LocalRuntime() as manager:
        manager.deploy(app)
        assert manager.handle(Adder, "ada").sync.add(2) == 2


# Its ends


def test_an_interrupt_cancels_the_call_and_its_handler(manager: SyncManager) -> None:
    main = threading.get_ident()
    ada = manager.handle(Adder, "ada").sync

    def interrupt() -> None:
        try:
            eventually(lambda: ada.status()["status"] == "running")
        finally:  # or the call would wait for ever, and nobody would hear why
            signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            ada.with_timeout(None).wait_for_ever()
        assert ada.status()["status"] == "idle", "the handler had ended before the call did"
        interrupting.result()
    assert ada.cancellations() == 1


def test_leaving_the_block_ends_its_thread_and_what_others_wait_for() -> None:
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as threads:
        with LocalRuntime() as manager:
            manager.deploy(app)
            ada = manager.handle(Adder, "ada").sync
            waiting = threads.submit(ada.with_timeout(None).wait_for_ever)
            eventually(lambda: ada.status()["status"] == "running")
        with pytest.raises(ChannelClosed):
            waiting.result(timeout=30)
    assert set(threading.enumerate()) <= before
    with pytest.raises(ChannelClosed):
        manager.status()
    with pytest.raises(ChannelClosed):
        ada.add(1)


@pytest.mark.filterwarnings("error")
def test_what_was_not_read_to_its_end_may_be_collected_at_any_time() -> None:
    with LocalRuntime() as manager:
        manager.deploy(app)
        handles = [manager.handle(Adder, key) for key in "abc"]
        begun = [handle.sync.up_to(100_000) for handle in handles]
        assert [next(numbers) for numbers in begun] == [0, 0, 0]
        first, second, third = begun
        begun.clear()
        handles[0].caller.loop.call_soon_threadsafe([first].clear)
        del first, second  # one is collected by the event loop, one here, one after the end
        assert [handle.sync.add(1) for handle in handles[:2]] == [1, 1]
        states = manager.export_state("sums")
        assert next(states).agent.type == "adder"
    del third, states
    gc.collect()


def test_an_error_in_the_block_is_raised_after_everything_was_closed() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="on purpose"), LocalRuntime():
        raise ValueError("on purpose")
    assert set(threading.enumerate()) <= before


def test_where_it_cannot_connect_no_thread_is_left(tmp_path: Any) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ClusterNotRunning), connect(settings=Settings(home=tmp_path)):
        pass
    assert set(threading.enumerate()) <= before


def test_on_its_own_event_loop_it_is_refused(manager: SyncManager) -> None:
    ada = manager.handle(Adder, "ada")
    assert "run_sync" in ada.sync.misuse()

    async def on_the_loop() -> None:
        manager.status()

    refused = asyncio.run_coroutine_threadsafe(on_the_loop(), ada.caller.loop)
    with pytest.raises(ConfigurationError, match="wait for itself"):
        refused.result(timeout=30)
