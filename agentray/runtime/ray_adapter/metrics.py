"""Metrics to Ray, which exports them to Prometheus from each of its nodes."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ray.util import metrics

from agentray.runtime.metrics import METRICS
from agentray.runtime.ports import Reading


class RayMetrics:
    """A `MetricsPort` that keeps readings in Ray's own metrics."""

    def __init__(self) -> None:
        self._made: dict[str, metrics.Counter | metrics.Gauge] = {}

    async def report(self, readings: Sequence[Reading]) -> None:
        """See `ports.MetricsPort`."""
        # In a thread: each reading costs some microseconds, and the agents shall go on meanwhile.
        await asyncio.to_thread(self._report, readings)

    def _report(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            made = self._made.get(reading.name) or self._make(reading.name)
            if isinstance(made, metrics.Counter):
                made.inc(reading.value, tags=dict(reading.tags))
            else:
                made.set(reading.value, tags=dict(reading.tags))

    def _make(self, name: str) -> metrics.Counter | metrics.Gauge:
        metric = METRICS[name]
        kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
        made = self._made[name] = kind(name, description=metric.help, tag_keys=metric.tags)
        return made
