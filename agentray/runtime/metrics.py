"""What a host counts: in plain Python per message, handed over in bulk every few seconds.

`METRICS` is the whole list; the guide's page of metrics has the same table. To record into a
metrics system costs some microseconds a call, as much as half a message: so nothing is handed over
per message, histograms included, which travel as counters of their buckets.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING

from agentray.protocol.envelope import Kind
from agentray.runtime.ports import Metric, MetricsPort, Reading

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of a handler's seconds."""

_FOLD = 1024
"""Durations that are put into their buckets together."""

_WALK = 10_000
"""Agents that are counted in one turn of the event loop."""

_HOST = ("host",)
_TYPE = ("host", "agent_type")

METRICS = {
    metric.name: metric
    for metric in (
        Metric("agentray_messages", "counter", (*_TYPE, "kind"), "Messages that agents handled."),
        Metric("agentray_message_errors", "counter", _TYPE, "Messages that ended with an error."),
        Metric(
            "agentray_handler_seconds_bucket",
            "counter",
            (*_TYPE, "le"),
            "Messages whose handler took at most `le` seconds; a histogram.",
        ),
        Metric("agentray_handler_seconds_count", "counter", _TYPE, "Messages in the histogram."),
        Metric("agentray_handler_seconds_sum", "counter", _TYPE, "Seconds that handlers took."),
        Metric("agentray_activations", "counter", _TYPE, "Agents that came into memory."),
        Metric("agentray_restarts", "counter", _TYPE, "Restarts after errors of loops and timers."),
        Metric("agentray_start_failures", "counter", _TYPE, "Starts of agents that failed."),
        Metric("agentray_agents_in_memory", "gauge", _TYPE, "Agents in memory."),
        Metric("agentray_mailbox_depth", "gauge", _TYPE, "Messages that wait for their agents."),
        Metric(
            "agentray_dead_letters",
            "counter",
            (*_HOST, "reason", "what"),
            "Dead letters, by reason and by the name of the event, action or agent type.",
        ),
        Metric(
            "agentray_lost_dead_letters", "counter", _HOST, "Of these, those that were not kept."
        ),
        Metric("agentray_runs_begun", "counter", _HOST, "Attempts at runs that began."),
        Metric("agentray_runs_ended", "counter", (*_HOST, "status"), "Runs that ended, by status."),
        Metric("agentray_runs_under_way", "gauge", _HOST, "Runs that hosts work on."),
        Metric("agentray_dropped_traces", "counter", _HOST, "Traces that were not written."),
    )
}

_KINDS = {int(kind): kind.name.lower() for kind in (Kind.CALL, Kind.TELL, Kind.EVENT, Kind.STREAM)}
_KINDS[0] = "own"  # ticks of timers, turns of loops: see `own_turn`


class TypeMeter:
    """Counters of one agent type; they only rise.

    Attributes:
        kinds: messages by their kind.
    """

    __slots__ = (
        "_buckets", "_durations", "activations", "errors", "kinds", "restarts", "seconds",
        "start_failures",
    )  # fmt: skip

    def __init__(self) -> None:
        self.kinds = [0] * (max(_KINDS) + 1)
        self.seconds = 0.0
        self.errors = 0
        self.activations = 0
        self.restarts = 0
        self.start_failures = 0
        self._durations: list[float] = []  # that are in no bucket yet
        self._buckets = [0] * (len(BUCKETS_S) + 1)

    def handled(self, kind: int, seconds: float, error: BaseException | None) -> None:
        """Count a message that was handled, with everything that it committed."""
        if error is not None:
            self.errors += 1
        self.kinds[kind] += 1
        durations = self._durations
        durations.append(seconds)
        if len(durations) == _FOLD:
            self.fold()

    def fold(self) -> list[int]:
        """Return how many handlers took at most as long as each bound, and how many in all."""
        # Sorted at once and not looked up one by one: a fifth of the time.
        durations, self._durations = sorted(self._durations), []
        self.seconds += sum(durations)
        for place, bound in enumerate(BUCKETS_S):
            self._buckets[place] += bisect_right(durations, bound)
        self._buckets[-1] += len(durations)
        return self._buckets


