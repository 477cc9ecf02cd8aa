"""A limit for the memory of a process, which the kernel enforces by killing it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CGROUPS = Path("/sys/fs/cgroup")
_NAME = "agentray-tests"


@contextmanager
def memory_limit(limit_bytes: int) -> Generator[Path]:
    """Make a control group; give the file into which a process that joins it writes its id.

    Skips the test where this user may make none, or the machine has none.
    """
    old = _CGROUPS / "memory"
    group = (old if old.is_dir() else _CGROUPS) / _NAME
    limit = group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")
    try:
        group.mkdir(exist_ok=True)
        limit.write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"no memory can be limited here: {error}")
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
