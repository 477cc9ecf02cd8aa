"""Processes that a measured system consists of."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

READY = "ready"
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 5.0


@asynccontextmanager
async def process(*command: str, says_ready: bool = True) -> AsyncGenerator[int]:
    """Run a program meanwhile; yields its process id.

    Args:
        command: the program and its arguments.
        says_ready: wait until it has printed a line `ready`.
    """
    out = asyncio.subprocess.PIPE if says_ready else None
    child = await asyncio.create_subprocess_exec(*command, stdout=out)
    try:
        if says_ready:
            async with asyncio.timeout(_START_LIMIT_S):
                await _until_ready(child)
        yield child.pid
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module in this environment."""
    return (sys.executable, "-m", name, *arguments)


def ready() -> None:
    """Say that this process is ready."""
    print(READY, flush=True)


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def until_listening(port: int) -> None:
    """Wait until somebody listens on a port of the loopback address."""
    async with asyncio.timeout(_START_LIMIT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def _until_ready(child: asyncio.subprocess.Process) -> None:
    assert child.stdout is not None
    async for line in child.stdout:
        if line.decode().strip() == READY:
            return
    raise RuntimeError(f"A process ended while it started, with {await child.wait()}.")
