"""The keeper of jobs: what Ray says is kept, what waits is explained, logs outlive machines."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from agentray.core.jobs import MISSING_AFTER, NODE_LOST_AFTER, SUBMIT_AFTER
from agentray.errors import RayUnavailable
from agentray.event_loop import time_of_day
from agentray.protocol.jobs import Job, JobStatus
from agentray.runtime.job_keeper import JobKeeper, token_digest
from agentray.store.jobs import NewJob
from agentray.store.memory import MemoryStore
from tests.support.eventually import eventually_async
from tests.support.jobs import NODE, FileJobs
from tests.support.virtual_time import run


class World:
    """A store, jobs, and a keeper that looks after them."""

    def __init__(self, home: Path, log_bytes: int = 1 << 20) -> None:
        self.store = MemoryStore()
        self.jobs = FileJobs(home)
        self.log_bytes = log_bytes
        self.keeper = JobKeeper(self.store, self.jobs, log_bytes=log_bytes)
        self.keeper.start()

    async def another_manager(self) -> None:
        await self.keeper.close()
        self.keeper = JobKeeper(self.store, self.jobs, log_bytes=self.log_bytes)
        self.keeper.start()

    async def accept(self, job_id: str = "a", *, submit: bool = True) -> None:
        now = time_of_day()
        job = Job(
            job_id=job_id, submission_id=job_id, entrypoint="true",
            start_time=int(now.timestamp() * 1000),
        )  # fmt: skip
        spec = {"entrypoint": "true", "runtime_env": {"env_vars": {"A": "1"}}}
        await self.store.admit_job(NewJob(job, now, spec=spec, secrets={"S": "1"}))
        if submit:
            await self.jobs.submit(job_id, spec)
            await self.store.job_submitted(job_id)

    async def get(self, job_id: str = "a") -> Job:
        stored = await self.store.get_job(job_id)
        assert stored is not None
        return stored.job

    async def until(self, status: JobStatus, job_id: str = "a", timeout_s: float = 10) -> Job:
        async def there() -> Job | None:
            job = await self.get(job_id)
            return job if job.status is status else None

        found = await eventually_async(there, timeout_s)
        assert found is not None
        return found

    async def kept(self, job_id: str = "a") -> list[tuple[int, bytes]]:
        """What is kept of a log, in runs of bytes without a gap."""
        found: list[tuple[int, bytes]] = []
        at = 0
        while (part := await self.store.read_job_log(job_id, at)) is not None:
            begin, data = part
            if found and sum(map(len, found[-1][1:])) + found[-1][0] == begin:
                found[-1] = (found[-1][0], found[-1][1] + data)
            else:
                found.append((begin, data))
            at = begin + len(data)
        return found

    async def read(self, job_id: str = "a") -> None:
        """Wait until its log was read to its end."""

        async def there() -> bool:
            stored = await self.store.get_job(job_id)
            return stored is not None and (stored.log_whole or stored.log_lost)

        await eventually_async(there, 60)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """What runs a test's coroutine with a world, in virtual time."""

    def with_world(story: Any, **more: Any) -> None:
        async def whole() -> None:
            world = World(tmp_path, **more)
            try:
                await story(world)
            finally:
                await world.keeper.close()

        run(whole())

    return with_world


Story = Coroutine[Any, Any, None]


