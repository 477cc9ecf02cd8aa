"""What a host's process notes of itself, so that its end can be explained.

Three files in memory: the flight record, what Python writes when a signal ends the process, and
nothing else. They belong to one user and one machine, and are removed some time after the end.
"""

from __future__ import annotations

import faulthandler
import logging
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from agentray.core.deaths import HANG_NOTE, Death, Evidence, death_of
from agentray.runtime.flight_record import CELLS, Flight, FlightRecord, read_flight, size_of

logger = logging.getLogger(__name__)

DUMP_S = 8.0
"""The stacks of all threads are written to the log when the event loop has not turned for so long:
before the third heartbeat is missed."""

_MAX_STACK = 20_000
_STDERR = 2


@dataclass(frozen=True, slots=True)
class Notes:
    """What a host has left.

    Attributes:
        flight: its flight record.
        crash: what Python wrote when a signal ended it; "": nothing.
    """

    flight: Flight
    crash: str

    def death(self, words: str) -> Death:
        """Tell how it ended.

        Args:
            words: what Ray says of it.
        """
        fatal = self.crash.partition("\n")[0]
        kills = oom_kills() - self.flight.oom_kills
        return death_of(Evidence(words, True, self.flight.exit_code, fatal, kills))


class HostNotes:
    """Keeps the notes of this process."""

    def __init__(self, host_id: str) -> None:
        """Begin; from then on a crash and an `os._exit` leave a note.

        Args:
            host_id: of the host that this process is.
        """
        self._paths = _paths(host_id)
        self._crash: IO[bytes] = _create(self._paths[1])
        with _create(self._paths[0]) as file:
            file.truncate(size_of(CELLS))
            self._memory = mmap.mmap(file.fileno(), size_of(CELLS))
        self.record = FlightRecord(self._memory)
        self._pid = os.getpid()
        self._exit = os._exit
        self._open = True
        faulthandler.enable(self._crash, all_threads=True)
        os._exit = self._note_exit
        self.beat()

    def _note_exit(self, status: int) -> NoReturn:
        """Do as `os._exit`, which leaves no trace otherwise."""
        if os.getpid() == self._pid:  # not a child that was forked
            self.record.exits(status)
        self._exit(status)

    def beat(self) -> None:
        """Say that the event loop turns; called each second.

        A thread in C writes the stacks when this is not called in time: also where the loop is
        blocked by code that never lets go of Python's lock.
        """
        if self._open:
            faulthandler.dump_traceback_later(DUMP_S, repeat=False, file=_STDERR)
            self.record.saw_oom_kills(oom_kills())

    def close(self) -> None:
        """End in an orderly way: there is nothing to explain."""
        self._open = False
        faulthandler.cancel_dump_traceback_later()
        os._exit = self._exit
        for path in self._paths:
            path.unlink(missing_ok=True)


def read_notes(host_id: str) -> Notes | None:
    """Return what a host of this machine has left; None: nothing, or it is of another machine."""
    record, crash = _paths(host_id)
    try:
        flight = read_flight(record.read_bytes())
        text = crash.read_text("utf-8", "replace")[:_MAX_STACK]
    except OSError:
        return None
    return None if flight is None else Notes(flight, text)


def note_hang(host_id: str) -> None:
    """Note for all who called a host that it is killed because it hangs."""
    path = _paths(host_id)[1]
    if path.exists():
        path.write_text(HANG_NOTE, "ascii")


def discard_notes(host_id: str, after_s: float, call_later: Callable[..., object]) -> None:
    """Remove what a host has left, when everybody has had the time to read it."""

    def discard() -> None:
        for path in _paths(host_id):
            path.unlink(missing_ok=True)

    call_later(after_s, discard)


def oom_kills() -> int:
    """Return how many processes this machine's kernel has killed for want of memory so far."""
    try:
        for line in Path("/proc/vmstat").read_text("ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        return 0  # this system does not tell
    return 0


def _paths(host_id: str) -> tuple[Path, Path]:
    shared = Path("/dev/shm")  # noqa: S108 - in memory; the directory below is this user's alone
    root = shared if shared.is_dir() else Path(tempfile.gettempdir())
    home = root / f"agentray-{os.getuid()}"
    return home / f"{host_id}.flight", home / f"{host_id}.crash"


def _create(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    about = path.parent.stat(follow_symlinks=False)
    if about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise PermissionError(f"{path.parent} is open to others: remove it.")
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "w+b", buffering=0)
