"""The rows of listing ten thousand jobs, beside the same records as the database gives them.

Jobs that nobody runs are put into the Store for it, through its own interface, and taken out at the
end; those that were there before stay.
"""

# asyncpg has no types of its own.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aiohttp
import asyncpg

from agentray.client import AsyncAgentClient
from agentray.config import ClusterRecord, Settings
from agentray.ids import new_id
from agentray.microbenchmark.rows import Row, at_most, medians, sequential_p50_ms
from agentray.microbenchmark.scale import Scale
from agentray.protocol.jobs import Job, JobStatus
from agentray.store.embedded import EmbeddedPostgres
from agentray.store.jobs import NewJob
from agentray.store.postgres import PostgresStore

_JOBS = 10_000
_CHUNK = 200
_LISTS = 5  # in each round
_SAME = "SELECT record, report, stop_at FROM jobs ORDER BY created_at DESC, id DESC LIMIT 10000"


def database_of(settings: Settings, record: ClusterRecord) -> str | None:
    """Return the DSN of the Store of the cluster that this machine has put up; None: unknown."""
    if record.embedded_database:
        return EmbeddedPostgres(settings.postgres_dir).url
    return settings.database_url


async def measure_job_lists(
    url: str, api_key: str, dsn: str, settings: Settings, scale: Scale
) -> list[Row]:
    """Measure how long it takes to list ten thousand jobs: the answer, and read into records."""
    store = PostgresStore(dsn)
    await store.open()
    try:
        async with _known(store, _oldest(settings)):
            client, http, bare = await _measure(url, api_key, dsn, scale.rounds)
    finally:
        await store.close()
    name, target = f"job_list_{_JOBS // 1000}k", at_most(150, "value")
    what = "the same records by bare asyncpg"
    read = "the same answer by bare aiohttp, not read"
    return [
        Row(f"{name}_p50_ms", http, "ms", what, bare, target),
        Row(f"{name}_client_p50_ms", client, "ms", read, http),
    ]


def _oldest(settings: Settings) -> datetime:
    """Return a time older than that of all jobs, so that none is pruned to make room for these."""
    days = max(settings.job_retention_days - 1 / 24, 0)
    return datetime.now(UTC) - timedelta(days=days)


@asynccontextmanager
async def _known(store: PostgresStore, at: datetime) -> AsyncGenerator[None]:
    ids = [new_id("bench") for _ in range(_JOBS)]
    chunks = [ids[first : first + _CHUNK] for first in range(0, _JOBS, _CHUNK)]
    try:
        for chunk in chunks:
            await store.find_jobs([_job(job_id, at) for job_id in chunk])
            # Their logs are read, as far as the manager is concerned: there are none.
            read = (store.job_log_read(id_, 0, whole=True, lost=False) for id_ in chunk)
            await asyncio.gather(*read)
        yield
    finally:
        for chunk in chunks:
            await asyncio.gather(*(store.delete_job(job_id) for job_id in chunk))


def _job(job_id: str, at: datetime) -> NewJob:
    ms = int(at.timestamp() * 1000)
    job = Job(
        job_id=job_id,
        submission_id=job_id,
        entrypoint="python train.py --epochs 3 --learning-rate 0.001",
        status=JobStatus.SUCCEEDED,
        message="Job finished successfully.",
        metadata={"team": "search", "job_submission_id": job_id},
        runtime_env={"env_vars": {"EPOCHS": "3"}, "working_dir": "gcs://_ray_pkg_0011223344.zip"},
        start_time=ms,
        end_time=ms,
    )
    return NewJob(job, at)


async def _measure(url: str, api_key: str, dsn: str, rounds: int) -> list[float]:
    address = f"{url}/v1/jobs?limit={_JOBS}"
    headers = {"Authorization": f"Bearer {api_key}"}
    async with (
        AsyncAgentClient(url, api_key) as client,
        aiohttp.ClientSession(headers=headers) as session,
        _connected(dsn) as connection,
    ):

        async def read() -> None:
            jobs = await client.list_jobs(limit=_JOBS)
            if len(jobs) != _JOBS:
                raise RuntimeError(f"Of {_JOBS} jobs {len(jobs)} are listed.")

        async def answer() -> None:
            async with session.get(address) as response:
                response.raise_for_status()
                await response.read()

        async def rows() -> None:
            await connection.fetch(_SAME)

        ways = (read, answer, rows)
        return await medians([partial(sequential_p50_ms, way, _LISTS) for way in ways], rounds)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncGenerator[Any]:
    connection: Any = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()
