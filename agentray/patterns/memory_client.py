"""The memory's client: what agents and drivers use."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

from agentray.errors import HostDied
from agentray.ids import AgentId
from agentray.patterns.handles import HasHandles
from agentray.patterns.memory import Change, Entry, WorkingMemory


class Memory:
    """A namespace of a working memory, for those who use it.

    ::

        memory = Memory(self, "team")  # or Memory(manager, "team", DurableMemory)
        await memory.put("plan", {"steps": []})
        await memory.update("plan", lambda plan: plan | {"owner": "ada"})

    It can be sent to others: it is no more than a handle.

    Attributes:
        namespace: all who name it share its values.
    """

    def __init__(
        self, via: HasHandles, namespace: str, kind: type[WorkingMemory] = WorkingMemory
    ) -> None:
        """Use a namespace.

        Args:
            via: a manager's client, or an agent (`self`).
            namespace: the key of the agent that holds it.
            kind: the agent class, which a deployed app must have among its agents.
        """
        self.namespace = namespace
        self._handle = via.handle(kind, namespace)

    @property
    def id(self) -> AgentId:
        """The agent that holds the namespace."""
        return self._handle.id

    async def get(self, key: str, default: Any = None) -> Any:
        """Return a copy of a value, or the default when there is no such entry."""
        return await self._handle.get(key, default)

    async def entry(self, key: str) -> Entry | None:
        """Return a value with its version; None: there is no such entry."""
        return await self._handle.entry(key)

    async def entries(self, prefix: str = "") -> dict[str, Entry]:
        """Return all entries whose keys begin with a prefix, as they are at one moment."""
        return await self._handle.entries(prefix)

    async def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that begin with a prefix, sorted."""
        return await self._handle.keys(prefix)

    async def put(self, key: str, value: Any, *, expected_version: int | None = None) -> int:
        """Set a value.

        Args:
            key: of the entry.
            value: what can be sent; of a durable memory, what has a JSON form.
            expected_version: write only if the entry has it; 0: only if there is none.

        Returns:
            The entry's version from now on.

        Raises:
            VersionConflict: the entry has another version, which the error names.
            MemoryFull: it would grow beyond `max_bytes`.
            PayloadError: the value cannot be sent, or has no JSON form.
        """
        return await self._handle.put(key, value, expected_version)

    async def update(
        self,
        key: str,
        change: Callable[[Any], Any] | Callable[[Any], Awaitable[Any]] | Mapping[Any, Any],
        *,
        default: Any = None,
    ) -> Entry:
        """Change a value where it is kept: no change of anybody else is lost.

        Args:
            key: of the entry.
            change: a function from the value to the new one, or a mapping to be merged into it. A
                function runs in the memory's process and must not block. While one that is `async`
                waits, others may change the entry; it is called again then.
            default: what the function gets when there is no such entry.

        Returns:
            The new value, with its version.

        Raises:
            MemoryFull, PayloadError: as for `put`; also where the function returns None.
            Exception: what the function raised; nothing has changed.
        """
        return await self._handle.update(key, change, default)

    async def merge(
        self, key: str, patch: Mapping[Any, Any], *, expected_version: int | None = None
    ) -> Entry:
        """Merge a mapping into the entry's, and mappings within into those within.

        Args:
            key: of the entry; when there is none, the patch becomes its value.
            patch: whatever is no mapping replaces what is there.
            expected_version: as for `put`.

        Raises:
            VersionConflict, MemoryFull, PayloadError: as for `put`; also where one is no mapping.
        """
        return await self._handle.merge(key, patch, expected_version)

    async def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Delete an entry; return whether there was one.

        Raises:
            VersionConflict: it has another version than expected.
        """
        return await self._handle.delete(key, expected_version)

    async def watch(self, since: int | None = None, prefix: str = "") -> AsyncGenerator[Change]:
        """Yield changes as they come, for ever: leave the loop to stop.

        It survives the memory's host. What changed too long ago to be known comes as a `reset` and
        all that there is; so does the end of a memory that is not durable.

        Args:
            since: the version to begin after, such as that of the last change that was seen; 0: all
                that there is comes first; None: from now on.
            prefix: of the keys.
        """
        position = await self._handle.version() if since is None else since
        patient = self._handle.with_timeout(None)
        while True:
            try:
                stream = patient.stream(WorkingMemory.watch, position, prefix)
                async with aclosing(cast("AsyncGenerator[Change]", stream)) as changes:
                    async for change in changes:
                        position = change.version
                        yield change
            except HostDied:
                continue  # the next host has it, or an empty one: it tells which

    def __repr__(self) -> str:
        return f"Memory({self.id})"
