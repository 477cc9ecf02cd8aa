"""What handlers leave for the one who measures, in whichever process they run: a shared file.

Numbers in a file that all processes map: a handler needs no message to say that it ran, so the
systems carry only what is measured.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path

VARIABLE = "AGENTRAY_BENCH_PEERS_TALLY"
"""Environment variable: where the file is."""

SINK = 32
"""Counter of the pattern's first sink; those below are the fan-out's subscribers'."""

ARRIVAL = 64
"""Time at which the idle dispatch arrived."""

_SLOTS = 128
_POLL_S = 0.001


class Tally:
    """Counters and times, one writer each.

    Times are `time.perf_counter`, which is one clock for all processes of a machine on Linux.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SLOTS * 8)
        self._counts = memoryview(self._map).cast("Q")
        self._times = memoryview(self._map).cast("d")

    @classmethod
    def here(cls) -> Tally:
        """Open the file that the environment names."""
        return cls(Path(os.environ[VARIABLE]))

    @staticmethod
    def create(path: Path) -> None:
        """Make the file, with zeros."""
        path.write_bytes(bytes(_SLOTS * 8))

    def add(self, slot: int) -> None:
        """Count one."""
        self._counts[slot] += 1

    def note(self, time: float) -> None:
        """Note that the idle dispatch has arrived."""
        self._times[ARRIVAL] = time

    @property
    def arrival(self) -> float:
        """When the idle dispatch arrived; 0: it has not."""
        return self._times[ARRIVAL]

    def clear(self) -> None:
        """Set everything to zero; nothing may be under way."""
        for slot in range(_SLOTS):
            self._counts[slot] = 0

    def total(self, first: int, count: int) -> int:
        """Return the sum of so many counters."""
        return sum(self._counts[first : first + count])

    async def until(self, total: int, first: int, count: int) -> None:
        """Wait until the sum of so many counters is reached.

        Raises:
            RuntimeError: it is exceeded, so something was delivered twice.
        """
        while (found := self.total(first, count)) < total:
            await asyncio.sleep(_POLL_S)
        if found > total:
            raise RuntimeError(f"{found} deliveries, but {total} were sent.")
