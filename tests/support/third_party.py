"""Clients of other systems, as they are, in a Python of their own: `tests/third_party`."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "third_party"
_STAMP = ROOT / ".venv-third-party" / ".third-party-installed"


def third_party_python() -> str:
    """Return the Python with other systems' packages; the test fails where it is missing."""
    if not _STAMP.exists():
        pytest.fail(
            f"{_STAMP.parent.name} is missing: `make third-party` makes it, as `make test` does.",
            pytrace=False,
        )
    return str(_STAMP.parent / "bin" / "python")


async def run_third_party(script: str, *args: str, timeout_s: float = 60) -> Any:
    """Run `tests/third_party/SCRIPT` and return what it printed last, read as JSON.

    The script gets what it needs as arguments; it sees neither agentray nor its settings. Its
    exit with an error fails the test, with what it wrote.
    """
    python = third_party_python()
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        python, "-I", str(SCRIPTS / script), *args, env=env, cwd=SCRIPTS,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    wrote = f"{out.decode()}\n{err.decode()}"
    if process.returncode != 0:
        pytest.fail(f"{script} ended with {process.returncode}:\n{wrote}", pytrace=False)
    lines = out.decode().splitlines()
    if not lines:
        pytest.fail(f"{script} printed nothing:\n{wrote}", pytrace=False)
    return json.loads(lines[-1])
