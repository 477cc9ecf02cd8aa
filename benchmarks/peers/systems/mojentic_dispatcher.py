"""mojentic's `AsyncDispatcher`: one queue, one process, no calls and no agents at an address."""

from __future__ import annotations

import logging
import time
from typing import Any

import mojentic  # noqa: F401 - it configures logging when it is imported
import structlog
import uvloop
from mojentic.agents.async_aggregator_agent import AsyncAggregatorAgent
from mojentic.agents.base_async_agent import BaseAsyncAgent
from mojentic.async_dispatcher import AsyncDispatcher
from mojentic.event import Event
from mojentic.router import Router

from benchmarks.peers.driving import System, main, option
from benchmarks.peers.tally import SINK, Tally
from benchmarks.peers.work import SUBSCRIBERS, analyse, combine, summarise

DEFAULT_BATCH = 5


class Noted(Event):
    value: int


class Ticked(Event):
    value: int


class Text(Event):
    text: str


class Analysed(Event):
    words: int


class Summarised(Event):
    summary: str


class Combined(Event):
    text: str


class Subscriber(BaseAsyncAgent):
    def __init__(self, slot: int, tally: Tally) -> None:
        self._slot = slot
        self._tally = tally

    async def receive_event_async(self, event: Any) -> list[Event]:
        self._tally.add(self._slot)
        return []


class Listener(BaseAsyncAgent):
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    async def receive_event_async(self, event: Any) -> list[Event]:
        self._tally.note(time.perf_counter())
        return []


class Analyser(BaseAsyncAgent):
    async def receive_event_async(self, event: Any) -> list[Event]:
        words = analyse(event.text)
        return [Analysed(source=Analyser, correlation_id=event.correlation_id, words=words)]


class Summariser(BaseAsyncAgent):
    async def receive_event_async(self, event: Any) -> list[Event]:
        summary = summarise(event.text)
        return [Summarised(source=Summariser, correlation_id=event.correlation_id, summary=summary)]


class Aggregator(AsyncAggregatorAgent):
    def __init__(self) -> None:
        super().__init__([Text, Analysed, Summarised])

    async def process_events(self, events: list[Any]) -> list[Event]:
        by_type = {type(event): event for event in events}
        made = combine(by_type[Text].text, by_type[Analysed].words, by_type[Summarised].summary)
        correlation = by_type[Text].correlation_id
        return [Combined(source=Aggregator, correlation_id=correlation, text=made)]


class Mojentic(System):
    """A dispatcher with a batch size."""

    figures = ("fan_out", "pattern", "idle")

    def __init__(self, batch: int) -> None:
        super().__init__()
        router = Router()
        for slot in range(SUBSCRIBERS):
            router.add_route(Noted, Subscriber(slot, self.tally))
        router.add_route(Ticked, Listener(self.tally))
        aggregator = Aggregator()
        for agent in (Analyser(), Summariser(), aggregator):
            router.add_route(Text, agent)
        router.add_route(Analysed, aggregator)
        router.add_route(Summarised, aggregator)
        router.add_route(Combined, Subscriber(SINK, self.tally))
        self._dispatcher = AsyncDispatcher(router, batch_size=batch)
        if batch <= DEFAULT_BATCH:  # 50 events a second
            self.burst, self.texts = 50, 30

    async def start(self) -> None:
        await self._dispatcher.start()

    async def stop(self) -> None:
        await self._dispatcher.stop()

    async def publish(self, count: int) -> None:
        for number in range(count):
            self._dispatcher.dispatch(Noted(source=Mojentic, value=number))

    async def analyse(self, given: list[str]) -> None:
        self.tally.clear()
        for text in given:
            self._dispatcher.dispatch(Text(source=Mojentic, text=text))
        await self.sunk(len(given))

    async def dispatch(self) -> None:
        self._dispatcher.dispatch(Ticked(source=Mojentic, value=1))


if __name__ == "__main__":
    logging.disable(logging.INFO)
    if option("QUIET", ""):
        # Debug messages are formatted before they are thrown away, unless they are filtered here.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    main(lambda: Mojentic(int(option("BATCH", str(DEFAULT_BATCH)))), uvloop.run)
