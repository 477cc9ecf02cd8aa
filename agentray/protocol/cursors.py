"""How far somebody has followed a run: the `id:` of its events as Server-Sent Events.

An event that is in the Store is known by its offset. One that was shown before it was written has
its attempt, too: should that be lost, other events will have these offsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from agentray.protocol.runs import EventKind, RunEvent, RunStatus

_BEFORE = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
_ENDS = frozenset(status.value for status in RunStatus if status not in _BEFORE)
_FORM = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?", re.ASCII)


class Cursor(NamedTuple):
    """The last event that somebody has seen of a run.

    Attributes:
        offset: of the event; -1: none was seen.
        attempt: that it belongs to, where it was not kept yet; None: it was.
    """

    offset: int = -1
    attempt: int | None = None

    def __str__(self) -> str:
        return str(self.offset) if self.attempt is None else f"{self.offset}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read the text of a cursor; None: it is none."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        offset, attempt = found.groups()
        return cls(int(offset), None if attempt is None else int(attempt))

    @classmethod
    def at(cls, event: RunEvent) -> Cursor:
        """Return the cursor of who has seen an event."""
        return cls(event.offset, event.attempt)

    @classmethod
    def of(cls, after: int | RunEvent) -> Cursor:
        """Return the cursor of who names an event, or its offset alone."""
        return cls.at(after) if isinstance(after, RunEvent) else cls(after)

    def precedes(self, event: RunEvent) -> bool:
        """Whether an event is news to who has come so far."""
        return event.offset > self.offset or self.going_back((event,)) is not None

    def going_back(self, kept: Iterable[RunEvent]) -> Cursor | None:
        """Return where to go on, when what was seen was lost before it was kept.

        Args:
            kept: events of the run that are in the Store.

        Returns:
            The cursor before the first of them that has taken the place of one that was seen.
            None: these say nothing of that.
        """
        if self.attempt is None:
            return None
        for event in kept:
            if event.offset > self.offset:
                return None
            if _is_later(event, self.attempt):
                return Cursor(event.offset - 1)
        return None


def _is_later(event: RunEvent, attempt: int) -> bool:
    """Whether an event in the Store comes after all that an attempt may have shown before."""
    match event.kind:
        case EventKind.ATTEMPT_LOST:
            return event.data.get("attempt", 0) >= attempt
        case EventKind.STARTED | EventKind.RESUMED:
            return event.data.get("attempt", 0) > attempt
        case _:
            return event.kind in _ENDS  # shown when it was kept, so it is not what was seen


NOTHING = Cursor()
"""Of who has seen nothing yet."""
