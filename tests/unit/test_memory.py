"""Working memory: versions, changes where the values are, watching, limits, hosts that die."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from agentray import (
    Agent,
    AgentOptions,
    App,
    DeadlineExceeded,
    Handle,
    ManagerClient,
    PayloadError,
    action,
)
from agentray.errors import ConfigurationError, MemoryFull, StoreUnavailable, VersionConflict
from agentray.patterns import Change, DurableMemory, Memory, WorkingMemory
from agentray.patterns.memory_book import MAX_CHANGES
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, ManualClock, run

KINDS = [WorkingMemory, DurableMemory]
both = pytest.mark.parametrize("kind", KINDS)


class SmallMemory(WorkingMemory):
    options = AgentOptions(idle_timeout_s=50)
    max_bytes: ClassVar[int] = 1000


class SmallDurable(DurableMemory):
    max_bytes: ClassVar[int] = 1000


class Point(BaseModel):
    x: int


class Worker(Agent):
    """Uses a memory that it is handed, or names itself."""

    @action
    async def add(self, memory: Memory, times: int) -> None:
        for _ in range(times):
            await memory.update("count", lambda n: n + 1, default=0)

    @action
    async def note(self, key: str, value: Any) -> None:
        await Memory(self, "team").put(key, value)


APP = App("memories", [WorkingMemory, DurableMemory, SmallMemory, SmallDurable, Worker])


def scenario(
    test: Callable[[ManagerClient, LocalRuntime], Awaitable[None]], store: MemoryStore | None = None
) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=2, store=store)
        async with runtime as manager:
            await manager.deploy(APP)
            await test(manager, runtime)

    run(whole())


@both
def test_what_was_put_is_got_by_everybody_in_the_namespace(kind: type[WorkingMemory]) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory, same, other = (Memory(manager, name, kind) for name in ("team", "team", "other"))
        assert await memory.get("plan") is None
        assert await memory.get("plan", "none") == "none"
        version = await memory.put("plan", {"steps": [1, 2]})
        assert await same.get("plan") == {"steps": [1, 2]}
        entry = await same.entry("plan")
        assert entry is not None
        assert entry.version == version
        assert await other.entry("plan") is None
        for key in (5, "", None):
            with pytest.raises(ConfigurationError, match="is a text"):
                await memory.put(key, 1)  # type: ignore[arg-type]
        await memory.put("place", None)
        assert await same.get("place", "default") is None
        assert await same.keys() == ["place", "plan"]
        assert await same.keys("pla") == ["place", "plan"]
        assert {key: e.value for key, e in (await same.entries("plan")).items()} == {
            "plan": {"steps": [1, 2]}
        }
        assert await memory.delete("plan")
        assert not await memory.delete("plan")
        assert await same.keys() == ["place"]

    scenario(test)


@both
def test_values_are_copies(kind: type[WorkingMemory]) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        value = {"inner": {"list": [1]}}
        await memory.put("a", value)
        value["inner"]["list"].append(2)
        got = await memory.get("a")
        assert got == {"inner": {"list": [1]}}
        got["inner"]["list"].append(3)
        assert await memory.get("a") == {"inner": {"list": [1]}}

        def broken(value: Any) -> Any:
            value["inner"].clear()
            raise ValueError("half way")

        with pytest.raises(ValueError, match="half way"):
            await memory.update("a", broken)
        assert await memory.get("a") == {"inner": {"list": [1]}}

    scenario(test)


def test_in_memory_values_are_python_s_and_durable_ones_are_json() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        await Memory(manager, "m").put("point", Point(x=1))
        assert await Memory(manager, "m").get("point") == Point(x=1)
        durable = Memory(manager, "m", DurableMemory)
        await durable.put("point", Point(x=1))
        assert await durable.get("point") == {"x": 1}
        for nonsense in (object(), {"n": float("nan")}):
            with pytest.raises(PayloadError):
                await durable.put("point", nonsense)
        with pytest.raises(PayloadError):
            await Memory(manager, "m").put("point", (n for n in range(3)))
        assert await durable.get("point") == {"x": 1}

    scenario(test)


@both
def test_who_expects_another_version_is_refused_and_told_the_current_one(
    kind: type[WorkingMemory],
) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        first = await memory.put("a", 1, expected_version=0)
        second = await memory.put("a", 2, expected_version=first)
        assert second > first
        mapping = await memory.put("m", {})
        for key, current, write in (
            ("a", second, memory.put("a", 3, expected_version=first)),
            ("a", second, memory.delete("a", expected_version=first)),
            ("m", mapping, memory.merge("m", {}, expected_version=0)),
        ):
            with pytest.raises(VersionConflict) as caught:
                await write
            assert (caught.value.key, caught.value.current) == (key, current)
        assert await memory.get("a") == 2
        assert await memory.delete("a", expected_version=second)
        with pytest.raises(VersionConflict) as gone:
            await memory.delete("a", expected_version=second)
        assert gone.value.current == 0
        # No version comes back, so what was deleted and put anew is not taken for the old one.
        assert await memory.put("a", 1) > second

    scenario(test)


@both
def test_no_update_is_lost(kind: type[WorkingMemory]) -> None:
    async def slow(n: int) -> int:
        await asyncio.sleep(0.01)
        return n + 1

    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        workers = [manager.handle(Worker, str(number)) for number in range(20)]
        await asyncio.gather(*(worker.add(memory, 10) for worker in workers))
        assert await memory.get("count") == 200
        await asyncio.gather(*(memory.update("slow", slow, default=0) for _ in range(10)))
        assert await memory.get("slow") == 10

    scenario(test)


@both
def test_merging_is_deep(kind: type[WorkingMemory]) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        await memory.merge("m", {"a": {"b": 1, "c": 2}})
        entry = await memory.merge("m", {"a": {"b": 9}, "d": [1]})
        assert entry.value == await memory.get("m") == {"a": {"b": 9, "c": 2}, "d": [1]}
        entry = await memory.update("m", {"a": {"c": {"x": 1}}, "d": None})
        assert entry.value == {"a": {"b": 9, "c": {"x": 1}}, "d": None}
        await memory.put("list", [1])
        for patch in ({"a": 1}, [2]):
            with pytest.raises(PayloadError, match="no mapping"):
                await memory.merge("list", patch)  # type: ignore[arg-type]

    scenario(test)


@both
def test_a_change_that_returns_nothing_or_nonsense_changes_nothing(
    kind: type[WorkingMemory],
) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        await memory.put("list", [1])
        with pytest.raises(PayloadError, match="returned None"):
            await memory.update("list", lambda values: values.append(2))
        with pytest.raises(PayloadError):
            await memory.update("list", lambda _: threading.Lock())
        assert await memory.get("list") == [1]

    scenario(test)


@both
def test_a_change_that_hangs_ends_with_its_caller_and_holds_nobody_up(
    kind: type[WorkingMemory],
) -> None:
    async def for_ever(_: Any) -> Any:
        await asyncio.Event().wait()

    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        hanging = asyncio.create_task(memory.update("a", for_ever))
        await ManualClock().advance(1)
        await memory.put("a", 1)
        assert (await memory.update("a", lambda n: n + 1)).value == 2
        with pytest.raises(DeadlineExceeded):
            await hanging
        assert await memory.get("a") == 2

    scenario(test)


@pytest.mark.parametrize("kind", [SmallMemory, SmallDurable])
def test_it_grows_up_to_its_limit(kind: type[WorkingMemory]) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        await memory.put("a", "x" * 400)
        with pytest.raises(MemoryFull) as caught:
            await memory.put("b", "x" * 700)
        assert (caught.value.limit, caught.value.size > 1000) == (1000, True)
        with pytest.raises(MemoryFull):
            await memory.update("a", lambda text: text * 3)
        assert await memory.keys() == ["a"]
        await memory.put("a", "")
        await memory.put("b", "x" * 700)
        await memory.delete("b")
        await memory.put("c", "x" * 700)

    scenario(test)


# Watching


async def collect(changes: AsyncGenerator[Change], into: list[Change]) -> None:
    async with aclosing(changes):
        async for change in changes:
            into.append(change)  # noqa: PERF401 - others look at it meanwhile


def told(changes: list[Change]) -> list[tuple[str, str, Any]]:
    return [(change.kind, change.key, change.value) for change in changes]


@both
def test_several_watch_from_a_version_on_and_leaving_stops_them(
    kind: type[WorkingMemory],
) -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", kind)
        first = await memory.put("a", 1)
        await memory.put("b", 2)
        seen: list[list[Change]] = [[], [], [], []]
        watching = [
            asyncio.create_task(collect(changes, into))
            for changes, into in zip(
                [
                    memory.watch(),
                    memory.watch(first),
                    memory.watch(0),
                    memory.watch(first, prefix="c"),
                ],
                seen,
                strict=True,
            )
        ]
        await ManualClock().advance(1)
        await memory.put("c", 3)
        await memory.delete("a")
        await ManualClock().advance(1)
        later = [("put", "c", 3), ("delete", "a", None)]
        assert told(seen[0]) == later
        assert told(seen[1]) == [("put", "b", 2), *later]
        if kind is WorkingMemory:
            start = [("reset", "", None), ("put", "a", 1), ("put", "b", 2)]
        else:
            start = [("put", "a", 1), ("put", "b", 2)]  # its versions begin at 0
        assert told(seen[2]) == [*start, *later]
        assert told(seen[3]) == later[:1]
        handle: Handle[Agent] = manager.handle(memory.id)
        assert (await handle.stats())["running"] == 4
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await ManualClock().advance(5)
        assert (await handle.stats())["running"] == 0
        assert runtime.hosts

    scenario(test)


def test_a_slow_watcher_is_told_that_it_missed_something() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", SmallMemory)
        start = await memory.put("n", -1)
        for number in range(MAX_CHANGES + 10):
            await memory.put("n", number)
        async with aclosing(memory.watch(start)) as changes:
            assert (await anext(changes)).kind == "reset"
            change = await anext(changes)
            assert (change.key, change.value) == ("n", MAX_CHANGES + 9)
        async with aclosing(memory.watch(change.version - 2)) as changes:
            assert [(await anext(changes)).value for _ in range(2)] == [
                MAX_CHANGES + 8,
                MAX_CHANGES + 9,
            ]

    scenario(test)


# Its end


def test_a_durable_one_survives_its_host_and_those_who_watch_go_on() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", DurableMemory)
        version = await memory.put("a", 1)
        seen: list[Change] = []
        watching = asyncio.create_task(collect(memory.watch(), seen))
        await ManualClock().advance(1)
        await memory.put("b", 2)
        await ManualClock().advance(1)
        victim = runtime.host_of(memory.id)
        assert victim is not None
        await runtime.kill_host(victim)
        assert await memory.get("a") == 1
        await memory.put("a", 5, expected_version=version)
        await ManualClock().advance(5)
        assert told(seen) == [("put", "b", 2), ("put", "a", 5)]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    scenario(test)


def test_one_in_memory_begins_anew_and_those_who_watch_are_told() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team")
        version = await memory.put("a", 1)
        seen: list[Change] = []
        watching = asyncio.create_task(collect(memory.watch(), seen))
        await ManualClock().advance(1)
        victim = runtime.host_of(memory.id)
        assert victim is not None
        await runtime.kill_host(victim)
        await ManualClock().advance(5)
        assert await memory.keys() == []
        with pytest.raises(VersionConflict):
            await memory.put("a", 2, expected_version=version)
        await memory.put("a", 3)
        await ManualClock().advance(1)
        *resets, last = told(seen)
        assert last == ("put", "a", 3)
        assert set(resets) == {("reset", "", None)}  # maybe two: the next host's slots are moved
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    scenario(test)


def test_one_that_nobody_uses_leaves_memory_and_one_that_is_watched_stays() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        await Memory(manager, "left", SmallMemory).put("a", 1)
        watched = Memory(manager, "watched", SmallMemory)
        await watched.put("a", 1)
        watching = asyncio.create_task(collect(watched.watch(), []))
        await ManualClock().advance(300)
        assert [row["agent"] for row in await manager.agents("small_memory")] == [
            "small_memory/watched"
        ]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await ManualClock().advance(300)
        assert await manager.agents("small_memory") == []

    scenario(test)


class FailingStore(MemoryStore):
    """Cannot be reached while it is told so."""

    away = False

    async def commit(self, *args: Any, **kwargs: Any) -> Any:
        if self.away:
            raise StoreUnavailable
        return await super().commit(*args, **kwargs)


def test_what_cannot_be_committed_is_seen_by_nobody() -> None:
    store = FailingStore()

    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        memory = Memory(manager, "team", DurableMemory)
        version = await memory.put("a", 1)
        seen: list[Change] = []
        watching = asyncio.create_task(collect(memory.watch(), seen))
        await ManualClock().advance(1)
        store.away = True
        with pytest.raises(StoreUnavailable):
            await memory.put("a", 2)
        assert await memory.get("a") == 1
        store.away = False
        assert await memory.put("b", 3, expected_version=0) > version
        await ManualClock().advance(1)
        assert told(seen) == [("put", "b", 3)]
        victim = runtime.host_of(memory.id)
        assert victim is not None
        await runtime.kill_host(victim)
        assert {k: e.value for k, e in (await memory.entries()).items()} == {"a": 1, "b": 3}
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    scenario(test, store)


def test_agents_use_it_by_name_and_scripts_by_a_handle_that_blocks() -> None:
    with LocalRuntime() as manager:
        manager.deploy(APP)
        manager.handle(Worker, "w").sync.note("plan", [1])
        team = manager.handle(WorkingMemory, "team").sync
        assert team.get("plan") == [1]
        team.put("plan", [1, 2])
        assert team.entry("plan").value == [1, 2]
