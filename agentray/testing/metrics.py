"""Metrics that remember what was handed to them, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from agentray.runtime.metrics import METRICS
from agentray.runtime.ports import Reading


class RecordedMetrics:
    """A `MetricsPort` that keeps the sum of each counter and the last value of each gauge.

    Attributes:
        reports: how often readings came.
    """

    def __init__(self) -> None:
        self.reports = 0
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    async def report(self, readings: Sequence[Reading]) -> None:
        """See `ports.MetricsPort`."""
        self.reports += 1
        for name, tags, value in readings:
            key = name, frozenset(tags.items())
            before = self._values.get(key, 0) if METRICS[name].kind == "counter" else 0
            self._values[key] = before + value

    def value(self, name: str, **tags: str) -> float:
        """Return the sum of a metric's values with these tags, whatever its other tags are."""
        wanted = set(tags.items())
        return sum(v for (n, of), v in self._values.items() if n == name and wanted <= of)

    def tags(self, name: str, tag: str) -> set[str]:
        """Return the values that a metric's tag has had."""
        return {dict(of)[tag] for n, of in self._values if n == name}
