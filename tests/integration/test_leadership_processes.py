"""Two manager processes on one database: one is stopped with SIGSTOP, the other one takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agentray.core.leadership import LEASE_S
from agentray.store.embedded import EmbeddedPostgres
from tests.support.eventually import eventually

PROCESS = Path(__file__).parents[1] / "support" / "leading.py"


@pytest.fixture
def dsn() -> Iterator[str]:
    with TemporaryDirectory(prefix="agentray-") as directory:
        Path(directory).chmod(0o711)
        server = EmbeddedPostgres(Path(directory) / "data")
        yield server.start()
        server.stop()


class Leading:
    """A process that leads, writes all the time, and tells what becomes of it."""

    def __init__(self, dsn: str, place: str, told: Path) -> None:
        self.told = told
        self.process = subprocess.Popen([sys.executable, str(PROCESS), dsn, place, str(told)])

    def last(self) -> dict[str, Any]:
        """Return what it said last."""
        lines = self.told.read_text().split("\n")[:-1] if self.told.exists() else []
        return json.loads(lines[-1]) if lines else {}


def test_one_that_wakes_up_after_another_has_taken_over_writes_nothing_and_ends(
    dsn: str, tmp_path: Path
) -> None:
    first = Leading(dsn, "first", tmp_path / "first")
    second: Leading | None = None
    try:
        eventually(lambda: first.last().get("written", 0) > 3, timeout_s=60)
        os.kill(first.process.pid, signal.SIGSTOP)
        second = Leading(dsn, "second", tmp_path / "second")
        eventually(lambda: second.last().get("written", 0) > 3, timeout_s=60 + LEASE_S)
        assert second.last()["epoch"] == first.last()["epoch"] + 1
        before = first.last()["written"]
        os.kill(first.process.pid, signal.SIGCONT)
        assert first.process.wait(timeout=60) == 3
        ended = first.last()
        assert ended["refused"] == "manager of second"
        assert ended["written"] <= before + 1, "what it had sent before it was stopped, at most"
        goes_on = second.last()["written"]
        eventually(lambda: second.last()["written"] > goes_on, timeout_s=60)
    finally:
        for leading in (first, second):
            if leading is not None:
                leading.process.kill()
                leading.process.wait()


def test_a_second_one_says_that_another_works_and_ends(dsn: str, tmp_path: Path) -> None:
    first = Leading(dsn, "first", tmp_path / "first")
    try:
        eventually(lambda: first.last().get("written", 0) > 0, timeout_s=60)
        second = Leading(dsn, "second", tmp_path / "second")
        assert second.process.wait(timeout=60) == 3
        assert second.last() == {"refused": "manager of first", "written": 0}
        assert first.process.poll() is None
    finally:
        first.process.kill()
        first.process.wait()
