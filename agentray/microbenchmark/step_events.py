"""What it costs that runs are durable per step: events per second, beside runs as a whole.

In one process with a database of its own, as durable prompts are measured. Both sides handle the
same events; on the one, each is kept with the commit of the handler that emitted it until that of
the handler that it is for, on disk.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from agentray.app import App
from agentray.event_loop import run
from agentray.event_run import DurabilityName
from agentray.microbenchmark.agents import Burst, Splitter, Taker, Worker
from agentray.microbenchmark.apart import measured_apart, own_database
from agentray.microbenchmark.rows import Row, at_least, median_of
from agentray.microbenchmark.scale import Scale
from agentray.protocol.runs import RunStatus
from agentray.runtime import collector
from agentray.runtime.manager_client import ManagerClient
from agentray.store.postgres import PostgresStore
from agentray.testing import LocalRuntime

_RUNS = 8  # under way at once
_PARTS = 100  # of a burst, each of which sets off one event more
_EVENTS = 1 + 2 * _PARTS  # that are handled in a run
_SIDES: tuple[DurabilityName, DurabilityName] = ("step", "run")


async def measure_step_events(scale: Scale) -> list[Row]:
    """Measure in a process of its own.

    Raises:
        RuntimeError: that process failed; the message is what it said.
    """
    value, baseline = await measured_apart(__name__, scale.rounds, scale.seconds)
    other = "the same, durable as a whole"
    return [Row("step_events_per_s", value, "events/s", other, baseline, at_least(4_000, "value"))]


async def compare(dsn: str, rounds: int, seconds: float) -> tuple[float, float]:
    """Return events per second, durable per step and as a whole; medians of rounds in turn."""
    taken: dict[DurabilityName, list[float]] = {side: [] for side in _SIDES}
    for number in range(rounds + 1):
        for side in _SIDES:
            async with LocalRuntime(store=PostgresStore(dsn)) as manager:
                await manager.deploy(App("step_events", [Splitter, Worker, Taker]))
                collector.settle()  # as hosts do
                rate = await _events_per_s(manager, side, seconds if number else 0.5)
            if number:  # the first round warms up
                taken[side].append(rate)
    return median_of(taken["step"]), median_of(taken["run"])


async def _events_per_s(manager: ManagerClient, side: DurabilityName, seconds: float) -> float:
    events = 0
    begun = time.perf_counter()

    async def caller() -> None:
        nonlocal events
        while True:
            burst = await manager.dispatch(Burst(parts=_PARTS), durability=side, events=False)
            ended = await burst.wait()
            if ended.status is not RunStatus.SUCCEEDED:
                raise RuntimeError(f"The run {ended.id} ended otherwise: {ended.status}")
            events += _EVENTS
            if time.perf_counter() - begun >= seconds:
                return

    await asyncio.gather(*(caller() for _ in range(_RUNS)))
    return events / (time.perf_counter() - begun)


def main() -> None:
    """Measure, and print events per second, durable per step and as a whole."""
    rounds, seconds = json.loads(sys.argv[1])
    with own_database() as dsn:
        sys.stdout.write(json.dumps(run(compare(dsn, rounds, seconds))))


if __name__ == "__main__":
    main()
