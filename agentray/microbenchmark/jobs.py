"""Rows of jobs' logs, against what `ray job logs --follow` does on the same job.

Both sides are read by the client that belongs to them: agentray's, and Ray's `JobSubmissionClient`,
with which that command reads. One after the other where a rate is measured, at the same time where
a delay is.
"""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import logging
import shlex
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from ray.job_submission import JobSubmissionClient

from agentray.client import AsyncAgentClient
from agentray.config import ClusterRecord, Settings
from agentray.ids import new_id
from agentray.microbenchmark.job_lists import database_of, measure_job_lists
from agentray.microbenchmark.rows import Row, at_least, at_most, in_turn, median_of
from agentray.microbenchmark.scale import Scale

FOLLOW = "ray job logs --follow, the same job"

_WATCHERS = 200
_MARK = "printed at "
_MANY = "for n in range({lines}): print(n, 'epoch loss accuracy and whatever else a job prints')"
_AT_ONCE = (
    "import time\n"
    f"print('{_MARK}%.6f' % time.time(), flush=True)\n"
    "for n in range(1, {lines}): print(n, 'epoch loss accuracy and whatever else a job prints')"
)
_TICKS = (
    "import time\n"
    "for n in range({ticks}):\n"
    "    for m in range({lines}): print('" + _MARK + "%.6f' % time.time())\n"
    "    print(end='', flush=True); time.sleep({pause_s})"
)
_PATIENCE_S = 120.0

Parts = AsyncGenerator[list[str]]
"""Lines as they come."""


async def measure_jobs(
    url: str, api_key: str, settings: Settings, record: ClusterRecord, scale: Scale
) -> list[Row]:
    """Measure how fast a log is read, how soon a line is there, and how many may watch.

    And how long a list of many jobs takes, where the address of the database is known.
    """
    rays = _Rays(record.dashboard_url)
    lines, many = (20_000, 200_000) if scale.rounds <= 1 else (200_000, 2_000_000)
    async with AsyncAgentClient(url, api_key) as client:
        ours = _Ours(client)
        rows = [
            await _ended(ours, rays, lines, scale.rounds),
            await _ended(ours, rays, many, scale.rounds),
            await _together(ours, rays, lines),
            await _running(ours, rays, lines, scale.rounds),
            *await _busy(ours, rays, scale.rounds),
            *await _delays(ours, rays, scale.rounds),
        ]
    if dsn := database_of(settings, record):
        rows += await measure_job_lists(url, api_key, dsn, settings, scale)
    return rows


@dataclass
class _Ours:
    """Jobs, and their logs as `agentray.client` reads them."""

    client: AsyncAgentClient

    @asynccontextmanager
    async def job(self, code: str) -> AsyncGenerator[str]:
        """Have a job for a while; it is waited for, and forgotten at the end."""
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
        job = await self.client.submit_job(command, submission_id=new_id("bench"))
        try:
            yield job.job_id
        finally:
            await self.ended(job.job_id)
            await self.client.delete_job(job.job_id)

    async def ended(self, job_id: str) -> None:
        """Return when a job has ended."""
        if not (await self.client.get_job(job_id, wait_s=_PATIENCE_S)).status.ended:
            raise RuntimeError(f"The job {job_id} does not end.")

    async def lines(self, job_id: str) -> Parts:
        """Yield lines as they come."""
        async with self.client.tail_job_logs(job_id) as tail:
            while part := await tail.batch():
                yield part


class _Rays:
    """Logs as Ray's own command reads them."""

    def __init__(self, dashboard_url: str) -> None:
        self._client = JobSubmissionClient(dashboard_url)
        # It tells of each end of a log, between the lines of the table.
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

    async def lines(self, job_id: str) -> Parts:
        """Yield lines as they come."""
        async for text in self._client.tail_job_logs(job_id):
            yield text.splitlines()


async def _ended(ours: _Ours, rays: _Rays, lines: int, rounds: int) -> Row:
    """Read the log of a job that has ended.

    Of more than one length: Ray waits for a second before it tells the last lines, which is most of
    the time that a short log takes.
    """
    async with ours.job(_MANY.format(lines=lines)) as job_id:
        await ours.ended(job_id)
        value, baseline = await in_turn(
            lambda: _lines_per_s(ours.lines(job_id), lines),
            lambda: _lines_per_s(rays.lines(job_id), lines),
            rounds,
        )
    name = f"log_tail_{lines // 1000}k_lines_per_s"
    return Row(name, value, "lines/s", FOLLOW, baseline, at_least(5))


