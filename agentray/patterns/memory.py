"""Working memory: values that agents share, wherever they run. See `Memory` for those who use it.

One agent holds one namespace, so all who use it see the same values, and each change happens once
and whole. Values are kept as bytes: what is read is always a copy.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel

from agentray.agent import Agent, AgentOptions, action
from agentray.errors import AgentMoved, ConfigurationError, PayloadError, VersionConflict
from agentray.ids import new_id
from agentray.patterns.memory_book import Book, Kept, Write, merged
from agentray.protocol.codec import as_json, decode, encode

logger = logging.getLogger(__name__)

_MIB = 1024 * 1024

Patch = Mapping[Any, Any]
Changer = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and the version of the memory that it came with."""

    value: Any
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """Something that has changed.

    Attributes:
        kind: `put` or `delete`; `reset`: what changed in between is not known any more (the memory
            began anew, or the watcher was slow): forget what you have seen, all that there is
            follows as `put`.
        key: of the entry; "" for `reset`.
        value: the new one.
        version: to go on from; 0 for `reset`.
    """

    kind: Literal["put", "delete", "reset"]
    key: str = ""
    value: Any = None
    version: int = 0


class WorkingMemory(Agent):
    """A namespace of a working memory; its key is the namespace. In memory only.

    What it holds is gone when its host dies or its slot moves, and when nobody has used it for
    `options.idle_timeout_s`. `DurableMemory` keeps it. Use it through `Memory`; the actions here
    are for handles that block: `manager.handle(WorkingMemory, "team").sync.put("plan", 1)`.

    Attributes:
        max_bytes: of all its entries.
    """

    options = AgentOptions(concurrency=None, idle_timeout_s=3600.0)
    max_bytes: ClassVar[int] = 64 * _MIB

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Who watches waits within a message of its own.
        cls.options = cls.options.model_copy(update={"concurrency": None})
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    async def on_start(self) -> None:
        """Begin with what is kept: nothing."""
        # Versions must not come back in its next life: this one is later.
        version = int(datetime.now(UTC).timestamp() * 1_000_000)
        self._book = Book(str(self.id), self.max_bytes, version)

    async def on_stop(self) -> None:
        """Leave a trace of what is lost."""
        if len(self._book):
            logger.info(
                "%s leaves memory, and %d entries with it",
                self.id,
                len(self._book),
                extra={"action": "memory_lost", "agent": str(self.id)},
            )

    # Reading

    @action(idempotent=True)
    async def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default when there is no such entry."""
        kept = self._book.get(key)
        return default if kept is None else self._decode(kept.data)

    @action(idempotent=True)
    async def entry(self, key: str) -> Entry | None:
        """Return a value with its version; None: there is no such entry."""
        kept = self._book.get(key)
        return None if kept is None else self._entry(kept)

    @action(idempotent=True)
    async def entries(self, prefix: str = "") -> dict[str, Entry]:
        """Return the entries whose keys begin with a prefix."""
        return {key: self._entry(kept) for key, kept in self._book.items(prefix)}

    @action(idempotent=True)
    async def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that begin with a prefix, sorted."""
        return [key for key, _ in self._book.items(prefix)]

    @action(idempotent=True)
    async def version(self) -> int:
        """Return the version of the last change."""
        return self._book.version

    @action(idempotent=True)
    async def watch(self, since: int | None = None, prefix: str = "") -> AsyncIterator[Change]:
        """Yield changes as they come, until the reader leaves; see `Memory.watch`."""
        position = self._book.version if since is None else since
        while True:
            writes = self._book.changes_after(position)
            if writes is None:
                yield Change("reset")
                kept = sorted(self._book.items(), key=lambda item: item[1].version)
                writes = [Write(key, entry.data, entry.version) for key, entry in kept]
                position = self._book.version
            for write in writes:
                position = max(position, write.version)
                if write.key.startswith(prefix):
                    yield self._change(write)
            if position == self._book.version:
                await self._changed.wait()

    # Writing

    @action
    async def put(self, key: str, value: Any, expected_version: int | None = None) -> int:
        """Set a value, if the entry has the expected version; return its new version."""
        data = self._encode(value)
        async with self._writing:
            return await self._write(key, data, expected_version)

    @action
    async def delete(self, key: str, expected_version: int | None = None) -> bool:
        """Delete an entry, if it has the expected version; return whether there was one."""
        async with self._writing:
            if self._book.get(key) is None and not expected_version:
                return False
            await self._write(key, None, expected_version)
            return True

    @action
    async def update(self, key: str, change: Changer | Patch, default: Any = None) -> Entry:
        """Change a value here, so that nobody else changes it meanwhile; see `Memory.update`."""
        while True:
            async with self._writing:
                kept = self._book.get(key)
                value = default if kept is None else self._decode(kept.data)
                version = 0 if kept is None else kept.version
                if isinstance(change, Mapping):
                    empty: Any = {} if kept is None and default is None else value
                    result: Any = _merged(key, empty, cast("Patch", change))
                else:
                    result = change(value)
                if not inspect.isawaitable(result):
                    return await self._write_result(key, result, version)
            # Others go on while it waits; when they changed the entry, it is changed anew.
            result = await result
            async with self._writing:
                try:
                    return await self._write_result(key, result, version)
                except VersionConflict:
                    continue

    @action
    async def merge(self, key: str, patch: Patch, expected_version: int | None = None) -> Entry:
        """Merge a mapping into another one, deeply, if that has the expected version."""
        async with self._writing:
            kept = self._book.get(key)
            value = _merged(key, {} if kept is None else self._decode(kept.data), patch)
            return await self._write_value(key, value, expected_version)

    async def _write_result(self, key: str, result: Any, expected: int) -> Entry:
        if result is None:
            raise PayloadError(
                f"The change of {key!r} returned None: return the new value, also where it was "
                "changed in place."
            )
        return await self._write_value(key, result, expected)

    async def _write_value(self, key: str, value: Any, expected: int | None) -> Entry:
        data = self._encode(value)
        return Entry(self._decode(data), await self._write(key, data, expected))

    async def _write(self, key: str, data: bytes | None, expected: int | None) -> int:
        if not (isinstance(cast("object", key), str) and key):
            raise ConfigurationError(f"The key of an entry is a text that is not empty: {key!r}.")
        write = self._book.plan(key, data, expected)
        await self._keep(write)
        self._book.apply(write)
        self._changed.set()
        self._changed = asyncio.Event()
        return write.version

    # What a kind of memory decides

    async def _keep(self, write: Write) -> None:
        """Make a change durable, before anybody sees it."""

    def _encode(self, value: Any) -> bytes:
        return encode(value, "value")

    def _decode(self, data: bytes) -> Any:
        return decode(data)

    def _entry(self, kept: Kept) -> Entry:
        return Entry(self._decode(kept.data), kept.version)

    def _change(self, write: Write) -> Change:
        if write.data is None:
            return Change("delete", write.key, None, write.version)
        return Change("put", write.key, self._decode(write.data), write.version)