class Meters(dict[str, TypeMeter]):
    """The counters of each agent type, made when they are first needed."""

    def __missing__(self, agent_type: str) -> TypeMeter:
        made = self[agent_type] = TypeMeter()
        return made


class HostMetrics:
    """Counts for one host, and hands over what has changed."""

    def __init__(self, host: Host, port: MetricsPort, interval_s: float) -> None:
        """Count; `run` hands over.

        Args:
            host: what is counted.
            port: where readings go.
            interval_s: how often.
        """
        self._host = host
        self._port = port
        self._interval_s = interval_s
        self.meters = Meters()
        self._told: Counter[tuple[str, tuple[str, ...]]] = Counter()  # of counters, so far
        self._shown: set[tuple[str, tuple[str, ...]]] = set()  # gauges that are not 0

    # Handing over

    async def run(self) -> None:
        """Hand over what has changed, time and again."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.report()
            except Exception:
                # The next report may succeed; a host without metrics would look idle.
                logger.exception("metrics were not reported", extra={"action": "report_failed"})

    async def report(self) -> None:
        """Hand over what has changed since the last time."""
        gauges = self._gauges(await self._agents())
        readings = [*self._increases(), *gauges]
        if readings:
            await self._port.report(readings)

    def _increases(self) -> list[Reading]:
        increases: list[Reading] = []
        for (name, tags), value in self._counters().items():
            more = value - self._told[name, tags]
            if more > 0:
                self._told[name, tags] = value  # pyright: ignore[reportArgumentType] - seconds
                increases.append(self._reading(name, tags, more))
        return increases

    def _counters(self) -> dict[tuple[str, tuple[str, ...]], float]:
        found: dict[tuple[str, tuple[str, ...]], float] = {}
        for agent_type, meter in self.meters.items():
            of = (agent_type,)
            for kind, name in _KINDS.items():
                found["agentray_messages", (*of, name)] = meter.kinds[kind]
            found["agentray_message_errors", of] = meter.errors
            found["agentray_activations", of] = meter.activations
            found["agentray_restarts", of] = meter.restarts
            found["agentray_start_failures", of] = meter.start_failures
            buckets = meter.fold()
            for bound, count in zip((*BUCKETS_S, "+Inf"), buckets, strict=True):
                found["agentray_handler_seconds_bucket", (*of, str(bound))] = count
            found["agentray_handler_seconds_count", of] = buckets[-1]
            found["agentray_handler_seconds_sum", of] = meter.seconds
        letters = self._host.dead_letters
        for (reason, name), count in letters.counts.items():
            found["agentray_dead_letters", (reason.value, name)] = count
        found["agentray_lost_dead_letters", ()] = letters.lost
        runs = self._host.runs
        for status, count in runs.ended.items():
            found["agentray_runs_ended", (status,)] = count
        found["agentray_runs_begun", ()] = runs.begun
        found["agentray_dropped_traces", ()] = runs.traces.dropped
        return found

    def _gauges(self, agents: Counter[str]) -> list[Reading]:
        depths: Counter[str] = Counter()
        for agent in self._host.turns.agents():  # where nothing is handled, nothing waits
            depths[agent.id.type] += agent.queued
        now: dict[tuple[str, tuple[str, ...]], float]
        now = {("agentray_agents_in_memory", (kind,)): count for kind, count in agents.items()}
        now |= {("agentray_mailbox_depth", (kind,)): count for kind, count in depths.items()}
        now["agentray_runs_under_way", ()] = len(self._host.runs)
        gone = dict.fromkeys(self._shown - now.keys(), 0)
        self._shown = {key for key, value in now.items() if value}
        return [self._reading(*key, value) for key, value in (now | gone).items()]

    async def _agents(self) -> Counter[str]:
        """Count the agents in memory; there may be a million, so in several turns of the loop."""
        ids = self._host.residents.ids()
        agents: Counter[str] = Counter()
        for first in range(0, len(ids), _WALK):
            agents.update([agent.type for agent in ids[first : first + _WALK]])
            await asyncio.sleep(0)
        return agents

    def _reading(self, name: str, tags: tuple[str, ...], value: float) -> Reading:
        keys = METRICS[name].tags
        return Reading(name, dict(zip(keys, (self._host.host_id, *tags), strict=True)), value)
