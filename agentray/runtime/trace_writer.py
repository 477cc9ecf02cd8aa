"""Writes traces behind the ends of their runs, so that no handler waits for them.

A trace is many times as large as the run's end: in that transaction it would be waited for by all
whose commits are gathered in it. So it follows in a batch of its own. What waits is bounded; where
traces come faster than they can be written, the newest are dropped, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from agentray.errors import AgentrayError, StoreUnavailable
from agentray.protocol.runs import Run, Span
from agentray.protocol.traces import RunTrace, summarise
from agentray.protocol.trusted import trusted
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store

logger = logging.getLogger(__name__)

MAX_WAITING_SPANS = 50_000
"""Spans that wait to be written, of one host: some 20 MB. Further traces are dropped."""

MAX_BATCH = 64
_BATCH_SPANS = 500
"""Spans of one batch, after which no further trace is begun: making them ready takes the event
loop some 5 ms."""

LINGER_S = 0.1
"""How long traces that come right after others are gathered: each transaction takes from the same
disk and processors as those for which somebody waits. The first one is written at once."""

_RETRY_S = 0.5
_CLOSE_S = 5.0

SPAN_FIELDS = tuple(Span.model_fields)
"""In the order in which an `Outcome` carries them."""


class Ended(NamedTuple):
    """What a run left behind.

    Attributes:
        run: as it ended.
        trace_id: of its W3C trace context.
        spans: in the order of `SPAN_FIELDS`.
        dropped_spans: how many more there were.
    """

    run: Run
    trace_id: str
    spans: Sequence[tuple[Any, ...]]
    dropped_spans: int = 0


class TraceWriter:
    """The traces of one host's runs on their way to the Store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[Ended] = deque()
        self._spans = 0  # of those that wait
        self._enough = asyncio.Event()  # of them, for a batch; or they shall wait no longer
        self._closing = False
        self._tasks = TaskSet("traces")
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Traces that were not written."""

    def keep(self, ended: Ended) -> None:
        """Let the trace of a run that has ended be written, soon; it never waits."""
        if not ended.spans:
            return
        if self._spans + len(ended.spans) > MAX_WAITING_SPANS:
            self._drop(1, "they come faster than they can be written")
            return
        self._waiting.append(ended)
        self._spans += len(ended.spans)
        if self._fills_a_batch:
            self._enough.set()
        if self._task is None:
            self._task = self._tasks.spawn(self._write(), name="write traces")

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_batch(self._take())
                await self._gather()
        finally:
            # No await since none was seen waiting, so none can be left without a writer.
            self._task = None

    async def _gather(self) -> None:
        """Let a batch come together. Full ones wait for nothing: what waits shall not grow."""
        if self._closing or self._fills_a_batch:
            return
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._enough.wait()

    @property
    def _fills_a_batch(self) -> bool:
        return len(self._waiting) >= MAX_BATCH or self._spans >= _BATCH_SPANS

    def _take(self) -> list[Ended]:
        batch: list[Ended] = []
        spans = 0
        while self._waiting and len(batch) < MAX_BATCH and spans < _BATCH_SPANS:
            batch.append(self._waiting.popleft())
            spans += len(batch[-1].spans)
        return batch

    async def _write_batch(self, batch: list[Ended]) -> None:
        traces = [_trace_of(ended) for ended in batch]
        try:
            while True:
                try:
                    await self._store.put_traces(traces)
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY_S)
                else:
                    return
        except AgentrayError as error:
            if len(batch) == 1:
                self._drop(1, str(error))
                return
            # One of them cannot be kept: find it, and keep the others.
            self._spans += sum(len(ended.spans) for ended in batch)
            for ended in batch:
                await self._write_batch([ended])
        finally:
            self._spans -= sum(len(ended.spans) for ended in batch)

    def _drop(self, traces: int, why: str) -> None:
        if self.dropped == 0:  # once is enough: the counter tells the rest
            logger.warning("traces are dropped: %s", why, extra={"action": "trace_dropped"})
        self.dropped += traces

    async def close(self) -> None:
        """Write what waits, at most for a few seconds."""
        self._closing = True
        self._enough.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=_CLOSE_S)
        await self.abandon()

    async def abandon(self) -> None:
        """Stop at once; what waits is lost, as with the process."""
        await self._tasks.close()
        self._waiting.clear()


def _trace_of(ended: Ended) -> RunTrace:
    spans = [trusted(Span, dict(zip(SPAN_FIELDS, fields, strict=True))) for fields in ended.spans]
    return summarise(ended.run, ended.trace_id, spans, ended.dropped_spans)
