"""The flight record: whose code a host runs, readable when its process is gone.

A block of shared memory. Its first cell names the agent whose turn began last and may still run;
the others name agents that have begun something and wait. Whoever reads it after the death of the
process knows whom to suspect. A turn that does not wait costs one write of some bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from agentray.ids import AgentId

_CELL = 1024
"""Bytes of a cell. What has a longer name is not noted: no agent's name should be that long."""

_MAX_NAME = _CELL - 3
_HEADER = struct.Struct("<4sBiqI")  # magic, whether it exited, its code, OOM kills, cells in use
_MAGIC = b"ARF1"

CELLS = 4096
"""Agents that may be under way at once and are noted; more are not."""

SMALL = 64

TURN, START, LOOP = b"t", b"s", b"l"
"""What an agent has begun."""


class Buffer(Protocol):
    """A `bytearray` or an `mmap`."""

    def __setitem__(self, where: Any, value: Any, /) -> None: ...
    def __getitem__(self, where: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Flight:
    """What a record tells.

    Attributes:
        now: the agent whose turn had just begun; None: none had.
        turns: agents in the midst of messages, or of their start.
        loops: agents with loops.
        exit_code: with which the process was about to end itself; None: it was not.
        oom_kills: of the machine's kernel when the host last looked.
    """

    now: AgentId | None = None
    turns: frozenset[AgentId] = frozenset()
    loops: frozenset[AgentId] = frozenset()
    exit_code: int | None = None
    oom_kills: int = 0


def size_of(cells: int) -> int:
    """Return the bytes of a record."""
    return (cells + 2) * _CELL


class FlightRecord:
    """Written by one host, on its event loop."""

    def __init__(self, buffer: Buffer, cells: int = CELLS) -> None:
        """Begin a record.

        Args:
            buffer: of `size_of(cells)` bytes, all zero.
            cells: agents under way that it can name.
        """
        self._buffer = buffer
        self._free = list(range(cells + 1, 1, -1))  # cells; 0 is the header, 1 is now
        self._used = 0
        self._oom_kills = 0
        self._code: int | None = None
        self._write_header()

    def _write_header(self) -> None:
        exited = self._code is not None
        self._buffer[: _HEADER.size] = _HEADER.pack(
            _MAGIC, exited, self._code or 0, self._oom_kills, self._used
        )

    def exits(self, code: int) -> None:
        """Note that the process ends itself."""
        self._code = code if -(2**31) <= code < 2**31 else -1
        self._write_header()

    def saw_oom_kills(self, count: int) -> None:
        """Note how many processes the machine's kernel has killed for want of memory."""
        if count != self._oom_kills:
            self._oom_kills = count
            self._write_header()

    # Who runs

    def begin(self, mark: bytes) -> None:
        """Note whose code runs now."""
        self._buffer[_CELL : _CELL + len(mark)] = mark

    def rest(self) -> None:
        """Note that no agent's code runs."""
        self._buffer[_CELL] = 0

    @contextmanager
    def under_way(self, mark: bytes) -> Generator[None]:
        """Note somebody as long as something takes."""
        cell = self.keep(mark)
        try:
            yield
        finally:
            self.release(cell)

    def begin_within(self, mark: bytes) -> bytes:
        """Note another one for a moment, within somebody else's code; return what stood there."""
        before = bytes(self._buffer[_CELL : 2 * _CELL])
        self.begin(mark)
        return before

    def keep(self, mark: bytes) -> int:
        """Note who has begun something and waits; return the cell, 0 when there is none."""
        if not self._free or not mark[0]:
            return 0
        cell = self._free.pop()
        if cell > self._used:
            self._used = cell
            self._write_header()
        start = cell * _CELL
        self._buffer[start : start + len(mark)] = mark
        return cell

    def release(self, cell: int) -> None:
        """Note that it has ended."""
        if cell:
            self._buffer[cell * _CELL] = 0
            self._free.append(cell)


def mark_of(agent: AgentId, kind: bytes = TURN) -> bytes:
    """Return how an agent is noted: what it does, the length of its name, its name."""
    name = f"{agent[0]}/{agent[1]}".encode()
    size = len(name)
    return kind + size.to_bytes(2, "little") + name if size <= _MAX_NAME else b"\0"


def read_flight(data: bytes | bytearray) -> Flight | None:
    """Read a record; None: it is none. What was torn by the end of its process is left out."""
    if len(data) < _HEADER.size:
        return None
    magic, exited, code, oom_kills, used = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        return None
    found = [_read_cell(data, cell) for cell in range(1, min(used, len(data) // _CELL - 1) + 1)]
    now = _read_cell(data, 1)
    under_way = [cell for cell in found[1:] if cell is not None]
    return Flight(
        now[1] if now is not None else None,
        frozenset(agent for kind, agent in under_way if kind != LOOP),
        frozenset(agent for kind, agent in under_way if kind == LOOP),
        code if exited else None,
        oom_kills,
    )


def _read_cell(data: bytes | bytearray, cell: int) -> tuple[bytes, AgentId] | None:
    start = cell * _CELL
    kind = bytes(data[start : start + 1])
    if kind not in (TURN, START, LOOP):
        return None
    size = int.from_bytes(data[start + 1 : start + 3], "little")
    try:
        type_name, slash, key = bytes(data[start + 3 : start + 3 + size]).decode().partition("/")
    except UnicodeDecodeError:
        return None
    return (kind, AgentId(type_name, key)) if slash and key else None


def in_memory(cells: int = SMALL) -> tuple[FlightRecord, bytearray]:
    """Return a record for a host that shares its process with others, and what it is written to."""
    buffer = bytearray(size_of(cells))
    return FlightRecord(buffer, cells), buffer
