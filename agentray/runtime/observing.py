"""Watching messages being handled: for metrics, and for OpenTelemetry where it is configured.

A host that is asked for neither has no observer, and its messages pay one comparison with None.
"""

from __future__ import annotations

from time import perf_counter

from agentray.context import Context
from agentray.protocol.envelope import Envelope
from agentray.runtime.metrics import Meters
from agentray.runtime.spans import begin_process
from agentray.telemetry import Span, Telemetry


class Observer:
    """Sees each message that the agents of a host handle begin and end."""

    __slots__ = ("_host_id", "_meters", "_spans")

    def __init__(self, host_id: str, meters: Meters | None, spans: Telemetry | None) -> None:
        self._host_id = host_id
        self._meters = meters
        self._spans = spans

    def begin(self, envelope: Envelope, context: Context) -> tuple[float, Span | None]:
        """See that a handler is about to be called; what it returns is for `end`."""
        span = None
        if self._spans is not None and envelope.kind:  # an agent's own turns are nobody's message
            span = begin_process(self._spans, envelope, context, self._host_id)
        return perf_counter(), span

    def end(
        self,
        seen: tuple[float, Span | None],
        envelope: Envelope,
        error: BaseException | None,
    ) -> None:
        """See that it has ended, with everything that it committed."""
        if self._meters is not None:
            meter = self._meters[envelope.type]
            meter.handled(envelope.kind, perf_counter() - seen[0])
            if error is not None:
                meter.errors += 1
        if seen[1] is not None:
            seen[1].end(error)
