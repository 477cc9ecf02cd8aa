"""Aggregators: agents that wait for events of several types and combine them.

::

    class ResultCombiner(AggregatorAgent):
        needs = (TextSubmitted, TextSummarised)

        async def combine(self, events: Gathered) -> Combined:
            return Combined(text=events[TextSubmitted].text, ...)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from agentray.agent import Agent, action, on
from agentray.errors import ConfigurationError
from agentray.events import Event

E = TypeVar("E", bound=Event)

logger = logging.getLogger(__name__)


class Gathered:
    """One event of each type that an aggregator needs: `events[TextSubmitted]` is a TextSubmitted.

    Iterating gives the events in the order in which they came.
    """

    __slots__ = ("_events",)

    def __init__(self, events: Mapping[str, Event]) -> None:
        """Made by the aggregator.

        Args:
            events: by the name of their type, which stays the same when a notebook cell defines
                the class again.
        """
        self._events = events

    def __getitem__(self, event: type[E]) -> E:
        return cast("E", self._events[event.event_type])

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events.values())

    def __len__(self) -> int:
        return len(self._events)


class GatheringStatus(BaseModel):
    """How far an aggregator is."""

    model_config = ConfigDict(frozen=True)

    missing: tuple[str, ...] = Field(description="Types of which no event has come yet.")
    ignored: int = Field(description="Events of a type of which another one had come before.")


class AggregatorAgent(Agent):
    """Waits for one event of each type in `needs`, in any order, and combines them once.

    There is an instance per correlation, so conversations cannot mix. Events of exactly the types
    in `needs` count, and of each type the first: the same event delivered again changes nothing;
    another one of its type, before the combination or after it, is ignored and counted. Once they
    are combined the events are dropped, and the instance leaves memory when it has been idle.

    The events are kept in memory only. `options.idle_timeout_s` must be longer than one event may
    take after the one before it; an aggregator that leaves half full logs what it waited for.

    Attributes:
        needs: the event types to wait for.
    """

    needs: ClassVar[tuple[type[Event], ...]] = ()
    _gather: ClassVar[Callable[..., Coroutine[Any, Any, Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        _check(cls)
        # Which events to handle is known here at the earliest, so each subclass gets a handler of
        # its own: `on` marks the function, and a shared one would collect everybody's marks.
        cls._gather = on(*cls.needs, key="correlation")(_gathering_method())
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        self._events: dict[str, Event] = {}
        self._counted: dict[str, str] = {}  # event type → the event that counts for it
        self._ignored = 0

    async def combine(self, events: Gathered) -> Event | Iterable[Event] | None:
        """Return what follows from the events; called once, when all of them are there.

        An error here fails the run, and they are not combined again.
        """
        raise NotImplementedError

    @action(idempotent=True)
    async def gathering(self) -> GatheringStatus:
        """Return how far it is."""
        return GatheringStatus(missing=self._missing(), ignored=self._ignored)

    async def on_stop(self) -> None:
        """Leave a trace of events that came to nothing."""
        if self._counted and (missing := self._missing()):
            logger.warning(
                "%s left memory while it waited for %s",
                self.id,
                ", ".join(missing),
                extra={"action": "gathering_incomplete", "agent": str(self.id)},
            )

    def _missing(self) -> tuple[str, ...]:
        return tuple(e.event_type for e in self.needs if e.event_type not in self._counted)

    def _count(self, event: Event) -> Gathered | None:
        """Take an event in; return all of them when it was the last one missing."""
        counted = self._counted.get(event.event_type)
        if counted is not None:
            self._ignored += counted != event.event_id
            return None
        self._counted[event.event_type] = event.event_id
        self._events[event.event_type] = event
        if self._missing():
            return None
        gathered, self._events = Gathered(self._events), {}
        return gathered


def _check(cls: type[AggregatorAgent]) -> None:
    if not cls.needs or len(set(cls.needs)) < len(cls.needs):
        raise ConfigurationError(
            f"{cls.__name__}.needs names the event types to wait for, each once: "
            "needs = (TextSubmitted, TextSummarised)."
        )
    if cls.combine is AggregatorAgent.combine:
        raise ConfigurationError(
            f"{cls.__name__} does not say what follows from its events: write "
            "`async def combine(self, events: Gathered)`."
        )


def _gathering_method() -> Callable[..., Coroutine[Any, Any, Any]]:
    async def _gather(self: AggregatorAgent, event: Event) -> Event | list[Event] | None:
        gathered = self._count(event)  # pyright: ignore[reportPrivateUsage] # its own method
        if gathered is None:
            return None
        combined = await self.combine(gathered)
        # An event is iterable as well: pydantic models give their fields.
        return combined if combined is None or isinstance(combined, Event) else list(combined)

    return _gather
