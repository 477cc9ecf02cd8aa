"""One command at a time puts up or takes down what a home has: the others are told, and stop.

The claim is a file in the home, locked for as long as the command lives, with what it is about to
start in it. A file that nobody locks was left by a command that was killed: what that one had
started is found by the file's mark.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentray.errors import CommandUnderWay, ConfigurationError

_NAME = "starting.json"
_MAX_BYTES = 65_536


class Plan(BaseModel):
    """What a command is about to start, or to stop.

    Attributes:
        command: that claims the home.
        pid: its process.
        mark: of the Ray cluster that it starts; "": it starts none.
        embedded_database: it may start the home's database server.
    """

    model_config = ConfigDict(frozen=True)

    command: Literal["up", "down"]
    pid: int
    mark: str = ""
    embedded_database: bool = False


class Claim:
    """A home that is this command's for now.

    Attributes:
        left: the plan of a command that was killed; None: there was none.
    """

    def __init__(self, path: Path, descriptor: int, left: Plan | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self._is_settled = False
        self.left = left

    def write(self, plan: Plan) -> None:
        """Say what is about to be done, before it is begun."""
        self._is_settled = False
        _write(self._descriptor, plan)

    def settle(self) -> None:
        """Nothing is left over for another command to stop: the file goes with the claim."""
        self._is_settled = True

    def close(self) -> None:
        """Let others have the home."""
        if self._is_settled:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)  # releases the lock


@contextmanager
def claimed(home: Path, command: Literal["up", "down"]) -> Generator[Claim]:
    """Claim a home while the block runs.

    Args:
        home: the directory; made if it is missing.
        command: that claims it.

    Yields:
        The claim. Unless the block writes a plan, or there was one of a command that was killed,
        the end of the block leaves nothing behind.

    Raises:
        CommandUnderWay: another command has it.
        ConfigurationError: the directory cannot be used.
    """
    path = home / _NAME
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _locked(path)
    except OSError as error:
        raise ConfigurationError(
            f"The directory {home} cannot be used: {error.strerror}. Set AGENTRAY_HOME to a "
            "directory that you may write to."
        ) from error
    left = _read(descriptor)
    claim = Claim(path, descriptor, left)
    if left is None:
        _write(descriptor, Plan(command=command, pid=os.getpid()))
        claim.settle()
    try:
        yield claim
    finally:
        claim.close()


def look_for_plan(home: Path) -> Plan | None:
    """Return the plan of a command that is under way, or that was killed; None: there is none."""
    try:
        descriptor = os.open(home / _NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            plan = _read(descriptor)
            os.close(descriptor)
            raise CommandUnderWay(plan.command if plan else "", plan.pid if plan else 0) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who had it removed it meanwhile: another file has the name now


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Plan | None:
    try:
        return Plan.model_validate_json(os.pread(descriptor, _MAX_BYTES, 0))
    except ValidationError:
        return None  # it was killed before it had written, so before it had started anything


def _write(descriptor: int, plan: Plan) -> None:
    written = os.pwrite(descriptor, plan.model_dump_json().encode(), 0)
    os.ftruncate(descriptor, written)
    os.fsync(descriptor)