def test_the_record_follows_ray_to_the_end(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        assert (await w.until(JobStatus.RUNNING)).driver_node_id == NODE
        w.jobs.set("a", JobStatus.FAILED, message="exit code 3", end_time=7, driver_exit_code=3)
        job = await w.until(JobStatus.FAILED)
        assert (job.message, job.end_time, job.driver_exit_code) == ("exit code 3", 7, 3)

    world(story)


def test_a_job_whose_acceptor_died_is_given_to_ray_once(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept(submit=False)

        async def there() -> bool:
            return "a" in w.jobs.jobs

        await eventually_async(there, SUBMIT_AFTER.total_seconds() + 5)
        env_vars = w.jobs.specs["a"]["runtime_env"]["env_vars"]
        assert env_vars["A"] == "1"
        token = token_digest(env_vars["AGENTRAY_JOB_TOKEN"])
        assert await w.store.take_job_secrets("a", token) == {"S": "1"}
        assert await w.store.job_spec("a") is None

    world(story)


def test_what_ray_rejects_then_is_a_failure_with_its_cause(world: Any) -> None:
    async def story(w: World) -> None:
        w.jobs.rejects = "no such thing"
        await w.accept(submit=False)
        job = await w.until(JobStatus.FAILED, timeout_s=30)
        assert "no such thing" in (job.message or "")

    world(story)


def test_a_job_that_waits_says_what_for(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()

        async def told() -> bool:
            return (await w.get()).message == w.jobs.waits

        await eventually_async(told, 10)
        w.jobs.set("a", JobStatus.RUNNING, message="Job is currently running.")
        assert (await w.until(JobStatus.RUNNING)).message == "Job is currently running."

    world(story)


@pytest.mark.parametrize("stop", [False, True])
def test_a_job_whose_machine_is_gone_has_failed_unless_it_was_stopped(
    world: Any, stop: bool
) -> None:
    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        await w.until(JobStatus.RUNNING)
        if stop:
            await w.store.stop_job("a", time_of_day())
        w.jobs.alive = set()
        status = JobStatus.STOPPED if stop else JobStatus.FAILED
        job = await w.until(status, timeout_s=NODE_LOST_AFTER.total_seconds() + 5)
        assert NODE in (job.message or "")
        assert job.error_type == "NODE_LOST"

    world(story)


def test_a_machine_that_is_away_for_a_moment_costs_no_job(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        await w.until(JobStatus.RUNNING)
        w.jobs.alive = set()
        began = time_of_day()

        async def later(by_s: float) -> None:
            async def there() -> bool:
                return (time_of_day() - began).total_seconds() >= by_s

            await eventually_async(there, 60)

        await later(5)
        w.jobs.alive = {NODE}
        await later(40)
        assert (await w.get()).status is JobStatus.RUNNING

    world(story)


def test_a_head_that_was_lost_ends_its_jobs(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        await w.until(JobStatus.RUNNING)
        w.jobs.away = RayUnavailable("nobody answers")
        await w.another_manager()
        w.jobs.jobs.clear()
        w.jobs.away = None
        job = await w.until(JobStatus.FAILED, timeout_s=MISSING_AFTER.total_seconds() + 5)
        assert job.error_type == "HEAD_LOST"

    world(story)


def test_a_pending_job_is_stopped_although_ray_would_wait(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()
        await w.store.stop_job("a", time_of_day())

        async def killed() -> bool:
            return bool(w.jobs.killed)

        await eventually_async(killed, 20)
        assert w.jobs.stopped
        lost = {"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "died", "end_time": 7}
        w.jobs.set("a", JobStatus.FAILED, **lost)
        assert (await w.until(JobStatus.STOPPED)).message == "Job was intentionally stopped."

    world(story)


def test_a_job_that_was_deleted_at_its_end_does_not_come_back(world: Any) -> None:
    async def story(w: World) -> None:
        # What watched it at Ray has not seen that it was forgotten, and notes how it ended.
        await w.jobs.submit("gone", {"entrypoint": "Entrypoint not found."})
        w.jobs.set("gone", JobStatus.FAILED, message="Job supervisor actor died")
        await w.jobs.submit("other", {"entrypoint": "true"})

        async def found() -> bool:
            return await w.store.get_job("other") is not None and "gone" not in w.jobs.jobs

        await eventually_async(found, 10)
        assert await w.store.get_job("gone") is None

    world(story)


def test_a_job_that_was_pruned_does_not_come_back_from_ray(world: Any) -> None:
    async def story(w: World) -> None:
        own = {"env_vars": {"AGENTRAY_JOB_ID": "old"}}
        await w.jobs.submit("old", {"entrypoint": "true", "runtime_env": own})
        w.jobs.set("old", JobStatus.SUCCEEDED)
        # A job may have been begun by another one, and then has its variables.
        await w.jobs.submit("child", {"entrypoint": "true", "runtime_env": own})
        w.jobs.set("child", JobStatus.SUCCEEDED)

        async def found() -> bool:
            return await w.store.get_job("child") is not None and "old" not in w.jobs.jobs

        await eventually_async(found, 10)
        assert await w.store.get_job("old") is None

    world(story)


def test_jobs_of_ray_itself_are_found(world: Any) -> None:
    async def story(w: World) -> None:
        env = {"env_vars": {"TOKEN": "x", "N": "1"}}
        await w.jobs.submit("plain", {"entrypoint": "sleep 1", "runtime_env": env})
        w.jobs.set("plain", JobStatus.RUNNING)

        async def found() -> bool:
            return await w.store.get_job("plain") is not None

        await eventually_async(found, 10)
        job = await w.get("plain")
        assert (job.source, job.entrypoint) == ("ray", "sleep 1")
        assert job.runtime_env["env_vars"] == {"TOKEN": "<redacted>", "N": "1"}
        w.jobs.set("plain", JobStatus.SUCCEEDED)
        await w.until(JobStatus.SUCCEEDED, "plain")

    world(story)


@pytest.mark.parametrize("size", [0, 90, 100, 101, 5000])
def test_of_a_log_its_beginning_and_its_end_are_kept(world: Any, size: int) -> None:
    log = bytes(n % 251 for n in range(size))

    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        w.jobs.write("a", log[: size // 2])
        await w.until(JobStatus.RUNNING)
        await w.another_manager()
        w.jobs.write("a", log[size // 2 :])
        w.jobs.set("a", JobStatus.SUCCEEDED)
        await w.read()
        stored = await w.store.get_job("a")
        assert stored is not None
        assert (stored.log_size, stored.log_whole, stored.log_lost) == (size, True, False)
        kept = await w.kept()
        if size <= 100:
            assert kept == ([(0, log)] if log else [])
        else:
            assert kept[0][1][:50] == log[:50]
            assert kept[-1][0] + len(kept[-1][1]) == size
            assert kept[-1][1][-50:] == log[-50:]
            assert sum(len(data) for _, data in kept) == 100

    world(story, log_bytes=100)


def test_what_was_kept_of_a_log_stays_when_its_machine_is_gone(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        w.jobs.write("a", b"kept")
        await w.until(JobStatus.RUNNING)

        async def kept() -> bool:
            return await w.kept() == [(0, b"kept")]

        await eventually_async(kept, 20)
        w.jobs.write("a", b" and lost")
        w.jobs.alive = set()
        w.jobs.set("a", JobStatus.FAILED, error_type="JOB_SUPERVISOR_ACTOR_DIED", message="died")
        assert NODE in ((await w.until(JobStatus.FAILED)).message or "")
        await w.read()
        stored = await w.store.get_job("a")
        assert stored is not None
        assert (stored.log_size, stored.log_whole, stored.log_lost) == (4, False, True)

    world(story)


def test_a_log_that_cannot_be_read_is_tried_again_before_it_is_lost(world: Any) -> None:
    async def story(w: World) -> None:
        await w.accept()
        w.jobs.set("a", JobStatus.RUNNING)
        w.jobs.gone = True
        w.jobs.write("a", b"late")
        await w.until(JobStatus.RUNNING)
        w.jobs.set("a", JobStatus.SUCCEEDED)
        await w.until(JobStatus.SUCCEEDED)
        w.jobs.gone = False
        await w.read()
        assert await w.kept() == [(0, b"late")]

    world(story)
