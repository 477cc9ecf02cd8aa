"""Reading traces, which are written right behind the ends of their runs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import Field

from agentray.core.lifecycle import TERMINAL
from agentray.errors import UnknownRun
from agentray.event_loop import time_of_day
from agentray.protocol.event_runs import RunOptions
from agentray.protocol.runs import EventKind, Span
from agentray.protocol.traces import RunTrace
from agentray.store.base import Store


class TracedSpan(Span):
    """A handled message, and when that was told."""

    time: datetime = Field(description="When it was told: `newer_than` compares with this.")


class SpanPage(NamedTuple):
    """Some spans of a run's trace, in the order in which they were told.

    Attributes:
        spans: those.
        more: there are others already.
        complete: the run has ended, and these are the last.
    """

    spans: list[TracedSpan]
    more: bool
    complete: bool


BEHIND_S = 2.0
"""How long after a run's end its trace may still be on its way, and so may the row of a run that is
kept at its end only: as long a run is waited for that nobody knows."""

_PAUSE_S = 0.02
_PAGE = 1000


async def read_trace(store: Store, run_id: str) -> RunTrace | None:
    """Return the trace of a run; of one that ended a moment ago, as soon as it is there.

    Returns:
        None when the run has not ended, and when its trace was dropped or forgotten.

    Raises:
        UnknownRun: there is none of this id.
    """
    run = None
    loop = asyncio.get_running_loop()
    late = loop.time() + BEHIND_S
    while (found := await store.get_trace(run_id)) is None:
        if run is None:
            stored = await store.get_run(run_id)
            if stored is None and loop.time() > late:
                raise UnknownRun(run_id)
            run = stored and stored.run
        if run is None:
            await asyncio.sleep(_PAUSE_S)
            continue
        ended = run.finished_at if run.status in TERMINAL else None
        if ended is None or time_of_day() - ended > timedelta(seconds=BEHIND_S):
            return None
        await asyncio.sleep(_PAUSE_S)
    return found


async def read_spans(
    store: Store, run_id: str, *, newer_than: datetime | None = None, limit: int = 1000
) -> SpanPage:
    """Return spans of a run: of a traced one those that there are, of others when it has ended.

    Args:
        store: where they are.
        run_id: of the run.
        newer_than: only those that were told after this time.
        limit: most of them, and as many more as were told at the time of the last one.

    Raises:
        UnknownRun: there is none of this id.
    """
    stored = await store.get_run(run_id)
    if stored is None:
        raise UnknownRun(run_id)
    ended = stored.run.status in TERMINAL
    traced = RunOptions.of_input(stored.input).trace
    spans = await _told(store, run_id) if traced else await _kept(store, run_id)
    newer = [span for span in spans if newer_than is None or span.time > newer_than]
    size = min(limit, len(newer))
    while size < len(newer) and newer[size].time == newer[size - 1].time:
        size += 1  # or the next page would leave it out
    return SpanPage(newer[:size], size < len(newer), ended and size == len(newer))


async def _told(store: Store, run_id: str) -> list[TracedSpan]:
    """Return the spans among a run's events."""
    spans: list[TracedSpan] = []
    after = -1
    while events := await store.run_events(run_id, after=after, limit=_PAGE):
        spans += [
            TracedSpan.model_validate({**event.data, "time": event.time})
            for event in events
            if event.kind == EventKind.SPAN
        ]
        after = events[-1].offset
    return spans


async def _kept(store: Store, run_id: str) -> list[TracedSpan]:
    """Return the spans of a trace that was written at the run's end."""
    found = await read_trace(store, run_id)
    ends = [
        (span.started_at + timedelta(milliseconds=span.duration_ms), span)
        for span in (found.spans if found else ())
    ]
    ends.sort(key=lambda each: each[0])
    return [TracedSpan(**span.model_dump(), time=end) for end, span in ends]
