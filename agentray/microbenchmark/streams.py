"""Rows of streams that a driver reads."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from agentray.handle import Handle
from agentray.microbenchmark.agents import Echo
from agentray.microbenchmark.baselines import bare_actors
from agentray.microbenchmark.rows import Row, Target, at_least, in_turn
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_FIRST_ITEMS = 100  # read before anything is measured


async def measure_streams(manager: ManagerClient, scale: Scale) -> list[Row]:
    """Measure one stream of small items, against a streaming generator of a bare actor.

    Once as fast as the agent yields, where many items travel together, and once with each item in
    a turn of the event loop of its own, as when it comes from elsewhere.
    """
    echo = manager.handle(Echo, "stream")
    target = at_least(20_000, of="value")
    with bare_actors(1) as (actor,):
        return [
            await _measure("stream_chunks_per_s", echo, actor, scale, apart=False, target=target),
            await _measure("stream_apart_chunks_per_s", echo, actor, scale, apart=True),
        ]


async def _measure(
    name: str,
    echo: Handle[Echo],
    actor: Any,
    scale: Scale,
    *,
    apart: bool,
    target: Target | None = None,
) -> Row:
    async def bare(items: int) -> float:
        streaming = actor.count.options(num_returns="streaming")
        return await chunks_per_s(_values(streaming.remote(items, apart=apart)), items)

    async def ours(items: int) -> float:
        return await chunks_per_s(echo.stream(Echo.count, items, apart=apart), items)

    await bare(_FIRST_ITEMS)
    await ours(_FIRST_ITEMS)
    value, baseline = await in_turn(
        lambda: ours(scale.stream_items),
        lambda: bare(scale.bare_stream_items),
        scale.rounds,
    )
    return Row(name, value, "chunks/s", "bare Ray streaming generator", baseline, target)


async def _values(references: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for reference in references:
        yield await reference


async def chunks_per_s(stream: AsyncIterator[int], items: int) -> float:
    """Read a stream of the numbers below `items` to its end; return items per second.

    Raises:
        RuntimeError: other items came; then there is nothing to be measured.
    """
    read = 0
    begun = time.perf_counter()
    async for item in stream:
        if item != read:
            raise RuntimeError(f"The stream's item {read} is {item!r}.")
        read += 1
    if read != items:
        raise RuntimeError(f"The stream ended after {read} of {items} items.")
    return items / (time.perf_counter() - begun)
