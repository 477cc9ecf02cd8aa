"""The agents that are measured: they do nothing, so that what remains is the way to them."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import BaseModel

from agentray.agent import Agent, AgentOptions, action, on
from agentray.app import App
from agentray.events import Event, Prompt
from agentray.microbenchmark.rows import per_second, sequential_p50_ms

POOL = "microbenchmark"
"""Their own, so that they neither disturb other agents nor leave anything behind."""

FAILOVER_POOL = f"{POOL}_failover"
"""Of those whose hosts are killed."""

_LONG_S = 600.0  # nothing that is measured may leave memory meanwhile


class Echo(Agent):
    """Answers at once."""

    options = AgentOptions(name="microbenchmark_echo", pool=POOL, idle_timeout_s=_LONG_S)

    @action
    async def echo(self, value: int) -> int:
        """Return the value."""
        return value

    @action
    async def count(self, items: int, *, apart: bool) -> AsyncIterator[int]:
        """Yield that many numbers, all at once or each in a turn of the event loop of its own."""
        for number in range(items):
            yield number
            if apart:
                await asyncio.sleep(0)

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        """Return the prompt."""
        return prompt.text


def text_of(words: int) -> str:
    """Return the text of that many words which the speaker says."""
    return "".join(f"{number} " for number in range(words))


class Speaker(Agent):
    """Says as many words as it is asked for, each in a turn of the event loop of its own."""

    options = AgentOptions(
        name="microbenchmark_speaker", pool=POOL, concurrency=None, idle_timeout_s=_LONG_S
    )

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        """Say words; asked for none, wait until it is cancelled."""
        if not prompt.text.isdecimal():
            await asyncio.sleep(_LONG_S)
            return ""
        for number in range(int(prompt.text)):
            self.context.stream_text(f"{number} ")
            await asyncio.sleep(0)
        return prompt.text


class DurableEcho(Agent):
    """Answers prompts at once, in the pool that everybody uses."""

    options = AgentOptions(name="microbenchmark_durable", concurrency=None, idle_timeout_s=_LONG_S)

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        """Return the prompt."""
        return prompt.text


class Burst(Event):
    """Begins a run of many events."""

    parts: int


class Part(Event):
    """One of them."""

    number: int


class Done(Event):
    """What a part leads to."""

    number: int


class Splitter(Agent):
    """Takes bursts apart."""

    options = AgentOptions(name="microbenchmark_splitter", concurrency=None)

    @on(Burst, key="any:16")
    async def split(self, burst: Burst) -> Sequence[Event]:
        """Return its parts."""
        return [Part(number=number) for number in range(burst.parts)]


class Worker(Agent):
    """Handles one part after the other."""

    options = AgentOptions(name="microbenchmark_worker", concurrency=None)

    @on(Part, key="any:64")
    async def work(self, part: Part) -> Done:
        """Return what it leads to."""
        return Done(number=part.number)


class Taker(Agent):
    """Takes what parts lead to."""

    options = AgentOptions(name="microbenchmark_taker", concurrency=None)

    @on(Done, key="any:64")
    async def take(self, done: Done) -> None:
        """Take it."""


class Tally(BaseModel):
    """What a survivor has counted."""

    count: int = 0


class Survivor(Agent):
    """Counts in its state, and tells where it lives; its hosts are killed."""

    options = AgentOptions(name="microbenchmark_survivor", pool=FAILOVER_POOL)
    state: Tally

    @action(idempotent=True)
    async def count(self) -> int:
        """Count one more; return the number."""
        self.state.count += 1
        return self.state.count

    @action(idempotent=True)
    async def place(self) -> tuple[str, int]:
        """Return the machine and the process that it lives in."""
        return socket.gethostname(), os.getpid()


class Sleeper(Agent):
    """Answers late, any number of calls at once."""

    options = AgentOptions(name="microbenchmark_sleeper", pool=POOL, concurrency=None)

    @action
    async def doze(self, seconds: float) -> float:
        """Wait, then return the seconds."""
        await asyncio.sleep(seconds)
        return seconds


class Peer(Agent):
    """Calls others of its kind, and measures it where it lives."""

    options = AgentOptions(name="microbenchmark_peer", pool=POOL, idle_timeout_s=_LONG_S)

    @action
    async def process(self) -> int:
        """Return the id of the process that it lives in."""
        return os.getpid()

    @action
    async def echo(self, value: int) -> int:
        """Return the value."""
        return value

    @action
    async def take(self, array: Any) -> int:
        """Return how many bytes the array has."""
        return array.nbytes

    @action
    async def calls_per_s(self, others: Sequence[str], in_flight: int, seconds: float) -> float:
        """Call others round robin, that many at once; return calls per second."""
        handles = itertools.cycle([self.handle(Peer, key) for key in others])

        async def call() -> Any:
            return await next(handles).echo(1)

        return await per_second(call, in_flight, seconds)

    @action
    async def send_p50_ms(self, other: str, array: Any, count: int) -> float:
        """Send an array to another one, again and again; return the median, in milliseconds."""
        peer = self.handle(Peer, other)

        async def send() -> Any:
            return await peer.take(array)

        return await sequential_p50_ms(send, count)


failover_app = App(
    "agentray_microbenchmark_failover", [Survivor], entry=None, pools=[FAILOVER_POOL]
)


class Talked(BaseModel):
    """What a session is about."""

    lines: list[str] = []


class Talker(Agent):
    """Keeps what it is told, and leaves memory soon."""

    options = AgentOptions(name="microbenchmark_talker", pool=POOL, idle_timeout_s=30.0)
    state: Talked

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        """Return the prompt, and keep it."""
        self.state.lines.append(prompt.text)
        return prompt.text


app = App(
    "agentray_microbenchmark", [Echo, Speaker, Sleeper, Peer, Talker], entry=None, pools=[POOL]
)


class OnOneHost(Agent):
    """Answers at once, from a pool of one host."""

    options = AgentOptions(
        name="microbenchmark_on_one_host", pool=f"{POOL}_1", idle_timeout_s=_LONG_S
    )

    @action
    async def echo(self, value: int) -> int:
        """Return the value."""
        return value


class OnTwoHosts(OnOneHost):
    """The same, from a pool of two."""

    options = AgentOptions(
        name="microbenchmark_on_two_hosts", pool=f"{POOL}_2", idle_timeout_s=_LONG_S
    )


class OnFourHosts(OnOneHost):
    """The same, from a pool of four."""

    options = AgentOptions(
        name="microbenchmark_on_four_hosts", pool=f"{POOL}_4", idle_timeout_s=_LONG_S
    )


BY_HOSTS: dict[int, type[OnOneHost]] = {1: OnOneHost, 2: OnTwoHosts, 4: OnFourHosts}
"""Agent types by how many hosts their pool has."""

growth_app = App(
    "agentray_microbenchmark_growth",
    list(BY_HOSTS.values()),
    pools=[agent.options.pool for agent in BY_HOSTS.values()],
)
