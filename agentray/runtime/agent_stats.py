"""What an incarnation counts of itself: plain integers, so that counting costs next to nothing."""

from __future__ import annotations

from typing import Any

from agentray.protocol.codec import text_of

_MAX_ERROR = 500

NO_COUNTERS: dict[str, Any] = {
    "queued": 0,
    "running": 0,
    "completed": 0,
    "failed": 0,
    "restarts": 0,
    "missed_ticks": 0,
    "last_error": None,
}
"""Of an agent that is not in memory; as `Incarnation.counters`."""


class AgentStats:
    """Counters of one agent since it came into memory.

    Attributes:
        completed: messages and turns of its own that it handled.
        failed: those that ended with an error.
        restarts: how often it was restarted since it came into memory.
        missed_ticks: ticks of its timers that fell out.
        last_error: type and message of the last error; None: there was none.
    """

    __slots__ = ("completed", "failed", "last_error", "missed_ticks", "restarts")

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.restarts = 0
        self.missed_ticks = 0
        self.last_error: str | None = None

    def error(self, error: BaseException) -> None:
        """Note an error."""
        self.failed += 1
        self.note(error)

    def note(self, error: BaseException) -> None:
        """Keep an error as the last one, without counting a message."""
        self.last_error = f"{type(error).__name__}: {text_of(error)}"[:_MAX_ERROR]
