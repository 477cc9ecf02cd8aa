"""Packs what a job needs of this machine: a zip whose name follows from its content."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple, cast

from agentray.errors import ConfigurationError

ALWAYS_EXCLUDED = (".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules")
"""Names of directories that are never packed."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files: the same content has the same name
_BLOCK = 1 << 20


class Package(NamedTuple):
    """A packed directory.

    Attributes:
        name: `_ray_pkg_…`, as Ray names packages.
        size: bytes.
        file: open, at its beginning; whoever has it closes it.
    """

    name: str
    size: int
    file: IO[bytes]


def pack(directory: str | Path, excludes: Sequence[str] = (), *, within: bool = False) -> Package:
    """Pack a directory.

    Args:
        directory: the directory.
        excludes: what is left out: names, or paths within it, with `*` and `?`.
        within: the archive has the directory itself, as modules need it; else what is in it.

    Raises:
        ConfigurationError: there is no such directory, or nothing in it.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ConfigurationError(f"There is no directory {str(root)!r} to be packed.")
    file = TemporaryFile()  # noqa: SIM115 - who uploads it closes it
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            prefix = PurePosixPath(root.resolve().name if within else "")
            for path, name in _files(root, excludes):
                _add(archive, path, str(prefix / name))
            empty = not archive.namelist()
        package = _named(file)
    except BaseException:
        file.close()
        raise
    if empty:
        file.close()
        raise ConfigurationError(f"There is nothing to be packed in {str(root)!r}.")
    return package


def with_requirements(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Return a runtime_env in which files of requirements are replaced by what is in them.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    env = dict(runtime_env)
    for name in ("pip", "uv"):
        given = env.get(name)
        if isinstance(given, str):
            env[name] = _requirements(name, given)
        elif isinstance(given, Mapping):
            more = dict(cast("Mapping[str, Any]", given))
            if isinstance(packages := more.get("packages"), str):
                env[name] = {**more, "packages": _requirements(name, packages)}
    return env


def _requirements(name: str, file: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        told = f"{name}: the requirements {file!r} cannot be read: {error}."
        raise ConfigurationError(told) from error
    return [line for line in lines if line and not line.startswith("#")]


def _files(root: Path, excludes: Sequence[str]) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield what is to be packed, always in the same order."""
    for directory, names, files in os.walk(root):
        at = Path(directory)
        inside = PurePosixPath(at.relative_to(root).as_posix())
        names[:] = sorted(
            n for n in names if n not in ALWAYS_EXCLUDED and not _excluded(inside / n, excludes)
        )
        for name in sorted(files):
            if not _excluded(inside / name, excludes) and (at / name).is_file():
                yield at / name, inside / name


def _excluded(path: PurePosixPath, excludes: Sequence[str]) -> bool:
    return any(
        fnmatch(str(path), pattern) or fnmatch(path.name, pattern)
        for pattern in (each.strip().strip("/") for each in excludes)
    )


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    executable = path.stat().st_mode & 0o111
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    with path.open("rb") as source, archive.open(info, "w") as target:
        while block := source.read(_BLOCK):
            target.write(block)


def _named(file: IO[bytes]) -> Package:
    digest = hashlib.sha256()
    file.seek(0)
    size = 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    file.seek(0)
    return Package(f"_ray_pkg_{digest.hexdigest()[:32]}.zip", size, file)
