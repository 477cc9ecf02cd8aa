"""What `agentray doctor` looks at: software and files. Only `close_files` changes anything."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from agentray.config import ClusterRecord, Settings
from agentray.runtime.local_cluster import LocalCluster, is_alive

_PACKAGE = "agentray"
_GIGABYTE = 10**9
_PORT_TIMEOUT_S = 2.0


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, but not as well as it could
    PROBLEM = "problem"  # something does not work, or others can read what they must not


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        check: name of the check.
        verdict: how bad it is.
        told: what there is.
        remedy: how to mend it, one line with a command; "" where there is nothing to mend.
    """

    check: str
    verdict: Verdict
    told: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known before anything is checked."""

    settings: Settings
    environment: Mapping[str, str]
    record: ClusterRecord | None
    is_up: bool

    @classmethod
    def look(cls, settings: Settings, environment: Mapping[str, str]) -> Machine:
        """Look at this machine."""
        try:
            record = ClusterRecord.read(settings)
        except OSError:  # the check of the home directory tells
            record = None
        return cls(settings, environment, record, record is not None and _is_up(record))

    @property
    def token_file(self) -> Path | None:
        """The file with Ray's token; None: the token itself is in the environment."""
        if self.environment.get("RAY_AUTH_TOKEN"):
            return None
        named = self.environment.get("RAY_AUTH_TOKEN_PATH")
        if named:
            return Path(named)
        return Path(self.environment.get("HOME") or Path.home()) / ".ray" / "auth_token"


def _is_up(record: ClusterRecord) -> bool:
    if not record.local_cluster:  # it was given a Ray cluster that runs elsewhere
        return answers(f"//{record.gcs_address}")
    try:
        return is_alive(LocalCluster.from_json(json.dumps(record.local_cluster)))
    except ValueError:
        return False


# Software


def python(version: str = platform.python_version()) -> Finding:
    """Check Python's version."""
    wanted = metadata.metadata(_PACKAGE)["Requires-Python"]
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("python", Verdict.OK, version)
    remedy = f"install Python {wanted}, then: pip install {_PACKAGE}"
    return Finding("python", Verdict.PROBLEM, f"{version}, but {wanted} is needed", remedy)


def ray() -> Finding:
    """Check Ray's version, without importing it."""
    wanted = next(r for r in requirements() if r.name == "ray")
    wrong = mismatch(wanted)
    if wrong is None:
        return Finding("ray", Verdict.OK, metadata.version("ray"))
    return Finding("ray", Verdict.PROBLEM, wrong, f"pip install '{wanted}'")


def packages() -> Finding:
    """Check that all packages are installed in a version that is supported."""
    wanted = requirements()
    wrong = {str(r): told for r in wanted if (told := mismatch(r)) is not None}
    if not wrong:
        return Finding("packages", Verdict.OK, f"{len(wanted)} as required")
    names = " ".join(f"'{requirement}'" for requirement in wrong)
    return Finding("packages", Verdict.PROBLEM, "; ".join(wrong.values()), f"pip install {names}")


def requirements() -> list[Requirement]:
    """Return what the package needs, without its extras."""
    found = [Requirement(line) for line in metadata.requires(_PACKAGE) or []]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def mismatch(wanted: Requirement) -> str | None:
    """Return what is wrong with an installed package; None: nothing."""
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return f"{wanted.name} is {installed}, not {wanted.specifier}"


def bytecode(machine: Machine) -> Finding:
    """Check that Python may keep compiled modules."""
    if not machine.environment.get("PYTHONDONTWRITEBYTECODE"):
        return Finding("bytecode", Verdict.OK, "compiled modules are kept")
    told = "PYTHONDONTWRITEBYTECODE is set: each process of Ray starts about twice as slowly"
    return Finding("bytecode", Verdict.WARNING, told, "unset PYTHONDONTWRITEBYTECODE")


# Files


def home(machine: Machine) -> Finding:
    """Check that there is room for files of ours, and leave to write them."""
    path = machine.settings.home
    there = _existing(path)
    remedy = f'chown -R "$USER" {there}, or: export AGENTRAY_HOME=/another/directory'
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding("home", Verdict.PROBLEM, f"{path}: {error.strerror}", remedy)
    return Finding("home", Verdict.OK, f"{path}{'' if there == path else ' (made when needed)'}")


def disk(machine: Machine, free_bytes: int | None = None) -> Finding:
    """Check that there is space for the database."""
    path = _existing(machine.settings.home)
    free = shutil.disk_usage(path).free if free_bytes is None else free_bytes
    told = f"{free / _GIGABYTE:.1f} GB free for {machine.settings.home}"
    if free >= _GIGABYTE:
        return Finding("disk", Verdict.OK, told)
    remedy = "free 1 GB (du -xh / | sort -h | tail), or: export AGENTRAY_HOME=/another/disk"
    return Finding("disk", Verdict.PROBLEM, told, remedy)


def ray_token(machine: Machine) -> Finding:
    """Check that nobody else can read Ray's token, with which any code can be run here."""
    path = machine.token_file
    if path is None:
        return Finding("ray token", Verdict.OK, "in RAY_AUTH_TOKEN")
    return _secret_file("ray token", path)


def api_key(machine: Machine) -> Finding:
    """Check that there is an API key to send, and that nobody else can read it."""
    if machine.settings.api_key:
        return Finding("API key", Verdict.OK, "in AGENTRAY_API_KEY")
    path = machine.settings.key_file
    if machine.is_up and not is_there(path):
        told = f"agentray is up, but {path} is gone: commands have no key to send"
        return Finding("API key", Verdict.PROBLEM, told, again(machine))
    return _secret_file("API key", path)


def _secret_file(check: str, path: Path) -> Finding:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Finding(check, Verdict.OK, f"{path} is made by the first start")
    except OSError as error:
        return Finding(check, Verdict.PROBLEM, f"{path}: {error.strerror}", f"ls -ld {path.parent}")
    mode = stat.S_IMODE(found.st_mode)
    if found.st_size == 0:
        return Finding(check, Verdict.PROBLEM, f"{path} is empty", f"rm {path}")
    if mode & 0o077:
        told = f"others have access to {path} (mode {mode:04o})"
        return Finding(check, Verdict.PROBLEM, told, "agentray doctor --fix")
    return Finding(check, Verdict.OK, f"{path} (mode {mode:04o})")


def close_files(machine: Machine) -> list[Path]:
    """Take the files with secrets away from others; return those that were open to them."""
    paths = [path for path in (machine.settings.key_file, machine.token_file) if path is not None]
    opened = [path for path in paths if is_there(path) and path.stat().st_mode & 0o077]
    for path in opened:
        path.chmod(0o600)
    return opened


def _existing(path: Path) -> Path:
    """Return the path, or the nearest of its parents that exists."""
    return next(there for there in (path, *path.absolute().parents) if is_there(there))


def is_there(path: Path) -> bool:
    """Return whether a path exists; one that we may not look at does not."""
    return os.access(path, os.F_OK)


def answers(address: str) -> bool:
    """Return whether somebody listens at an address, a URL or //host:port."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), _PORT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def again(machine: Machine) -> str:
    """Return how to start agentray again."""
    return f"agentray down; agentray up {machine.record.app if machine.record else 'MODULE:APP'}"
