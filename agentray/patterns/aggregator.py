"""Aggregators: agents that wait for events of several types and combine them.

::

    class ResultCombiner(AggregatorAgent):
        needs = (TextSubmitted, TextSummarised)

        async def combine(self, events: Gathered) -> Combined:
            return Combined(text=events[TextSubmitted].text, ...)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from agentray.agent import Agent, AgentOptions, action, on
from agentray.errors import ConfigurationError
from agentray.events import Event

E = TypeVar("E", bound=Event)


class Gathered:
    """One event of each type that an aggregator needs: `events[TextSubmitted]` is a TextSubmitted.

    Iterating gives the events in the order in which they came.
    """

    __slots__ = ("_events",)

    def __init__(self, events: Mapping[str, Event]) -> None:
        """Made by the aggregator.

        Args:
            events: by the name of their type, which unlike the class itself stays the same when a
                notebook cell defines it again.
        """
        self._events = dict(events)

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
    combined: bool = Field(description="Whether all had come and were handed to `combine`.")
    ignored: int = Field(description="Further events of types that were already there.")


class AggregatorAgent(Agent):
    """Waits for one event of each type in `needs`, in any order, and combines them once.

    There is an instance per correlation, so conversations cannot mix. Only events of exactly the
    types in `needs` count, and of each type the first: an event that is delivered again changes
    nothing, and a further one of the same type, before or after the combination, is ignored and
    counted. After the combination only those counts are kept, until the instance has been idle.

    The events are kept in memory. `options.idle_timeout_s` must therefore be longer than the
    slowest event may take after the one before it: an aggregator that leaves memory half full
    says in the log what it had been waiting for.

    Attributes:
        needs: the event types to wait for.
    """

    needs: ClassVar[tuple[type[Event], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        _check(cls)
        # The decorator names the event types, and only a subclass knows which: it gets its own.
        cls._gather = on(*cls.needs, key="correlation")(_make_gather())
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        self._events: dict[str, Event] = {}
        self._counted: frozenset[str] = frozenset()
        self._combined = False
        self._ignored = 0

    async def combine(self, events: Gathered) -> Event | Iterable[Event] | None:
        """Return what follows from the events. Called once, when all are there.

        An error here fails the run; the events are not combined again.
        """
        raise NotImplementedError

    @action(idempotent=True)
    async def gathering(self) -> GatheringStatus:
        """Return how far it is."""
        missing = () if self._combined else tuple(self._missing())
        return GatheringStatus(missing=missing, combined=self._combined, ignored=self._ignored)
