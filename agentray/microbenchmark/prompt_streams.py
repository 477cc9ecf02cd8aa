"""Rows of prompts that are followed as Server-Sent Events, against a stream out of nothing."""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing

import aiohttp
import psutil
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray import serve

from agentray.microbenchmark.agents import Speaker, text_of
from agentray.microbenchmark.rows import Row, at_least, at_most, in_turn, median_ms
from agentray.microbenchmark.scale import Scale

STREAM = "streaming FastAPI deployment on Ray Serve"
_PREFIX = "/agentray-microbenchmark-streams"
_REPLICA = "ray::ServeReplica:agentray:gateway"
_STARTS = 10  # first chunks that are not counted
_FEW = 3  # words of which the first is waited for
_PATIENCE_S = 120.0

_api = FastAPI()


@_api.get("/words")
async def words(items: int) -> StreamingResponse:
    """Stream that many words as events, each in a turn of the event loop of its own."""

    async def spoken() -> AsyncIterator[bytes]:
        for number in range(items):
            yield b"event: text_delta\ndata: %s\n\n" % json.dumps({"text": f"{number} "}).encode()
            await asyncio.sleep(0)

    return StreamingResponse(spoken(), media_type="text/event-stream")


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
@serve.ingress(_api)
class Words:
    """The baseline."""


async def measure_prompt_streams(url: str, api_key: str, scale: Scale) -> list[Row]:
    """Measure how soon and how fast text comes of a prompt, and what streams cost that are idle."""
    name = "agentray-microbenchmark-streams"
    await asyncio.to_thread(serve.run, Words.bind(), name=name, route_prefix=_PREFIX)
    try:
        headers = {"Authorization": f"Bearer {api_key}"}
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=timeout
        ) as session:
            bench = _Bench(session, url)
            rows = [await bench.first_chunk(scale), await bench.chunks_per_s(scale)]
            return rows + await bench.idle(scale)
    finally:
        await asyncio.to_thread(serve.delete, name)


class _Bench:
    """Measures with one session."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def first_chunk(self, scale: Scale) -> Row:
        """Measure the time from a request to the first text."""

        async def ours() -> float:
            return await _first_p50_ms(lambda: self._ours(_FEW), scale.sequential)

        async def bare() -> float:
            return await _first_p50_ms(lambda: self._bare(_FEW), scale.sequential)

        await _first_p50_ms(lambda: self._ours(_FEW), _STARTS)
        await _first_p50_ms(lambda: self._bare(_FEW), _STARTS)
        value, baseline = await in_turn(ours, bare, scale.rounds)
        name = "prompt_stream_first_chunk_p50_ms"
        return Row(name, value, "ms", STREAM, baseline, at_most(1.5))

    async def chunks_per_s(self, scale: Scale) -> Row:
        """Measure how many words come in a second, however many of them come together."""

        async def ours() -> float:
            return await _words_per_s(self._ours(scale.stream_items), scale.stream_items)

        async def bare() -> float:
            items = scale.bare_stream_items
            return await _words_per_s(self._bare(items), items)

        value, baseline = await in_turn(ours, bare, scale.rounds)
        name = "prompt_stream_chunks_per_s"
        return Row(name, value, "chunks/s", STREAM, baseline, at_least(0.7))

    async def idle(self, scale: Scale) -> list[Row]:
        """Measure what so many streams cost that follow a run in which nothing happens."""
        body = {"prompt": "wait", "agent": Speaker.agent_type.name, "wait_s": 0}
        async with self._session.post(f"{self._url}/v1/prompts", json=body) as answer:
            answer.raise_for_status()
            run = await answer.json()
        before, streams = _replica_bytes(), scale.idle_streams
        begun = time.perf_counter()
        async with AsyncExitStack() as stack:

            async def follow() -> None:
                url = f"{self._url}/v1/runs/{run['id']}/events"
                stream = await stack.enter_async_context(self._session.get(url))
                stream.raise_for_status()
                await stream.content.readuntil(b"event: started")

            await asyncio.gather(*(follow() for _ in range(streams)))
            took_s = time.perf_counter() - begun
            kb = max(0, _replica_bytes() - before) / streams / 1000
        cancel = f"{self._url}/v1/runs/{run['id']}/cancel"
        async with self._session.post(cancel, json={"wait_s": 10}) as answer:
            answer.raise_for_status()
        one = f"each of {streams:,}, opened at once"
        return [
            Row("idle_streams_open_s", took_s, "s", one, took_s / streams),
            Row("idle_stream_kb", kb, "kB", f"all {streams:,}", kb * streams),
        ]

    async def _ours(self, items: int) -> AsyncGenerator[str]:
        body = {"prompt": str(items), "agent": f"{Speaker.agent_type.name}/a", "stream": True}
        async with self._session.post(f"{self._url}/v1/prompts", json=body) as answer:
            answer.raise_for_status()
            async for text in _texts(answer, nested=True):
                yield text

    async def _bare(self, items: int) -> AsyncGenerator[str]:
        async with self._session.get(f"{self._url}{_PREFIX}/words?items={items}") as answer:
            answer.raise_for_status()
            async for text in _texts(answer, nested=False):
                yield text


async def _texts(answer: aiohttp.ClientResponse, *, nested: bool) -> AsyncGenerator[str]:
    """Yield the texts of a stream of Server-Sent Events."""
    wanted = False
    async for line in answer.content:
        if line.startswith(b"event: "):
            wanted = line == b"event: text_delta\n"
        elif wanted and line.startswith(b"data: "):
            told = json.loads(line[6:])
            yield told["data"]["text"] if nested else told["text"]


async def _first_p50_ms(stream: Callable[[], AsyncGenerator[str]], count: int) -> float:
    """Return the median time to the first text of streams, one after the other, in milliseconds."""
    times: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        async with aclosing(stream()) as texts:
            await anext(texts)
            times.append(time.perf_counter() - begun)
            async for _ in texts:  # the run ends before the next one begins
                pass
    return median_ms(times)


async def _words_per_s(stream: AsyncGenerator[str], words: int) -> float:
    """Read a stream to its end; return words per second.

    Raises:
        RuntimeError: other words came; then there is nothing to be measured.
    """
    begun = time.perf_counter()
    async with aclosing(stream) as texts:
        said = "".join([text async for text in texts])
    took_s = time.perf_counter() - begun
    if said != text_of(words):
        raise RuntimeError(f"Of {words} words other ones came: {len(said.split())}.")
    return words / took_s


def _replica_bytes() -> int:
    """Return the private memory of the gateway's replicas on this machine."""
    found = 0
    for process in psutil.process_iter():
        try:
            if " ".join(process.cmdline()).startswith(_REPLICA):
                found += process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
