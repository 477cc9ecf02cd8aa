"""Collectors: the end of the line, where events are kept to be looked at."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from agentray.agent import Agent, AgentOptions, action, on
from agentray.events import Event
from agentray.patterns.declared import declares_nothing


class CollectorAgent(Agent):
    """Keeps the latest events of some types, in memory.

    ::

        class Audit(CollectorAgent):
            events = (OrderPlaced, OrderPaid)

        await manager.handle(Audit, "all").collected()

    Attributes:
        events: the event types.
        key: which instance gets an event, as for `on`; one for all by default.
        limit: of events that are kept; the oldest ones leave, and are counted.
    """

    options = AgentOptions(concurrency=None)
    events: ClassVar[tuple[type[Event], ...]] = ()
    key: ClassVar[str] = "key:all"
    limit: ClassVar[int] = 1000
    _collect: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if declares_nothing(cls):
            super().__init_subclass__(**kwargs)
            return
        cls._collect = on(*cls.events, key=cls.key)(_collecting_method())
        cls.options = cls.options.model_copy(update={"concurrency": None})
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=self.limit)
        self._came = 0
        self._changed = asyncio.Event()

    @action(idempotent=True)
    async def collected(self) -> list[Event]:
        """Return the events that are kept, in the order in which they came."""
        return list(self._events)

    @action(idempotent=True)
    async def came(self) -> int:
        """Return how many have come, with those that are not kept any more."""
        return self._came

    @action(idempotent=True)
    async def wait_for(self, count: int) -> list[Event]:
        """Return what is kept as soon as so many have come; the handle's deadline ends the wait."""
        while self._came < count:
            await self._changed.wait()
        return list(self._events)

    @action
    async def take(self) -> list[Event]:
        """Return what is kept, and keep it no longer."""
        taken = list(self._events)
        self._events.clear()
        return taken

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._came += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _collecting_method() -> Callable[..., Any]:
    async def _collect(self: CollectorAgent, event: Event) -> None:
        self._add(event)  # pyright: ignore[reportPrivateUsage] # its own method

    return _collect
