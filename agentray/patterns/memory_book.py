"""What a memory holds: entries with versions, and the changes that led there. It decides only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any, NamedTuple, cast

from agentray.errors import MemoryFull, VersionConflict

MAX_CHANGES = 1000
"""Changes that are remembered for those who watch; they take no more room than the entries may."""


class Kept(NamedTuple):
    """A value as bytes, and the version of the memory that it came with."""

    data: bytes
    version: int


class Write(NamedTuple):
    """A change: of one entry, to a value or, with None, to nothing."""

    key: str
    data: bytes | None
    version: int


class Book:
    """The entries of one memory.

    One counter gives all changes their versions, so an entry's version tells when it changed, and
    no version is ever used again.

    Attributes:
        version: of the last change.
        size: of all entries, in bytes.
    """

    def __init__(
        self, name: str, max_bytes: int, version: int, entries: Mapping[str, Kept] | None = None
    ) -> None:
        """Make one.

        Args:
            name: the memory's, for errors.
            max_bytes: that all entries may take, keys included.
            version: of its last change.
            entries: that it has.
        """
        self._name = name
        self._max_bytes = max_bytes
        self._entries = dict(entries or {})
        self._changes: deque[Write] = deque()
        self._changes_bytes = 0
        self._since = version  # all changes after this version are remembered
        self.version = version
        self.size = sum(_size(key, kept.data) for key, kept in self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Kept | None:
        """Return an entry; None: there is none."""
        return self._entries.get(key)

    def items(self, prefix: str = "") -> Iterator[tuple[str, Kept]]:
        """Return the entries whose keys begin with a prefix, in the order of the keys."""
        return iter(sorted(i for i in self._entries.items() if i[0].startswith(prefix)))

    def plan(self, key: str, data: bytes | None, expected: int | None) -> Write:
        """Return a change that may be made; nothing is changed yet.

        Args:
            key: of the entry.
            data: its new value; None deletes it.
            expected: the version that it must have; 0: there must be none; None: whatever it is.

        Raises:
            VersionConflict: it has another version.
            MemoryFull: there is no room.
        """
        known = self._entries.get(key)
        current = 0 if known is None else known.version
        if expected is not None and expected != current:
            raise VersionConflict(self._name, key, expected, current)
        size = self._size_with(key, data)
        if data is not None and size > self._max_bytes:
            raise MemoryFull(self._name, size, self._max_bytes)
        return Write(key, data, self.version + 1)

    def apply(self, write: Write) -> None:
        """Make a change that was planned, before another one was."""
        self.size = self._size_with(write.key, write.data)
        if write.data is None:
            del self._entries[write.key]
        else:
            self._entries[write.key] = Kept(write.data, write.version)
        self.version = write.version
        self._remember(write)

    def changes_after(self, version: int) -> list[Write] | None:
        """Return what has changed after a version; None: that is not known any more."""
        if not self._since <= version <= self.version:
            return None
        recent = takewhile(lambda write: write.version > version, reversed(self._changes))
        return list(recent)[::-1]

    def _size_with(self, key: str, data: bytes | None) -> int:
        known = self._entries.get(key)
        before = 0 if known is None else _size(key, known.data)
        return self.size - before + (0 if data is None else _size(key, data))

    def _remember(self, write: Write) -> None:
        changes = self._changes
        changes.append(write)
        self._changes_bytes += _size(write.key, write.data)
        while len(changes) > MAX_CHANGES or self._changes_bytes > self._max_bytes:
            oldest = changes.popleft()
            self._changes_bytes -= _size(oldest.key, oldest.data)
            self._since = oldest.version


def _size(key: str, data: bytes | None) -> int:
    return len(key.encode()) + len(data or b"")


def merged(value: Mapping[Any, Any], patch: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a mapping with another one merged into it; mappings within are merged as well."""
    result = dict(value)
    for key, new in patch.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = cast("Mapping[Any, Any]", old), cast("Mapping[Any, Any]", new)
            result[key] = merged(*inner)
        else:
            result[key] = new
    return result
