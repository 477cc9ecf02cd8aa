"""What a store promises of jobs: accepted once, ended once, secrets given out once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentray.errors import PayloadError
from agentray.protocol.jobs import Job, JobPolicy, JobReport, JobStatus
from agentray.store.base import Store
from agentray.store.jobs import JobQuery, NewJob
from agentray.store.postgres import PostgresStore
from tests.contract.samples import at


def new_job(job_id: str, second: float = 0, **more: Any) -> NewJob:
    about = {name: more.pop(name) for name in list(more) if name in Job.model_fields}
    start = int(at(second).timestamp() * 1000)
    job = Job(job_id=job_id, submission_id=job_id, entrypoint="true", start_time=start)
    return NewJob(job.model_copy(update=about), at(second), **more)


def ended(job: Job, status: JobStatus = JobStatus.SUCCEEDED, second: float = 9) -> Job:
    end_time = int(at(second).timestamp() * 1000)
    return job.model_copy(update={"status": status, "end_time": end_time, "message": "over"})


async def jobs(store: Store, limit: int = 100, **query: Any) -> list[str]:
    found = await store.list_jobs(JobQuery(**query), limit=limit)
    return [Job.model_validate_json(text).job_id for text in found]


async def test_a_job_is_accepted_once(store: Store) -> None:
    first = await store.admit_job(new_job("a", digest="1", owner="key_1"))
    again = await store.admit_job(new_job("a", 5, digest="1"))
    other = await store.admit_job(new_job("a", 5, digest="2"))
    assert (first.created, again.created, again.conflict) == (True, False, False)
    assert (other.created, other.conflict) == (False, True)
    assert again.job == first.job == other.job
    stored = await store.get_job("a")
    assert stored is not None
    assert (stored.job, stored.owner, stored.submitted) == (first.job, "key_1", False)
    assert await store.get_job("b") is None


async def test_no_more_jobs_are_let_in_than_may_run(store: Store) -> None:
    admitted = await asyncio.gather(
        *(store.admit_job(new_job(f"j{n}"), max_running=2) for n in range(6))
    )
    assert sum(admission.created for admission in admitted) == 2
    refused = [admission for admission in admitted if not admission.created]
    assert all((a.job, a.running, a.conflict) == (None, 2, False) for a in refused)
    first = next(a.job for a in admitted if a.job)
    assert (await store.admit_job(new_job(first.job_id), max_running=2)).job == first  # a repeat
    await store.update_job(ended(first))
    assert (await store.admit_job(new_job("late"), max_running=2)).created


async def test_a_job_ends_once(store: Store) -> None:
    await store.admit_job(new_job("a"))
    stored = await store.get_job("a")
    assert stored is not None
    running = stored.job.model_copy(update={"status": JobStatus.RUNNING})
    assert await store.update_job(running)
    assert await store.update_job(ended(running))
    assert not await store.update_job(running)
    assert not await store.update_job(ended(running, JobStatus.FAILED))
    assert not await store.update_job(running.model_copy(update={"job_id": "b"}))
    stored = await store.get_job("a")
    assert stored is not None
    assert (stored.job.status, stored.job.message) == (JobStatus.SUCCEEDED, "over")


async def test_what_ray_is_given_is_kept_until_it_has_it(store: Store) -> None:
    await store.admit_job(new_job("a", spec={"runtime_env": {"env_vars": {"HF_TOKEN": "x"}}}))
    assert await store.job_spec("a") == {"runtime_env": {"env_vars": {"HF_TOKEN": "x"}}}
    await store.job_submitted("a")
    assert await store.job_spec("a") is None
    stored = await store.get_job("a")
    assert stored is not None
    assert stored.submitted


async def test_secrets_are_given_out_once_to_who_has_the_token(store: Store) -> None:
    await store.admit_job(new_job("a", secrets={"S": "1"}, token_digest="right"))
    assert await store.take_job_secrets("a", "wrong") is None
    await store.add_job_token("a", "other")
    taken = await asyncio.gather(*(store.take_job_secrets("a", t) for t in ("right", "other")))
    assert sorted(map(bool, taken)) == [False, True]
    assert {"S": "1"} in taken
    await store.admit_job(new_job("b", secrets={"S": "1"}, token_digest="right"))
    stored = await store.get_job("b")
    assert stored is not None
    await store.update_job(ended(stored.job))
    assert await store.take_job_secrets("b", "right") is None  # its end forgets them


async def test_reports_are_added_to_what_was_reported(store: Store) -> None:
    await store.admit_job(new_job("a", token_digest="t"))
    assert not await store.report_job("a", "wrong", JobReport(progress=0.1))
    assert await store.report_job("a", "t", JobReport(progress=0.1, metrics={"loss": 2, "n": 1}))
    assert await store.report_job("a", "t", JobReport(metrics={"loss": 1}))
    assert await store.report_job("a", "t", JobReport(result={"text": ['"}', None]}))
    stored = await store.get_job("a")
    assert stored is not None
    told = JobReport(progress=0.1, metrics={"loss": 1, "n": 1}, result={"text": ['"}', None]})
    assert stored.job.report == told
    await store.update_job(ended(stored.job.model_copy(update={"progress": None})))
    (text,) = await store.list_jobs()
    assert Job.model_validate_json(text).report == told
    assert await store.report_job("a", "t", JobReport(progress=1))  # its last word may be late


async def test_a_report_that_no_database_keeps_is_refused(postgres: PostgresStore) -> None:
    await postgres.admit_job(new_job("a", token_digest="t"))
    with pytest.raises(PayloadError):
        await postgres.report_job("a", "t", JobReport(result="\0"))


async def test_jobs_are_listed_newest_first_in_pages(store: Store) -> None:
    for n in range(5):
        about = {"metadata": {"n": str(n % 2), "all": "yes"}, "tenant": "x" if n else ""}
        await store.admit_job(new_job(f"j{n}", n // 2, **about))
    assert await jobs(store) == ["j4", "j3", "j2", "j1", "j0"]
    assert await jobs(store, limit=2, before="j3") == ["j2", "j1"]
    assert await jobs(store, before="j0") == await jobs(store, before="nobody") == []
    assert await jobs(store, metadata={"n": "1", "all": "yes"}) == ["j3", "j1"]
    assert await jobs(store, tenant="x") == ["j4", "j3", "j2", "j1"]
    stored = await store.get_job("j2")
    assert stored is not None
    await store.update_job(ended(stored.job))
    assert await jobs(store, status=JobStatus.SUCCEEDED) == ["j2"]
    assert await jobs(store, source="ray") == []


async def test_jobs_of_others_are_found_once(store: Store) -> None:
    await store.admit_job(new_job("a", digest="1"))
    done = ended(new_job("c", source="ray").job)
    await store.find_jobs(
        [new_job("a", source="ray"), new_job("b", source="ray"), NewJob(done, at(0))]
    )
    assert await store.unknown_jobs(["a", "b", "c", "d"]) == {"d"}
    stored = await store.get_job("a")
    assert stored is not None
    assert stored.job.source == "agentray"
    assert sorted(await jobs(store, source="ray")) == ["b", "c"]
    other = await store.get_job("b")
    assert other is not None
    assert other.submitted
    assert [stored.job.job_id for stored in await store.open_jobs()] == ["a", "b", "c"]


async def test_a_job_that_shall_stop_says_so(store: Store) -> None:
    await store.admit_job(new_job("a"))
    assert await store.stop_job("a", at(3))
    assert await store.stop_job("a", at(4))
    stored = await store.get_job("a")
    assert stored is not None
    assert (stored.stop_at, stored.job.stop_requested) == (at(3), True)
    assert json.loads((await store.list_jobs())[0])["stop_requested"] is True
    await store.update_job(ended(stored.job, JobStatus.STOPPED))
    assert not await store.stop_job("a", at(5))
    assert not await store.stop_job("b", at(5))


async def test_only_ended_jobs_are_forgotten(store: Store) -> None:
    await store.admit_job(new_job("a"))
    await store.append_job_log("a", 0, b"text")
    assert not await store.delete_job("a")
    stored = await store.get_job("a")
    assert stored is not None
    await store.update_job(ended(stored.job))
    assert await store.delete_job("a")
    assert not await store.delete_job("a")
    assert await store.get_job("a") is None
    assert await store.read_job_log("a", 0) is None
    await store.append_job_log("a", 0, b"text")  # of a job that is gone: nothing is kept
    await store.admit_job(new_job("a"))
    assert await store.read_job_log("a", 0) is None


async def test_a_log_is_read_at_any_offset(store: Store) -> None:
    await store.admit_job(new_job("a"))
    await store.append_job_log("a", 0, b"0123")
    await store.append_job_log("a", 4, b"45\xff7")
    await store.append_job_log("a", 4, b"again")
    await store.append_job_log("a", 100, b"xyz")
    assert await store.read_job_log("a", 0) == (0, b"0123")
    assert await store.read_job_log("a", 3) == (3, b"3")
    assert await store.read_job_log("a", 4) == (4, b"45\xff7")
    assert await store.read_job_log("a", 8) == (100, b"xyz")
    assert await store.read_job_log("a", 101) == (101, b"yz")
    assert await store.read_job_log("a", 103) is None
    assert await store.read_job_log("b", 0) is None


async def test_a_job_is_open_until_its_log_was_read(store: Store) -> None:
    for job_id in ("a", "b", "c"):
        await store.admit_job(new_job(job_id))
        stored = await store.get_job(job_id)
        assert stored is not None
        await store.update_job(ended(stored.job))
    await store.job_log_read("a", 7, whole=False, lost=False)
    await store.job_log_read("b", 7, whole=True, lost=False)
    await store.job_log_read("c", 7, whole=False, lost=True)
    assert [stored.job.job_id for stored in await store.open_jobs()] == ["a"]
    stored = await store.get_job("a")
    assert stored is not None
    assert (stored.log_size, stored.log_whole, stored.log_lost) == (7, False, False)


async def test_old_jobs_and_those_beyond_a_number_are_pruned(store: Store) -> None:
    for n in range(6):
        await store.admit_job(new_job(f"j{n}", n))
        stored = await store.get_job(f"j{n}")
        assert stored is not None
        if n:
            await store.update_job(ended(stored.job, second=100 + n))
    assert await store.prune_jobs(at(102), keep=100, limit=10) == 1
    assert await store.prune_jobs(at(0), keep=2, limit=1) == 1
    assert await store.prune_jobs(at(0), keep=2, limit=10) == 1
    assert sorted(await jobs(store)) == ["j0", "j4", "j5"]


async def test_the_policy_is_what_it_was_changed_to(store: Store) -> None:
    assert await store.job_policy() == JobPolicy()
    changed = await store.change_job_policy({"max_concurrent_jobs": 3})
    assert changed == JobPolicy(max_concurrent_jobs=3)
    await store.change_job_policy({"gatekeeping_enabled": False})
    assert await store.job_policy() == JobPolicy(max_concurrent_jobs=3, gatekeeping_enabled=False)
