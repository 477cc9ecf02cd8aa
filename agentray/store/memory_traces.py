"""Traces, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice

from agentray.protocol.traces import ALL_TRACES, RunTrace, TraceQuery, TraceSummary
from agentray.store.codec import check_trace, decode_spans, encode_spans


class MemoryTraces:
    """The part of a `Store` for traces."""

    _traces: dict[str, tuple[TraceSummary, str]]

    async def put_traces(self, traces: Sequence[RunTrace]) -> None:
        """Keep traces of runs that have ended; one that a run has already is replaced."""
        for trace in traces:
            check_trace(trace)
        kept = {t.summary.run: (t.summary, encode_spans(t.spans)) for t in traces}
        self._traces.update(kept)

    async def get_trace(self, run_id: str) -> RunTrace | None:
        """Return the trace of a run; None: it has none yet, or not any more."""
        if run_id not in self._traces:
            return None
        summary, spans = self._traces[run_id]
        return RunTrace(summary=summary, spans=decode_spans(spans))

    async def list_traces(
        self, query: TraceQuery = ALL_TRACES, *, limit: int = 50
    ) -> list[TraceSummary]:
        """Return traces without their spans, newest first."""
        found = (
            of
            for of in reversed(self._traces_by_age())
            if query.correlation_id in {None, of.correlation_id}
            and (query.agent_type is None or query.agent_type in of.agent_types)
            and (query.event is None or _names(query.event, of.events))
            and (query.since is None or of.started_at >= query.since)
            and (query.until is None or of.started_at < query.until)
            and query.errors in {None, of.errors > 0}
        )
        return list(islice(found, limit))

    async def prune_traces(self, before: datetime, *, keep: int, limit: int) -> int:
        """Forget traces that started before a time, and those beyond the newest `keep`."""
        oldest_first = self._traces_by_age()
        beyond = len(oldest_first) - keep
        pruned = [
            of.run
            for place, of in enumerate(oldest_first)
            if place < beyond or of.started_at < before
        ][:limit]
        for run_id in pruned:
            del self._traces[run_id]
        return len(pruned)

    def _traces_by_age(self) -> list[TraceSummary]:
        kept = (summary for summary, _ in self._traces.values())
        return sorted(kept, key=lambda of: (of.started_at, of.run))


def _names(name: str, full_names: Iterable[str]) -> bool:
    """Whether a name is one of these, or the last part of one."""
    return any(full == name or full.endswith(f".{name}") for full in full_names)
