"""Packing pools: turning a pool of this process into what the manager can start hosts from.

Local directories of its `runtime_env` are packed here, where they are, and kept with the pool: the
manager may be on another machine, and must be able to start hosts long after the driver has gone.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any, cast

from agentray.errors import PayloadError
from agentray.pool import Pool
from agentray.protocol.deployment import PoolSpec

MAX_PACKED_BYTES = 64 * 1024 * 1024
"""All directories of a pool together: they are kept in the Store and sent to the manager."""

PACKAGE = "package:"
"""In a packed `runtime_env`: what follows is the name of a package."""

_FIELDS = {"hosts": ("hosts", "max_hosts"), "runtime_env": ("runtime_env", "packages")}
"""What a setting is in a spec, where it is not the field of the same name."""

_NEVER = (".git", "__pycache__", ".venv", "node_modules", ".agentray")
_TIME = (1980, 1, 1, 0, 0, 0)  # the same files give the same package, whenever they were written


def pack_pool(pool: Pool) -> PoolSpec:
    """Return a pool as a spec.

    Raises:
        PayloadError: its directories are too large.
    """
    least, most = pool.hosts if isinstance(pool.hosts, tuple) else (pool.hosts, None)
    packages: dict[str, bytes] = {}
    runtime_env = _packed(pool.runtime_env, packages)
    size = sum(map(len, packages.values()))
    if size > MAX_PACKED_BYTES:
        raise PayloadError(
            f"The directories of the pool {pool.name!r} have {size} bytes when they are packed, "
            f"more than {MAX_PACKED_BYTES}. Leave files out with runtime_env['excludes'], or name "
            f"a remote URI."
        )
    return PoolSpec(
        pool.name,
        least,
        pool.num_cpus,
        pool.num_gpus,
        max_hosts=most,
        resources=dict(pool.resources),
        memory=pool.memory,
        runtime_env=runtime_env,
        packages=packages,
        placement=pool.placement,
        load_per_host=pool.load_per_host,
        grace_s=pool.grace_s,
        isolation=pool.isolation,
    )


def pack_changes(pool: Pool, settings: Collection[str]) -> dict[str, Any]:
    """Return the fields of a spec that some settings of a pool are about.

    Raises:
        PayloadError: its directories are too large.
    """
    spec = pack_pool(pool)
    names = chain.from_iterable(_FIELDS.get(setting, (setting,)) for setting in settings)
    return {name: getattr(spec, name) for name in names}


def _packed(env: Mapping[str, Any], packages: dict[str, bytes]) -> dict[str, Any]:
    excludes: Sequence[str] = env.get("excludes", ())
    packed: dict[str, Any] = {}
    if "env_vars" in env:
        packed["env_vars"] = dict(env["env_vars"])
    if "working_dir" in env:
        packed["working_dir"] = _place(env["working_dir"], excludes, packages, below="")
    if "py_modules" in env:
        packed["py_modules"] = [
            _place(module, excludes, packages, below=Path(module).resolve().name)
            for module in env["py_modules"]
        ]
    if "pip" in env:
        packed["pip"] = _requirements(env["pip"])
    return packed


def _place(
    place: str | Path, excludes: Sequence[str], packages: dict[str, bytes], *, below: str
) -> str:
    """Return a remote place as it is, a local one as a package."""
    if "://" in str(place):
        return str(place)
    path = Path(place).resolve()
    content = _zip(path, excludes, below) if path.is_dir() else path.read_bytes()
    # The name of a wheel says what is in it.
    name = path.name if path.suffix == ".whl" else f"{hashlib.sha256(content).hexdigest()[:40]}.zip"
    packages[name] = content
    return PACKAGE + name


def _zip(directory: Path, excludes: Sequence[str], below: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files(directory, excludes):
            entry = zipfile.ZipInfo(str(Path(below, path.relative_to(directory))), _TIME)
            entry.external_attr = (path.stat().st_mode & 0xFFFF) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def _files(directory: Path, excludes: Sequence[str]) -> Iterator[Path]:
    for where, folders, names in os.walk(directory):
        kept = [f for f in folders if not _is_left_out(Path(where, f), directory, excludes)]
        folders[:] = sorted(kept)
        for name in sorted(names):
            path = Path(where, name)
            if path.is_file() and not _is_left_out(path, directory, excludes):
                yield path


def _is_left_out(path: Path, directory: Path, excludes: Sequence[str]) -> bool:
    inside = path.relative_to(directory).as_posix()
    patterns = (pattern.strip("/") for pattern in excludes)
    return path.name in _NEVER or any(
        fnmatch(inside, pattern) or fnmatch(path.name, pattern) for pattern in patterns
    )


def _requirements(pip: Any) -> Any:
    """Return requirements without files that only this machine has."""
    if isinstance(pip, Mapping):
        more = cast("Mapping[str, Any]", pip)
        return {**more, "packages": _requirements(more["packages"])}
    if not isinstance(pip, str):
        return list(pip)
    lines = (line.strip() for line in Path(pip).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
