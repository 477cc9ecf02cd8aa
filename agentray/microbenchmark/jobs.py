"""Rows of jobs' logs, against what `ray job logs --follow` does on the same job."""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import json
import shlex
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import aiohttp
from ray.job_submission import JobSubmissionClient

from agentray.ids import new_id
from agentray.microbenchmark.rows import Row, at_least, at_most
from agentray.microbenchmark.scale import Scale

FOLLOW = "ray job logs --follow, the same job"

_WATCHERS = 200
_MARK = "printed at "
_MANY = "for n in range({lines}): print(n, 'epoch loss accuracy and whatever else a job prints')"
_TICKS = (
    "import time\n"
    "for n in range({ticks}):\n"
    f"    print('{_MARK}%.6f' % time.time(), flush=True); time.sleep(0.25)"
)
_PATIENCE_S = 120.0


async def measure_jobs(url: str, api_key: str, dashboard_url: str, scale: Scale) -> list[Row]:
    """Measure how fast a log is read, how soon a line is there, and how many may watch."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout
    ) as session:
        client = _Client(session, url, JobSubmissionClient(dashboard_url))
        lines = 20_000 if scale.rounds <= 1 else 200_000
        return [*await _speed(client, lines), await _latency(client)]


class _Client:
    """Both ways to a job's log."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, ray_jobs: JobSubmissionClient
    ) -> None:
        self._session = session
        self._jobs = f"{url}/v1/jobs"
        self._ray = ray_jobs

    async def submit(self, code: str) -> str:
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
        body = {"entrypoint": command, "submission_id": new_id("bench")}
        async with self._session.post(self._jobs, json=body) as answer:
            answer.raise_for_status()
            return (await answer.json())["job_id"]

    async def ended(self, job_id: str) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                path = f"{self._jobs}/{job_id}?wait_s=30"
                async with self._session.get(path) as answer:
                    if (await answer.json())["end_time"]:
                        return

    async def forget(self, job_id: str) -> None:
        async with self._session.delete(f"{self._jobs}/{job_id}") as answer:
            answer.raise_for_status()

    async def ours(self, job_id: str) -> AsyncIterator[list[str]]:
        """Yield lines as they come, as a client reads them."""
        address = f"{self._jobs}/{job_id}/logs?format=frames"
        async with self._session.ws_connect(address) as socket:
            async for message in socket:
                frame: dict[str, Any] = json.loads(message.data)
                if frame["type"] == "lines":
                    yield [entry[1] for entry in frame["lines"]]

    async def rays(self, job_id: str) -> AsyncIterator[list[str]]:
        """Yield lines as they come, as Ray's own command prints them."""
        async for text in self._ray.tail_job_logs(job_id):
            yield text.splitlines()


async def _speed(client: _Client, lines: int) -> list[Row]:
    job_id = await client.submit(_MANY.format(lines=lines))
    await client.ended(job_id)
    ours = await _lines_per_s(client.ours(job_id), lines)
    rays = await _lines_per_s(client.rays(job_id), lines)
    begin = time.perf_counter()
    counts = await asyncio.gather(*(_count(client.ours(job_id)) for _ in range(_WATCHERS)))
    took = time.perf_counter() - begin
    complete = sum(count >= lines for count in counts)
    await client.forget(job_id)
    return [
        Row("log_tail_lines_per_s", ours, "lines/s", FOLLOW, rays, at_least(5)),
        Row("log_200_tails_lines_per_s", sum(counts) / took, "lines/s", FOLLOW, rays),
        Row("log_200_tails_complete", complete, "tails", "all of them", _WATCHERS, at_least(1.0)),
    ]


async def _lines_per_s(parts: AsyncIterator[list[str]], lines: int) -> float:
    begin, seen = time.perf_counter(), 0
    async with aclosing(parts) as reading:  # pyright: ignore[reportArgumentType] - a generator
        async for part in reading:
            seen += len(part)
            if seen >= lines:
                break
    return seen / (time.perf_counter() - begin)


async def _count(parts: AsyncIterator[list[str]]) -> int:
    return sum([len(part) async for part in parts])


async def _latency(client: _Client) -> Row:
    job_id = await client.submit(_TICKS.format(ticks=16))
    ours, rays = await asyncio.gather(
        _delays_ms(client.ours(job_id)), _delays_ms(client.rays(job_id))
    )
    await client.ended(job_id)
    await client.forget(job_id)
    target = at_most(300, "value")
    return Row("log_line_p50_ms", ours, "ms", FOLLOW, rays, target)


async def _delays_ms(parts: AsyncIterator[list[str]]) -> float:
    """Return how long after its print a line is there, in the middle."""
    delays: list[float] = []
    async for part in parts:
        now = time.time()
        delays += [
            1000 * (now - float(line.removeprefix(_MARK)))
            for line in part
            if line.startswith(_MARK)
        ]
    return statistics.median(delays)
