"""What an aggregator has gathered of one conversation. It decides only: no clock, no waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.patterns.branches import BranchFailed

E = TypeVar("E", bound=Event)


class Gathered:
    """The events that an aggregator has: `events[TextSubmitted]` is a TextSubmitted.

    Iterating gives the events in the order in which they came.

    Attributes:
        missing: names of the event types of which there are fewer than needed.
        failures: what branches told instead of sending their events.
    """

    __slots__ = ("_events", "failures", "missing")

    def __init__(
        self,
        events: tuple[Event, ...],
        missing: tuple[str, ...] = (),
        failures: tuple[BranchFailed, ...] = (),
    ) -> None:
        """Made by the aggregator."""
        self._events = events
        self.missing = missing
        self.failures = failures

    def __getitem__(self, event: type[E]) -> E:
        name = event.event_type
        for known in self._events:
            if type(known) is event or known.event_type == name:
                return cast("E", known)
        raise KeyError(name)

    def all(self, event: type[E]) -> tuple[E, ...]:
        """Return the events of a type, in the order in which they came."""
        # By name, which stays the same when a notebook cell defines the class again.
        name = event.event_type
        return tuple(cast("E", known) for known in self._events if known.event_type == name)

    def __contains__(self, event: object) -> bool:
        """Whether there is an event of this type, or this very event."""
        if isinstance(event, type) and issubclass(event, Event):
            return bool(self.all(event))
        return any(event is known for known in self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)


class GatheringStatus(BaseModel):
    """How far an aggregator is."""

    model_config = ConfigDict(frozen=True)

    missing: tuple[str, ...] = Field(description="Types of which fewer than needed have come.")
    ignored: int = Field(description="Events that made no difference: surplus and late ones.")
    ended: bool = Field(default=False, description="There are enough, or they were given up.")
    waiting: int = Field(default=0, description="How many wait for the result.")


class Taken(Enum):
    """What became of an event."""

    COUNTED = auto()
    LAST = auto()  # it counted, and completes them
    DUPLICATE = auto()  # it has been counted before
    SURPLUS = auto()  # there are enough of its type
    LATE = auto()  # they were complete, or given up, before it came


class Gathering:
    """Counts events until there are enough of them.

    Attributes:
        ended: they are complete, or were given up.
        ignored: events that made no difference, other than duplicates.
    """

    __slots__ = (
        "_counts", "_events", "_failed", "_ids", "_needs", "_quorum", "_total", "ended", "ignored",
    )  # fmt: skip

    def __init__(self, needs: Mapping[str, int], quorum: int) -> None:
        """Wait for events.

        Args:
            needs: how many of which type, by the types' names.
            quorum: how many of all of these are enough.
        """
        self._needs = needs
        self._quorum = quorum
        self._counts = dict.fromkeys(needs, 0)
        self._total = 0  # of these
        self._events: list[tuple[str, Event]] = []  # with what makes each the same as another
        self._ids: set[str] = set()
        self._failed: dict[str, BranchFailed] = {}
        self.ended = False
        self.ignored = 0

    @property
    def begun(self) -> bool:
        """Whether something has come."""
        return bool(self._ids or self._failed)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the types of which there are fewer than needed."""
        counts = self._counts
        return tuple([name for name, need in self._needs.items() if counts[name] < need])

    @property
    def complete(self) -> bool:
        """Whether there are enough."""
        return self._total >= self._quorum

    @property
    def exhausted(self) -> bool:
        """Whether each event has come or its branch has failed, and there are not enough."""
        if not self._failed:
            return False  # where each event has come, it is complete
        failed = Counter(failure.instead_of for failure in self._failed.values())
        told = all(self._counts[name] + failed[name] >= n for name, n in self._needs.items())
        return told and not self.complete

    def gathered(self) -> Gathered:
        """Return what there is."""
        events = tuple([event for _, event in self._events])
        return Gathered(events, self.missing, tuple(self._failed.values()))

    def take(self, identity: str, event: Event) -> Taken:
        """Take an event in.

        Args:
            identity: equal for events that are the same.
            event: of a needed type.
        """
        if identity in self._ids:
            return Taken.DUPLICATE
        if self.ended:
            return Taken.LATE
        name = event.event_type
        if self._counts[name] >= self._needs[name]:
            self.ignored += 1
            return Taken.SURPLUS
        self._count(name, identity, event)
        if self._total < self._quorum:
            return Taken.COUNTED
        self.ended = True
        return Taken.LAST

    def take_late(self, identity: str, event: Event) -> None:
        """Take in one that came late; where there are enough of its type, instead of the oldest."""
        name = event.event_type
        if self._counts[name] >= self._needs[name]:
            oldest = next(i for i, (_, e) in enumerate(self._events) if e.event_type == name)
            self._ids.discard(self._events.pop(oldest)[0])
            self._counts[name] -= 1
            self._total -= 1
        self._count(name, identity, event)

    def fail(self, identity: str, failure: BranchFailed) -> None:
        """Note that a branch has failed; of a type that is not needed it makes no difference."""
        name = failure.instead_of
        same_type = sum(known.instead_of == name for known in self._failed.values())
        if not self.ended and same_type < self._needs.get(name, 0):
            self._failed.setdefault(identity, failure)

    def drop(self) -> None:
        """Forget the events; which ones they were is still known."""
        self._events.clear()
        self._failed.clear()

    def _count(self, name: str, identity: str, event: Event) -> None:
        self._ids.add(identity)
        self._counts[name] += 1
        self._total += 1
        self._events.append((identity, event))


def needed(cls_name: str, needs: Any, quorum: Any) -> tuple[dict[str, int], int]:
    """Return what an aggregator's class says that it needs, by the types' names, and its quorum.

    Raises:
        ConfigurationError: it is said wrongly.
    """
    counts = _counts(needs)
    if counts is None:
        raise ConfigurationError(
            f"{cls_name}.needs names the event types to wait for, each once: "
            "needs = (TextSubmitted, TextSummarised); or how many of each: needs = {Vote: 5}."
        )
    total = sum(counts.values())
    enough = total if quorum is None else quorum
    if type(enough) is not int or not 1 <= enough <= total:
        raise ConfigurationError(
            f"{cls_name}.quorum is how many of the {total} needed events are enough: {quorum!r}."
        )
    return counts, enough


def _counts(needs: Any) -> dict[str, int] | None:
    if isinstance(needs, Mapping):
        counted = list(cast("Mapping[Any, Any]", needs).items())
    elif isinstance(needs, tuple | list):
        counted = [(event, 1) for event in cast("tuple[Any, ...]", needs)]
    else:
        return None
    right = all(
        isinstance(event, type) and issubclass(event, Event) and type(n) is int and n >= 1
        for event, n in counted
    )
    counts: dict[str, int] = {e.event_type: n for e, n in counted} if right else {}
    return counts if counts and len(counts) == len(counted) else None
