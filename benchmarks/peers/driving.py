"""Measuring one system: the same code for all of them."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil

from benchmarks.peers.tally import SINK, Tally
from benchmarks.peers.work import DELIVERIES_PER_TEXT, SUBSCRIBERS, texts

IN_FLIGHT = 64
CREATED_AT_ONCE = 256

_FIGURE_LIMIT_S = 60.0
_STOP_LIMIT_S = 2.0  # what has not ended by then is killed, and nothing of it is measured any more
_LEAST_GAP_S, _MOST_GAP_S = 0.02, 0.12  # longer than the period of any polling
_FIRST_LOOK_S = 0.02

Measured = Mapping[str, list[float]]


class System:
    """A system under measurement, up from `start` to `stop`.

    Attributes:
        figures: those that it has.
        burst: events of the fan-out that are published before one waits for their arrival.
        texts: that the pattern gets at once.
        agents: that are made at least, to see what one takes.
        tally: where its handlers count.
    """

    figures: ClassVar[tuple[str, ...]] = ()
    burst: int = 250
    texts: int = 2_000
    agents: int = 1_000

    def __init__(self) -> None:
        self.tally = Tally.here()

    async def start(self) -> None:
        """Put it up; what is measured later has been called once."""

    async def stop(self) -> None:
        """Take it down."""

    async def call(self) -> None:
        """Call one agent with one number, and get it back."""
        raise NotImplementedError

    async def publish(self, count: int) -> None:
        """Publish so many events to the subscribers, who count them."""
        raise NotImplementedError

    async def create(self, number: int) -> None:
        """Call an agent that is not there yet, and get the answer."""
        raise NotImplementedError

    def serving(self) -> list[int]:
        """Return the processes in which agents live or messages wait."""
        raise NotImplementedError

    async def analyse(self, given: list[str]) -> None:
        """Put so many texts through the pattern at once, and wait until all sinks have counted."""
        raise NotImplementedError

    async def dispatch(self) -> None:
        """Send one event to one agent, which notes when it arrives."""
        raise NotImplementedError

    async def sent(self, count: int) -> None:
        """Wait until the fan-out's subscribers have counted so many events each."""
        await self.tally.until(count * SUBSCRIBERS, 0, SUBSCRIBERS)

    async def sunk(self, count: int) -> None:
        """Wait until the pattern's sinks have counted so many texts."""
        await self.tally.until(count, SINK, SINK)


async def _sequential(system: System, seconds: float) -> Measured:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await system.call()
        times.append(time.perf_counter() - begun)
    return {"sequential_p50_ms": [statistics.median(times) * 1000]}


async def _in_flight(system: System, seconds: float) -> Measured:
    per_s, _ = await _per_second(system.call, IN_FLIGHT, seconds, 0)
    return {"in_flight_64_per_s": [per_s]}


async def _fan_out(system: System, seconds: float) -> Measured:
    system.tally.clear()
    published = 0
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        await system.publish(system.burst)
        published += system.burst
        await system.sent(published)
    elapsed = time.perf_counter() - begun
    return {"fan_out_deliveries_per_s": [published * SUBSCRIBERS / elapsed]}


async def _new_agents(system: System, seconds: float) -> Measured:
    numbers = itertools.count()

    async def create() -> None:
        await system.create(next(numbers))

    # What so many at once need besides, such as buffers, is there before memory is looked at.
    await _per_second(create, CREATED_AT_ONCE, 0, system.agents // 4)
    before = _private_bytes(system)
    per_s, made = await _per_second(create, CREATED_AT_ONCE, seconds, system.agents)
    grown = _private_bytes(system) - before
    return {"new_agents_per_s": [per_s], "idle_agent_bytes": [grown / made]}


async def _pattern(system: System, seconds: float) -> Measured:  # noqa: ARG001 - one burst
    given = texts(system.texts)
    await system.analyse(given[: max(1, system.texts // 10)])
    system.tally.clear()
    begun = time.perf_counter()
    await system.analyse(given)
    elapsed = time.perf_counter() - begun
    await system.sunk(system.texts)  # the work was done, and once
    return {"pattern_events_per_s": [system.texts * DELIVERIES_PER_TEXT / elapsed]}


async def _idle(system: System, seconds: float) -> Measured:
    latencies: list[float] = []
    phase = random.Random(4)  # noqa: S311 - the same gaps for everybody
    for _ in range(int(seconds * 20)):
        await asyncio.sleep(phase.uniform(_LEAST_GAP_S, _MOST_GAP_S))
        system.tally.clear()
        begun = time.perf_counter()
        await system.dispatch()
        await asyncio.sleep(_FIRST_LOOK_S)  # nothing of ours runs meanwhile
        while not system.tally.arrival:
            await asyncio.sleep(0.002)
        latencies.append((system.tally.arrival - begun) * 1000)
    return {"idle_dispatch_ms": latencies}


_MEASUREMENTS: dict[str, Callable[[System, float], Awaitable[Measured]]] = {
    "sequential": _sequential,
    "in_flight": _in_flight,
    "fan_out": _fan_out,
    "pattern": _pattern,
    "idle": _idle,
    "new_agents": _new_agents,  # the last: its agents stay
}
MEASUREMENTS = tuple(_MEASUREMENTS)


async def _per_second(
    do: Callable[[], Awaitable[Any]], in_flight: int, seconds: float, least: int
) -> tuple[float, int]:
    """Return how often a second something is done with so many under way, and how often it was."""
    done = 0
    begun = time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        nonlocal done
        while done < least or time.perf_counter() < end:
            await do()
            done += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return done / (time.perf_counter() - begun), done


def _private_bytes(system: System) -> int:
    return sum(psutil.Process(pid).memory_full_info().uss for pid in system.serving())


async def drive(system: System, asked: list[str], seconds: float, results: Path) -> None:
    """Start a system, measure it, stop it; each result is written at once, as a line of JSON."""

    def write(line: Mapping[str, Any]) -> None:
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")

    await system.start()
    for name in asked:
        if name not in system.figures:
            continue
        why = await _within(_FIGURE_LIMIT_S, _written(write, name, system, seconds))
        if why is not None:
            write({"failed": name, "why": why})
    why = await _within(_STOP_LIMIT_S, system.stop())
    if why is not None:
        write({"failed": "stop", "why": why})


async def _written(
    write: Callable[[Measured], None], name: str, system: System, seconds: float
) -> None:
    write(await _MEASUREMENTS[name](system, seconds))


async def _within(limit_s: float, work: Awaitable[None]) -> str | None:
    """Await something; return why it failed, which is a result too."""
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        return f"no end within {limit_s:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever a peer raises
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def main(make: Callable[[], System], run: Callable[[Any], Any]) -> None:
    """Measure a system as the command line says.

    Args:
        make: the system, not started.
        run: what runs a coroutine: the event loop that suits the system.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("measurements", nargs="+", choices=MEASUREMENTS)
    given = parser.parse_args()

    async def measure() -> None:
        await drive(make(), given.measurements, given.seconds, given.results)

    run(measure())
    # All is written. What a peer has left running must not keep this process: its starter ends it.
    sys.stdout.flush()
    os._exit(0)


def option(name: str, default: str) -> str:
    """Return an option of a system from the environment."""
    return os.environ.get(f"AGENTRAY_BENCH_PEERS_{name}", default)
