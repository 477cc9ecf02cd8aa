"""Rows of the table, and how repeated measurements become one figure."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its baseline, both from the same run.

    Attributes:
        name: stable; ends in the unit.
        value: agentray's.
        unit: of both.
        baseline: what the other figure is of.
        baseline_value: the other figure.
        target: what the ratio shall be, as text; "" for none.
    """

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    target: str = ""

    @property
    def ratio(self) -> float:
        """Value divided by baseline value."""
        return self.value / self.baseline_value if self.baseline_value else float("nan")

    def as_json(self) -> dict[str, Any]:
        """Return it as `{name, value, unit, baseline, baseline_value, ratio}`."""
        fields = asdict(self)
        del fields["target"]
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}
        return {**rounded, "ratio": round(self.ratio, 4)}


Measurement = Callable[[], Awaitable[float]]


async def in_turn(ours: Measurement, baseline: Measurement, rounds: int) -> tuple[float, float]:
    """Measure both in turn and return the medians.

    In turn, because the machine's speed changes while one measures: what disturbs the one figure
    then disturbs the other too.
    """
    values: list[float] = []
    baselines: list[float] = []
    for _ in range(rounds):
        baselines.append(await baseline())
        values.append(await ours())
    return statistics.median(values), statistics.median(baselines)


async def sequential_p50_ms(call: Callable[[], Awaitable[Any]], count: int) -> float:
    """Return the median duration of calls that are made one after the other, in milliseconds."""
    times: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        await call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


async def per_second(call: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> float:
    """Return calls per second with a fixed number of them under way."""
    done = 0
    begun = time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return done / (time.perf_counter() - begun)


def median_ms(times: Sequence[float]) -> float:
    """Return the median of seconds, in milliseconds."""
    return statistics.median(times) * 1000