class MemoryState(BaseModel):
    """What is kept of a durable memory."""

    version: int = 0
    entries: dict[str, tuple[int, str]] = {}  # key: version, and the value as JSON


class DurableMemory(WorkingMemory):
    """A working memory that survives its host. Its values are JSON.

    Each change is committed before anybody sees it, one after the other, and with it all of the
    namespace: keep it small, and use many namespaces rather than a large one.
    """

    state: MemoryState
    max_bytes: ClassVar[int] = _MIB

    async def on_start(self) -> None:
        """Begin with what is kept."""
        self._life = new_id("life")
        self._next = self.state
        entries = {key: Kept(text.encode(), v) for key, (v, text) in self.state.entries.items()}
        self._book = Book(str(self.id), self.max_bytes, self.state.version, entries)

    async def on_stop(self) -> None:
        """Nothing is lost."""

    @action
    async def commit(self, life: str) -> None:
        """Take over the next state; called by the agent itself, because its end is a commit."""
        if life != self._life:
            raise AgentMoved(str(self.id), "it moved while it wrote")
        self.state = self._next

    async def _keep(self, write: Write) -> None:
        before = self.state
        entries = dict(before.entries)
        if write.data is None:
            del entries[write.key]
        else:
            entries[write.key] = (write.version, write.data.decode())
        self._next = MemoryState.model_construct(version=write.version, entries=entries)
        try:
            await self.handle(self.id.type, self.id.key).commit(self._life)
        except BaseException:
            # Whether it was written is unknown; here it was not, and so the next commit says.
            self.state = self._next = before
            raise

    def _encode(self, value: Any) -> bytes:
        return json.dumps(as_json(value, "value"), ensure_ascii=False).encode()

    def _decode(self, data: bytes) -> Any:
        return json.loads(data)


def _merged(key: str, value: object, patch: Patch) -> dict[Any, Any]:
    if not isinstance(value, Mapping) or not isinstance(patch, Mapping):
        wrong = value if not isinstance(value, Mapping) else patch
        raise PayloadError(
            f"{key!r} cannot be merged: {type(wrong).__name__} is no mapping. Use put()."
        )
    return merged(cast("Patch", value), patch)
