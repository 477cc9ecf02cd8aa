"""From what was measured to what is shown: medians, quantiles, ratios, targets."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

AGENTRAY_2 = "agentray, 2 hosts"
AGENTRAY_1 = "agentray, 1 host"
AUTOGEN_GRPC = "AutoGen, gRPC"
AUTOGEN_SINGLE = "AutoGen, one process"
ACADEMY = "Academy"
MOJENTIC_DEFAULT = "mojentic, default batch"
MOJENTIC_TUNED = "mojentic, tuned batch"
MOJENTIC_QUIET = "mojentic, tuned, no debug log"


def p99(values: Sequence[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of the table.

    Attributes:
        name: stable; ends in the unit.
        title: over the column.
        unit: of its values.
        measurement: which yields it (`driving.MEASUREMENTS`).
        samples: name of what that writes.
        reckon: makes one value of all rounds' samples.
    """

    name: str
    title: str
    unit: str
    measurement: str
    samples: str
    reckon: Callable[[Sequence[float]], float] = statistics.median


FIGURES = (
    Figure("sequential_p50_ms", "call\np50", "ms", "sequential", "sequential_p50_ms"),
    Figure("in_flight_64_per_s", "calls, 64\nin flight", "/s", "in_flight", "in_flight_64_per_s"),
    Figure(
        "fan_out_deliveries_per_s",
        "publish 1→16\ndeliveries",
        "/s",
        "fan_out",
        "fan_out_deliveries_per_s",
    ),
    Figure("new_agents_per_s", "new\nagents", "/s", "new_agents", "new_agents_per_s"),
    Figure("idle_agent_bytes", "idle\nagent", "bytes", "new_agents", "idle_agent_bytes"),
    Figure("pattern_events_per_s", "pattern\nevents", "/s", "pattern", "pattern_events_per_s"),
    Figure("idle_dispatch_p50_ms", "idle\np50", "ms", "idle", "idle_dispatch_ms"),
    Figure("idle_dispatch_p99_ms", "idle\np99", "ms", "idle", "idle_dispatch_ms", p99),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure of agentray's shall reach.

    Attributes:
        figure: its name.
        system: which agentray.
        bound: the least ratio to `of`; without it, what the value shall stay below.
        of: the system that it is compared with; None: none, the value itself counts.
    """

    figure: str
    system: str
    bound: float
    of: str | None = None


TARGETS = (
    Target("in_flight_64_per_s", AGENTRAY_2, 20, AUTOGEN_GRPC),
    Target("in_flight_64_per_s", AGENTRAY_2, 50, ACADEMY),
    Target("fan_out_deliveries_per_s", AGENTRAY_2, 5, AUTOGEN_GRPC),
    Target("pattern_events_per_s", AGENTRAY_2, 1, MOJENTIC_TUNED),
    Target("pattern_events_per_s", AGENTRAY_1, 3, MOJENTIC_TUNED),
    Target("pattern_events_per_s", AGENTRAY_2, 100, MOJENTIC_DEFAULT),
    Target("idle_dispatch_p50_ms", AGENTRAY_2, 5),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a target.

    Attributes:
        target: that is meant.
        value: agentray's figure, or its ratio to the other's; None: one of them is missing.
    """

    target: Target
    value: float | None

    @property
    def reached(self) -> bool:
        """Whether it is reached; what was not measured is not."""
        if self.value is None:
            return False
        bound = self.target.bound
        return self.value < bound if self.target.of is None else self.value >= bound


@dataclass(slots=True)
class Samples:
    """What all systems measured in all rounds."""

    taken: defaultdict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failed: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def add(self, system: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in what one system wrote in one round."""
        for line in lines:
            if "failed" in line:
                self.failed[system, line["failed"]] = line["why"]
                continue
            for name, values in line.items():
                self.taken[system, name].extend(values)

    def value(self, system: str, figure: Figure) -> float | None:
        """Return a figure; None: the system does not have it, or failed in all rounds."""
        values = self.taken.get((system, figure.samples))
        return figure.reckon(values) if values else None

    def failure(self, system: str, figure: Figure) -> str | None:
        """Return why a figure's measurement failed, in the last round in which it did."""
        return self.failed.get((system, figure.measurement))


def outcomes(samples: Samples, targets: Sequence[Target] = TARGETS) -> list[Outcome]:
    """Return what became of the targets."""
    by_name = {figure.name: figure for figure in FIGURES}
    found: list[Outcome] = []
    for target in targets:
        figure = by_name[target.figure]
        ours = samples.value(target.system, figure)
        if target.of is None or ours is None:
            found.append(Outcome(target, ours))
            continue
        theirs = samples.value(target.of, figure)
        found.append(Outcome(target, ours / theirs if theirs else None))
    return found


def as_json(samples: Samples, systems: Sequence[str]) -> dict[str, Any]:
    """Return figures, failures and targets as JSON values."""
    figures = [
        {
            "system": system,
            "figure": figure.name,
            "unit": figure.unit,
            "value": _rounded(samples.value(system, figure)),
            "samples": [_rounded(each) for each in samples.taken[system, figure.samples]],
        }
        for system in systems
        for figure in FIGURES
        if (system, figure.samples) in samples.taken
    ]
    failed = [
        {"system": system, "measurement": name, "why": why}
        for (system, name), why in samples.failed.items()
    ]
    targets = [
        {**asdict(o.target), "value": _rounded(o.value), "reached": o.reached}
        for o in outcomes(samples)
    ]
    return {"figures": figures, "failed": failed, "targets": targets}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
