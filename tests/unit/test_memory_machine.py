"""Memories in real clusters, in virtual time: random writers, watchers and dying hosts.

What was acknowledged is there, versions only rise, and who applies all changes that it watched has
what the memory has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentray import App
from agentray.errors import MemoryFull, VersionConflict
from agentray.patterns import DurableMemory, Entry, Memory, WorkingMemory
from agentray.testing import LocalRuntime
from tests.support.virtual_time import VirtualTimeLoop

LIMIT = 400
KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.integers(-9, 9) | st.text("xyz", max_size=60),
    lambda inner: st.dictionaries(st.sampled_from("pqr"), inner, max_size=3),
    max_leaves=4,
)
PATCHES = st.dictionaries(st.sampled_from("pqr"), VALUES, max_size=2)


class LimitedMemory(WorkingMemory):
    max_bytes = LIMIT


class LimitedDurable(DurableMemory):
    max_bytes = LIMIT


class MemoryMachine(RuleBasedStateMachine):
    """Writes to one namespace, and compares it with a dictionary."""

    runtime: LocalRuntime
    memory: Memory
    durable: bool

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        asyncio.set_event_loop(self.loop)
        self.watching: list[asyncio.Task[None]] = []
        self.views: list[dict[str, Any]] = []
        self.model: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.last = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, 3600)

        return self.loop.run_until_complete(bounded())

    @initialize(durable=st.booleans())
    def begin(self, durable: bool) -> None:
        self.durable = durable
        kind = LimitedDurable if durable else LimitedMemory

        async def begin() -> None:
            self.runtime = LocalRuntime(hosts=2)
            manager = await self.runtime.__aenter__()
            await manager.deploy(App("memories", [LimitedMemory, LimitedDurable]))
            self.memory = Memory(manager, "team", kind)
            await self.watch(0)

        self.run(begin())

    async def watch(self, since: int) -> None:
        view: dict[str, Any] = {} if since == 0 else dict(self.model)
        self.views.append(view)

        async def follow() -> None:
            async with aclosing(self.memory.watch(since)) as changes:
                async for change in changes:
                    if change.kind == "reset":
                        view.clear()
                    elif change.kind == "put":
                        view[change.key] = change.value
                    else:
                        view.pop(change.key, None)

        self.watching.append(asyncio.ensure_future(follow()))  # noqa: TID251 - ended below
        await asyncio.sleep(0)

    def wrote(self, key: str, value: Any, version: int) -> None:
        assert version > self.last
        self.model[key], self.versions[key], self.last = value, version, version

    @rule(key=KEYS, value=VALUES, right=st.sampled_from([True, False, None]))
    def put(self, key: str, value: Any, right: bool | None) -> None:
        expected = None if right is None else self.versions.get(key, 0) + (0 if right else 1)

        async def put() -> None:
            try:
                version = await self.memory.put(key, value, expected_version=expected)
            except (VersionConflict, MemoryFull) as error:
                refused.append(error)
            else:
                assert right is not False
                self.wrote(key, value, version)

        refused: list[VersionConflict | MemoryFull] = []
        self.run(put())
        for error in refused:
            if isinstance(error, VersionConflict):
                assert (right, error.current) == (False, self.versions.get(key, 0))
            else:
                assert error.size > LIMIT

    @rule(key=KEYS, times=st.integers(1, 5))
    def count_at_once(self, key: str, times: int) -> None:
        async def add(value: Any) -> Any:
            await asyncio.sleep(0.01)
            return {"n": counted(value) + 1}

        def add_at_once(value: Any) -> Any:
            return {"n": counted(value) + 1}

        async def update() -> None:
            known = counted(self.model.get(key))
            work = [self.memory.update(key, add if n % 2 else add_at_once) for n in range(times)]
            done = await asyncio.gather(*work, return_exceptions=True)
            full = [error for error in done if isinstance(error, MemoryFull)]
            entries = [entry for entry in done if isinstance(entry, Entry)]
            assert (len(full), len(entries)) in ((times, 0), (0, times))
            entries.sort(key=lambda entry: entry.version)
            assert [e.value["n"] for e in entries] == [known + 1 + i for i in range(len(entries))]
            if entries:
                self.wrote(key, entries[-1].value, entries[-1].version)

        self.run(update())

    @rule(key=KEYS, patch=PATCHES)
    def merge(self, key: str, patch: dict[str, Any]) -> None:
        async def merge() -> None:
            before: Any = self.model.get(key, {})
            if not isinstance(before, dict):
                return
            try:
                entry = await self.memory.merge(key, patch)
            except MemoryFull:
                return
            assert entry.value == deep(before, patch)  # pyright: ignore[reportUnknownArgumentType]
            self.wrote(key, entry.value, entry.version)

        self.run(merge())

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.run(self.memory.delete(key)) is (key in self.model)
        self.model.pop(key, None)
        self.versions.pop(key, None)

    @rule()
    def another_watches(self) -> None:
        if len(self.watching) < 4:
            self.run(self.watch(0))

    @rule()
    def one_leaves(self) -> None:
        if self.watching:
            task, _ = self.watching.pop(), self.views.pop()
            task.cancel()
            self.run(asyncio.wait([task]))

    @rule()
    def its_host_dies(self) -> None:
        host = self.runtime.host_of(self.memory.id)
        if host is None or len(self.runtime.hosts) < 2:
            return
        self.run(self.runtime.kill_host(host))
        self.run(asyncio.sleep(30))
        if not self.durable:
            self.model.clear()
            self.versions.clear()

    @invariant()
    def it_is_what_was_acknowledged(self) -> None:
        if not hasattr(self, "memory"):
            return
        entries = self.run(self.memory.entries())
        assert {key: entry.value for key, entry in entries.items()} == self.model
        assert {key: entry.version for key, entry in entries.items()} == self.versions
        self.run(asyncio.sleep(1))
        assert self.views == [self.model] * len(self.views)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            for task in self.watching:
                task.cancel()
            if self.watching:
                self.run(asyncio.wait(self.watching))
            self.run(self.runtime.__aexit__(None, None, None))
        self.loop.close()
        asyncio.set_event_loop(None)


def counted(value: Any) -> int:
    return value.get("n", 0) if isinstance(value, dict) else 0  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def deep(value: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Merge as the memory should, written another way."""
    both = {k: deep(value[k], patch[k]) for k in value if is_mapping(value, patch, k)}
    return {**value, **patch, **both}


def is_mapping(value: dict[str, Any], patch: dict[str, Any], key: str) -> bool:
    return isinstance(value[key], dict) and isinstance(patch.get(key), dict)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
