"""Rows of the table, and how repeated measurements become one figure."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure shall reach; made by `at_least` and `at_most`.

    Attributes:
        relation: `≥` or `≤`.
        bound: the least or the most.
        of: `ratio` to the baseline, or the `value` itself, in the row's unit.
    """

    relation: Literal["≥", "≤"]
    bound: float
    of: Literal["ratio", "value"] = "ratio"

    def text(self, unit: str) -> str:
        """Return it as text; the unit stands there when the figure itself shall reach it."""
        text = f"{self.relation} {self.bound:,}"
        return f"{text} {unit}" if self.of == "value" else text


def at_least(bound: float, of: Literal["ratio", "value"] = "ratio") -> Target:
    """Return the target of a figure that shall be high."""
    return Target("≥", bound, of)


def at_most(bound: float, of: Literal["ratio", "value"] = "ratio") -> Target:
    """Return the target of a figure that shall be low."""
    return Target("≤", bound, of)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its baseline, both from the same run.

    Attributes:
        name: stable; ends in the unit.
        value: agentray's.
        unit: of both.
        baseline: what the other figure is of.
        baseline_value: the other figure.
        target: what the ratio or the value shall be; None: there is none.
    """

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    target: Target | None = None

    @property
    def ratio(self) -> float:
        """Value divided by baseline value."""
        return self.value / self.baseline_value if self.baseline_value else math.nan

    @property
    def reached(self) -> bool:
        """Whether the target is reached; true where there is none."""
        if self.target is None:
            return True
        figure = self.ratio if self.target.of == "ratio" else self.value
        bound = self.target.bound
        return figure >= bound if self.target.relation == "≥" else figure <= bound

    @property
    def to_reach(self) -> str:
        """The target as text, with a remark when it is not reached; "" for none."""
        if self.target is None:
            return ""
        return self.target.text(self.unit) + ("" if self.reached else ": not yet")

    def as_json(self) -> dict[str, Any]:
        """Return it as `{name, value, unit, baseline, baseline_value, ratio}`."""
        fields = asdict(self)
        del fields["target"]
        ratio = None if math.isnan(self.ratio) else self.ratio  # JSON has no NaN
        return {
            name: float(f"{field:.6g}") if isinstance(field, float) else field
            for name, field in {**fields, "ratio": ratio}.items()
        }


def series(name: str, unit: str, what: str, values: Mapping[int, float]) -> list[Row]:
    """Return rows of one figure at growing sizes, each beside the one at the first size.

    Args:
        name: with `{}` for the size.
        unit: of all.
        what: the sizes are of, such as `hosts`.
        values: by size, the first size first.
    """
    first = next(iter(values))
    baseline = f"the same with {first:,} {what}"
    return [
        Row(name.format(size), value, unit, baseline, values[first])
        for size, value in values.items()
    ]


Measurement = Callable[[], Awaitable[float]]


async def in_turn(ours: Measurement, baseline: Measurement, rounds: int) -> tuple[float, float]:
    """Measure both in turn and return the medians, ours first."""
    baseline_value, value = await medians([baseline, ours], rounds)
    return value, baseline_value


async def medians(measurements: Sequence[Measurement], rounds: int) -> list[float]:
    """Measure all in turn, that many times, and return the median of each.

    In turn, because the machine's speed changes while one measures: what disturbs the one figure
    then disturbs the others too.
    """
    taken = [[await measure() for measure in measurements] for _ in range(rounds)]
    return [statistics.median(values) for values in zip(*taken, strict=True)]


async def sequential_p50_ms(call: Callable[[], Awaitable[Any]], count: int) -> float:
    """Return the median duration of calls that are made one after the other, in milliseconds."""
    times: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        await call()
        times.append(time.perf_counter() - begun)
    return median_ms(times)


async def per_second(call: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> float:
    """Return calls per second with a fixed number of them under way.

    Each caller makes one call at least, however late the machine lets it begin.
    """
    done = 0
    begun = time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        nonlocal done
        while True:
            await call()
            done += 1
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return done / (time.perf_counter() - begun)


def median_of(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the least of the values that is no less than so many percent of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_ms(times: Sequence[float]) -> float:
    """Return the median of seconds, in milliseconds."""
    return statistics.median(times) * 1000
