"""Debouncing: what comes quickly one after the other is handled once, when it is quiet again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, ClassVar

from agentray.agent import Agent, AgentOptions, on
from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.patterns.declared import declares_nothing
from agentray.patterns.emitted import emitted


class Debouncer:
    """Lets the last one of a burst through.

    ::

        if await self.debouncer.settles():
            ...  # nothing came after this for quiet_s seconds
    """

    def __init__(self, quiet_s: float, max_wait_s: float | None = None) -> None:
        """Make one.

        Args:
            quiet_s: seconds without another one after which the last one is let through.
            max_wait_s: seconds after the first one of a burst at which the latest is let through
                although others still come; None: it is never.

        Raises:
            ConfigurationError: one of them is not more than 0.
        """
        if not (quiet_s > 0 and (max_wait_s is None or max_wait_s > 0)):
            raise ConfigurationError("quiet_s and max_wait_s are more than 0 seconds.")
        self._quiet_s = quiet_s
        self._max_wait_s = math.inf if max_wait_s is None else max_wait_s
        self._latest: asyncio.Event | None = None  # set when it is not the latest any more
        self._at_last = 0.0

    async def settles(self) -> bool:
        """Return True when it has been quiet since; False as soon as another one comes."""
        now = asyncio.get_running_loop().time()
        if self._latest is None:
            self._at_last = now + self._max_wait_s
        else:
            self._latest.set()
        mine = self._latest = asyncio.Event()
        try:
            async with asyncio.timeout_at(min(now + self._quiet_s, self._at_last)):
                await mine.wait()
        except TimeoutError:
            return self._latest is mine
        finally:
            if self._latest is mine:
                self._latest = None
        return False


class DebounceAgent(Agent):
    """Handles the latest event of each burst.

    ::

        class Indexer(DebounceAgent):
            events = (DocumentChanged,)
            key = "field:document"
            quiet_s = 2.0
            max_wait_s = 30.0

            async def settled(self, event: Event) -> Indexed: ...

    An event is acknowledged when a later one replaces it or when it has been handled, so runs wait
    for that. When its host dies, a durable run is tried again; events of no run are lost. Where
    `settled` takes longer than `quiet_s`, the next one does not wait for it.

    Attributes:
        events: the event types; all together are one burst.
        key: which instance gets an event, as for `on`: each has bursts of its own.
        quiet_s: seconds without another event.
        max_wait_s: seconds after a burst's first event at which the latest is handled anyway; None:
            it waits until it is quiet.
    """

    options = AgentOptions(concurrency=None)
    events: ClassVar[tuple[type[Event], ...]] = ()
    key: ClassVar[str] = "correlation"
    quiet_s: ClassVar[float] = 1.0
    max_wait_s: ClassVar[float | None] = None
    _debounce: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if declares_nothing(cls):
            super().__init_subclass__(**kwargs)
            return
        if cls.settled is DebounceAgent.settled:
            raise ConfigurationError(
                f"{cls.__name__} does nothing: write `async def settled(self, event)`."
            )
        Debouncer(cls.quiet_s, cls.max_wait_s)
        cls._debounce = on(*cls.events, key=cls.key)(_debouncing_method())
        cls.options = cls.options.model_copy(update={"concurrency": None})
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        self._debouncer = Debouncer(self.quiet_s, self.max_wait_s)

    async def settled(self, event: Any) -> Any:
        """Handle the latest event; what it returns is published."""
        raise NotImplementedError

    async def _one(self, event: Event) -> list[Event]:
        if not await self._debouncer.settles():
            return []
        return await emitted(self.settled(event), f"{type(self).__name__}.settled")


def _debouncing_method() -> Callable[..., Any]:
    async def _debounce(self: DebounceAgent, event: Event) -> list[Event]:
        return await self._one(event)  # pyright: ignore[reportPrivateUsage] # its own method

    return _debounce
