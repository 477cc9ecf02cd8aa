"""A log that is a file of this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agentray.runtime.job_ports import LogGone


class FileLog:
    """A `LogSource` in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def size(self) -> int:
        """Return how many bytes there are."""
        # A question to the kernel that takes microseconds; a thread would take longer.
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise LogGone(f"its file cannot be read ({error.strerror})") from error

    async def read(self, offset: int, most: int) -> bytes:
        """Return bytes from an offset on."""
        return await asyncio.to_thread(self._read, offset, most)

    def _read(self, offset: int, most: int) -> bytes:
        try:
            with self._path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), most, offset)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise LogGone(f"its file cannot be read ({error.strerror})") from error
