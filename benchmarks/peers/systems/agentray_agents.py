"""agentray's agents."""

from __future__ import annotations

import time

from agentray import Agent, AgentOptions, App, Event, TerminateEvent, action, on
from agentray.patterns import AggregatorAgent, Gathered
from benchmarks.peers.tally import SINK, Tally
from benchmarks.peers.work import SUBSCRIBERS, analyse, combine, summarise

POOL = "bench_peers"
PUBLISHERS = "bench_peers_publishers"
"""The publisher has a host of its own, so that no delivery stays within a process."""

_LONG_S = 600.0  # nothing that is measured may leave memory meanwhile
_ANY = "any:8"


def _options(name: str, *, concurrency: int | None = 1, pool: str = POOL) -> AgentOptions:
    return AgentOptions(
        name=f"bench_peers_{name}", pool=pool, concurrency=concurrency, idle_timeout_s=_LONG_S
    )


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


class Done(TerminateEvent):
    text: str


class Echo(Agent):
    """Returns what it gets."""

    options = _options("echo")

    @action
    async def echo(self, value: int) -> int:
        """Return the value."""
        return value


class Publisher(Agent):
    """Publishes to the subscribers."""

    options = _options("publisher", pool=PUBLISHERS)

    @action
    async def publish(self, count: int) -> None:
        """Publish so many events."""
        for number in range(count):
            self.context.publish(Noted(value=number))


class Subscriber(Agent):
    """Counts what it gets; each of the sixteen types has one instance."""

    slot = 0

    async def on_start(self) -> None:
        """Open the tally."""
        self._tally = Tally.here()

    async def counted(self, _: Noted) -> None:
        """Count one."""
        self._tally.add(self.slot)


def _subscriber(slot: int) -> type[Subscriber]:
    async def note(self: Subscriber, noted: Noted) -> None:
        await self.counted(noted)

    body = {
        "slot": slot,
        "options": _options(f"subscriber_{slot}"),
        "note": on(Noted, key="key:one")(note),
    }
    return type(f"Subscriber{slot}", (Subscriber,), body)


class Listener(Agent):
    """Notes when something arrives."""

    options = _options("listener")

    async def on_start(self) -> None:
        """Open the tally."""
        self._tally = Tally.here()

    @on(Ticked, key="key:one")
    async def tick(self, _: Ticked) -> None:
        """Note it."""
        self._tally.note(time.perf_counter())


class Analyser(Agent):
    """Finds the words of a text."""

    options = _options("analyser", concurrency=None)

    @on(Text, key=_ANY)
    async def analyse(self, text: Text) -> Analysed:
        """Count them."""
        return Analysed(words=analyse(text.text))


class Summariser(Agent):
    """Finds the summary of a text."""

    options = _options("summariser", concurrency=None)

    @on(Text, key=_ANY)
    async def summarise(self, text: Text) -> Summarised:
        """Take the first sentence."""
        return Summarised(summary=summarise(text.text))


class Aggregator(AggregatorAgent):
    """Waits for three events; there is one for each text."""

    options = _options("aggregator", concurrency=None)
    needs = (Text, Analysed, Summarised)

    async def combine(self, events: Gathered) -> Combined:
        """Combine them."""
        words, summary = events[Analysed].words, events[Summarised].summary
        return Combined(text=combine(events[Text].text, words, summary))


class Sink(Agent):
    """Counts what comes out, and ends the run with it."""

    options = _options("sink", concurrency=None)

    async def on_start(self) -> None:
        """Open the tally."""
        self._tally = Tally.here()

    @on(Combined, key=_ANY)
    async def take(self, combined: Combined) -> Done:
        """Count it: each instance has a slot of its own."""
        self._tally.add(SINK + int(self.id.key))
        return Done(text=combined.text)


app = App(
    "agentray_bench_peers",
    [
        Echo,
        Publisher,
        Listener,
        Analyser,
        Summariser,
        Aggregator,
        Sink,
        *(_subscriber(slot) for slot in range(SUBSCRIBERS)),
    ],
    pools=[POOL, PUBLISHERS],
)
