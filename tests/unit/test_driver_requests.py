"""Typed requests of drivers: started, waited for, looked at, cancelled; also without `await`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from agentray import ManagerClient, Prompt
from agentray.errors import (
    ConfigurationError,
    DeadlineExceeded,
    IdempotencyConflict,
    UnknownRequestType,
    UnknownRun,
)
from agentray.protocol.async_jobs import JobState
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async
from tests.support.request_agents import Helper, MakeReport, Reporter, Shared, reports_app


@asynccontextmanager
async def reporting(rows: int = 1000) -> AsyncGenerator[ManagerClient]:
    async with LocalRuntime(hosts=2) as manager:
        await manager.deploy(reports_app(rows))
        yield manager


async def test_a_request_is_answered():
    async with reporting() as manager:
        job = await manager.requests.send(MakeReport(rows=2, title="Two"))
        assert (job.state, job.response) == (JobState.COMPLETE, {"title": "Two", "rows": 2})
        assert job.type == "make-report"
        assert job.progress is not None
        assert (job.progress.message, job.progress.current, job.progress.total) == ("row 2", 2, 2)
        assert "make-report" in {each.name for each in manager.requests.types()}


async def test_one_that_goes_on_is_looked_at_and_cancelled():
    async with reporting(rows=1) as manager:
        token = await manager.requests.start(MakeReport(rows=3), agent="reporter/slow")

        async def one_row() -> bool:
            job = await manager.requests.get(token)
            return job.progress is not None and job.progress.current == 1

        await eventually_async(one_row)
        job = await manager.requests.get(token, wait_s=0.05)
        assert (job.state, job.agent) == (JobState.PROCESSING, "reporter/slow")
        ended = await manager.requests.cancel(token)
        assert (ended.state, ended.error and ended.error.type) == (JobState.FAILED, "Cancelled")
        assert (await manager.requests.cancel(token)).state is JobState.FAILED


async def test_who_waits_too_short_is_told_and_the_same_key_finds_it_again():
    async with reporting(rows=0) as manager:
        asked = MakeReport(rows=1)
        with pytest.raises(DeadlineExceeded):
            await manager.requests.send(asked, timeout=0.05, idempotency_key="k")
        Reporter.rows.release()
        job = await manager.requests.send(MakeReport(rows=1), idempotency_key="k")
        assert job.state is JobState.COMPLETE
        with pytest.raises(IdempotencyConflict):
            await manager.requests.start(MakeReport(rows=2), idempotency_key="k")


async def test_errors_fail_it_or_are_told():
    async with reporting() as manager:
        job = await manager.requests.send(MakeReport(rows=1, title="fail"))
        assert (job.state, job.error and job.error.message) == (JobState.FAILED, "no paper")
        job = await manager.requests.send(Shared(text="x"), agent=Reporter, on_error="collect")
        assert job.state is JobState.COMPLETE
        assert len(job.failures) == 1


async def test_what_cannot_be_asked_is_refused():
    async with reporting() as manager:
        with pytest.raises(ConfigurationError, match=r"manager\.prompt"):
            await manager.requests.start(Prompt(text="x"))
        with pytest.raises(ConfigurationError, match="helper or reporter"):
            await manager.requests.start(Shared(text="x"))
        with pytest.raises(UnknownRequestType):
            await manager.requests.start(MakeReport(rows=1), agent=Helper)
        with pytest.raises(ConfigurationError, match="run_timeout_s"):
            await manager.requests.start(MakeReport(rows=1), run_timeout_s=-1)
        with pytest.raises(ConfigurationError, match="on_error"):
            await manager.requests.start(MakeReport(rows=1), on_error="x")  # pyright: ignore[reportArgumentType]
        run = await manager.prompt("x", agent="helper")
        for token in ("run_none", "run_\0", run.id):
            with pytest.raises(UnknownRun):
                await manager.requests.get(token)


def test_the_same_without_await():
    with LocalRuntime(hosts=1) as manager:
        manager.deploy(reports_app())
        token = manager.requests.start(MakeReport(rows=1))
        assert manager.requests.get(token, wait_s=30).state is JobState.COMPLETE
        assert manager.requests.send(MakeReport(rows=1)).state is JobState.COMPLETE
        assert manager.requests.cancel(token).state is JobState.COMPLETE
        assert manager.requests.types()
