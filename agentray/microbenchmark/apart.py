"""Measuring in a process of its own, with an embedded database of its own.

The Store of a cluster that runs cannot be swapped for another one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentray.store.embedded import EmbeddedPostgres

_TIMEOUT_S = 300.0


async def measured_apart(module: str, *arguments: Any) -> Any:
    """Run a module as a program, and return what it prints.

    Args:
        module: its name; its one word is the arguments as JSON, and so is what it prints.
        arguments: for it.

    Raises:
        RuntimeError: it failed; the message is what it said.
        TimeoutError: it took too long, and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, json.dumps(arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"{module} could not measure: {err.decode()[-1000:]}")
    return json.loads(out)


@contextmanager
def own_database() -> Generator[str]:
    """A database server for as long as it is measured; yields its DSN."""
    with tempfile.TemporaryDirectory(prefix="agentray-") as directory:
        os.chmod(directory, 0o711)  # noqa: PTH101, S103 - the server may be another user's
        server = EmbeddedPostgres(Path(directory) / "data")
        dsn = server.start()
        try:
            yield dsn
        finally:
            server.stop()
