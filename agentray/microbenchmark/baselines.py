"""What a user of plain Ray would write: what the figures are compared with."""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any

import ray

from agentray.microbenchmark.rows import sequential_p50_ms

BARE_CALL = "bare Ray async-actor call"


@contextmanager
def restarting_actor() -> Generator[Any]:
    """Start an actor that Ray restarts, and whose calls it sends again, as often as it takes."""
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    actor: Any = ray.remote(BareActor).options(**options).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


class BareActor:
    """An actor with the same methods as the agents that are measured."""

    async def echo(self, value: int) -> int:
        """Return the value."""
        return value

    async def doze(self, seconds: float) -> float:
        """Wait, then return the seconds."""
        await asyncio.sleep(seconds)
        return seconds

    async def count(self, items: int, *, apart: bool) -> AsyncIterator[int]:
        """Yield that many numbers, all at once or each in a turn of the event loop of its own."""
        for number in range(items):
            yield number
            if apart:
                await asyncio.sleep(0)

    async def take(self, array: Any) -> int:
        """Return how many bytes the array has."""
        return array.nbytes

    async def send_p50_ms(self, other: Any, array: Any, count: int) -> float:
        """Send an array to another actor, again and again; return the median, in milliseconds."""

        async def send() -> Any:
            return await other.take.remote(array)

        return await sequential_p50_ms(send, count)

    def pid(self) -> int:
        """Return the process's id."""
        import os

        return os.getpid()


@contextmanager
def bare_actors(count: int, *, max_concurrency: int = 2000) -> Generator[list[Any]]:
    """Start actors, which Ray does in the background, and end them afterwards."""
    options = {"num_cpus": 0, "max_concurrency": max_concurrency}
    actors: list[Any] = [ray.remote(BareActor).options(**options).remote() for _ in range(count)]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)
