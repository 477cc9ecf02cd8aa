"""AutoGen's agents, the same on both of its runtimes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autogen_core import (
    AgentRuntime,
    MessageContext,
    RoutedAgent,
    TopicId,
    TypeSubscription,
    message_handler,
    try_get_known_serializers_for_type,
)

from benchmarks.peers.tally import SINK, Tally
from benchmarks.peers.work import SUBSCRIBERS, analyse, combine, summarise


@dataclass
class Ping:
    value: int


@dataclass
class Pong:
    value: int


@dataclass
class Noted:
    value: int


@dataclass
class Ticked:
    value: int


@dataclass
class Text:
    correlation: str
    text: str


@dataclass
class Analysed:
    correlation: str
    words: int


@dataclass
class Summarised:
    correlation: str
    summary: str


@dataclass
class Combined:
    correlation: str
    text: str


MESSAGES = (Ping, Pong, Noted, Ticked, Text, Analysed, Summarised, Combined)

# A message's subscribers get it by its class's name as the topic, and each has one instance: a
# source of its own for each text would make agents that never leave.
_SOURCE = "all"


def topic(message: object) -> TopicId:
    """Return the topic of a message."""
    return TopicId(type(message).__name__.lower(), _SOURCE)


class Echo(RoutedAgent):
    @message_handler
    async def echo(self, message: Ping, ctx: MessageContext) -> Pong:
        return Pong(message.value)


class Subscriber(RoutedAgent):
    def __init__(self, slot: int) -> None:
        super().__init__("subscriber")
        self._slot = slot
        self._tally = Tally.here()

    @message_handler
    async def note(self, message: Noted, ctx: MessageContext) -> None:
        self._tally.add(self._slot)


class Listener(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("listener")
        self._tally = Tally.here()

    @message_handler
    async def tick(self, message: Ticked, ctx: MessageContext) -> None:
        self._tally.note(time.perf_counter())


class Analyser(RoutedAgent):
    @message_handler
    async def analyse(self, message: Text, ctx: MessageContext) -> None:
        found = Analysed(message.correlation, analyse(message.text))
        await self.publish_message(found, topic(found))


class Summariser(RoutedAgent):
    @message_handler
    async def summarise(self, message: Text, ctx: MessageContext) -> None:
        found = Summarised(message.correlation, summarise(message.text))
        await self.publish_message(found, topic(found))


class Aggregator(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("aggregator")
        self._gathered: dict[str, dict[type, Any]] = {}

    @message_handler
    async def text(self, message: Text, ctx: MessageContext) -> None:
        await self._gather(message)

    @message_handler
    async def analysed(self, message: Analysed, ctx: MessageContext) -> None:
        await self._gather(message)

    @message_handler
    async def summarised(self, message: Summarised, ctx: MessageContext) -> None:
        await self._gather(message)

    async def _gather(self, message: Text | Analysed | Summarised) -> None:
        gathered = self._gathered.setdefault(message.correlation, {})
        gathered[type(message)] = message
        if len(gathered) < 3:
            return
        del self._gathered[message.correlation]
        made = combine(gathered[Text].text, gathered[Analysed].words, gathered[Summarised].summary)
        combined = Combined(message.correlation, made)
        await self.publish_message(combined, topic(combined))


class Sink(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("sink")
        self._tally = Tally.here()

    @message_handler
    async def take(self, message: Combined, ctx: MessageContext) -> None:
        self._tally.add(SINK)


_Registration = Callable[[AgentRuntime], Awaitable[None]]


def _one(
    name: str, agent: type[RoutedAgent], make: Callable[[], RoutedAgent], *topics: str
) -> _Registration:
    async def register(runtime: AgentRuntime) -> None:
        await agent.register(runtime, name, make)
        for each in topics:
            await runtime.add_subscription(TypeSubscription(each, name))

    return register


def _subscriber(slot: int) -> _Registration:
    return _one(f"subscriber{slot}", Subscriber, lambda: Subscriber(slot), "noted")


_ALL = (
    _one("echo", Echo, lambda: Echo("echo")),
    _one("aggregator", Aggregator, Aggregator, "text", "analysed", "summarised"),
    _one("analyser", Analyser, lambda: Analyser("analyser"), "text"),
    _one("sink", Sink, Sink, "combined"),
    _one("summariser", Summariser, lambda: Summariser("summariser"), "text"),
    _one("listener", Listener, Listener, "ticked"),
    *(_subscriber(slot) for slot in range(SUBSCRIBERS)),
)


async def register(runtime: AgentRuntime, part: int, parts: int) -> None:
    """Register one part of the agent types: with two, each worker has half of them."""
    know_messages(runtime)
    for registration in _ALL[part::parts]:
        await registration(runtime)


def know_messages(runtime: AgentRuntime) -> None:
    """Let a runtime read and write all messages."""
    for message in MESSAGES:
        runtime.add_message_serializer(_serializers(message))


def _serializers(message: type) -> Sequence[Any]:
    return try_get_known_serializers_for_type(message)