async def _together(ours: _Ours, rays: _Rays, lines: int) -> Row:
    """Read such a log two hundred times at once."""
    async with ours.job(_MANY.format(lines=lines)) as job_id:
        await ours.ended(job_id)
        bare = await _lines_per_s(rays.lines(job_id), lines)
        begin = time.perf_counter()
        tails = (_lines_per_s(ours.lines(job_id), lines) for _ in range(_WATCHERS))
        await asyncio.gather(*tails)
        per_s = _WATCHERS * lines / (time.perf_counter() - begin)
    what = "one ray job logs --follow"
    return Row("log_200_tails_lines_per_s", per_s, "lines/s", what, bare)


async def _lines_per_s(parts: Parts, lines: int) -> float:
    """Return how many lines came per second, from the call to the last one."""
    begin, seen = time.perf_counter(), 0
    async with aclosing(parts):
        async for part in parts:
            seen += len(part)
            if seen >= lines:
                return seen / (time.perf_counter() - begin)
    raise RuntimeError(f"Of {lines} lines only {seen} came.")


async def _running(ours: _Ours, rays: _Rays, lines: int, rounds: int) -> Row:
    """Follow jobs that print as fast as they can: one for each reader, so that neither waits.

    Without a target: the job's own printing bounds it, at about a line in 5 us where Python writes
    each line by itself.
    """

    async def measure(read: Callable[[str], Parts]) -> float:
        async with ours.job(_AT_ONCE.format(lines=lines)) as job_id:
            return await _lines_per_s_since_print(read(job_id), lines)

    value, baseline = await in_turn(
        lambda: measure(ours.lines), lambda: measure(rays.lines), rounds
    )
    what = "ray job logs --follow, on such a job"
    return Row("log_tail_printing_lines_per_s", value, "lines/s", what, baseline)


async def _lines_per_s_since_print(parts: Parts, lines: int) -> float:
    """Return how many lines came per second, from the print of the first to the last one."""
    begin, seen = time.time(), 0
    async with aclosing(parts):
        async for part in parts:
            if marks := _marks(part):
                begin, seen = marks[0], 0
            seen += len(part)
            if seen >= lines:
                return seen / (time.time() - begin)
    raise RuntimeError(f"Of {lines} lines only {seen} came.")


async def _busy(ours: _Ours, rays: _Rays, rounds: int) -> list[Row]:
    """Follow one busy job two hundred times at once, while it prints."""
    ticks, each = (5, 50) if rounds <= 1 else (50, 100)
    code = _TICKS.format(ticks=ticks, lines=each, pause_s=0.1)
    async with ours.job(code) as job_id:
        bare = asyncio.create_task(_watch(rays.lines(job_id)))
        seen = await asyncio.gather(*(_watch(ours.lines(job_id)) for _ in range(_WATCHERS)))
        beside = await bare
    complete = sum(len(delays) == ticks * each for delays in seen)
    p50 = median_of([median_of(delays) for delays in seen])
    what = "one of ray job logs --follow beside them"
    return [
        Row("log_200_tails_complete", complete, "tails", "all of them", _WATCHERS, at_least(1.0)),
        Row("log_200_tails_line_p50_ms", p50, "ms", what, median_of(beside)),
    ]


async def _delays(ours: _Ours, rays: _Rays, rounds: int) -> list[Row]:
    """Follow jobs that print now and then from before their beginnings, both readers at once."""
    firsts: tuple[list[float], list[float]] = ([], [])
    others: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        async with ours.job(_TICKS.format(ticks=9, lines=1, pause_s=0.25)) as job_id:
            both = await asyncio.gather(_watch(ours.lines(job_id)), _watch(rays.lines(job_id)))
        for seen, first, other in zip(both, firsts, others, strict=True):
            first.append(seen[0])
            other.extend(seen[1:])
    value, baseline = map(statistics.median, firsts)
    target = at_most(300, "value")
    first = Row("log_first_line_p50_ms", value, "ms", FOLLOW, baseline, target)
    value, baseline = map(statistics.median, others)
    return [first, Row("log_line_p50_ms", value, "ms", FOLLOW, baseline, target)]


async def _watch(parts: Parts) -> list[float]:
    """Return how long after its print each line that says when that was is there, in ms."""
    delays: list[float] = []
    async for part in parts:
        now = time.time()
        delays += [1000 * (now - mark) for mark in _marks(part)]
    return delays


def _marks(part: list[str]) -> list[float]:
    return [float(line.removeprefix(_MARK)) for line in part if line.startswith(_MARK)]
