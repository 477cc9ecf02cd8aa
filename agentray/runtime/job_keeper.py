"""The keeper of jobs: brings what is kept of them to what Ray says, and keeps their logs.

A part of the manager, with a task of its own, so that a slow answer of Ray holds nothing else up.
All it knows is in the Store: another manager goes on where this one was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentray.core.jobs import EXPLAIN_AFTER, JobFacts, JobVerdict, found_job, judge
from agentray.errors import (
    JobRejected,
    ManagerSuperseded,
    RayUnavailable,
    StoreUnavailable,
)
from agentray.event_loop import time_of_day
from agentray.protocol.jobs import Job, JobStatus, RayJob
from agentray.runtime.job_ports import JobRunner, LogGone
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store
from agentray.store.jobs import NewJob, StoredJob

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""Between two looks at jobs that have not ended."""

DISCOVER_S = 2.0
"""Between two looks for jobs that were submitted by Ray's own means."""

KEEP_S = 5.0
"""Between two readings of the log of a job that is under way."""

CHUNK = 256 * 1024
"""Bytes of a log that are kept in one piece."""

_SETTLE_S = 1.0  # a log that has not grown for so long after its job's end is whole
_GIVE_UP_S = 10.0  # for so long the log of an ended job may not be readable
_FOUND_AT_ONCE = 200


def token_digest(token: str) -> str:
    """Return what is kept of a job's token."""
    return hashlib.sha256(token.encode()).hexdigest()


def with_token(spec: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return what Ray is given, with the token in the job's environment."""
    runtime_env: dict[str, Any] = dict(spec.get("runtime_env") or {})
    given: dict[str, str] = runtime_env.get("env_vars") or {}
    env_vars = {**given, "AGENTRAY_JOB_TOKEN": token}
    return {**spec, "runtime_env": {**runtime_env, "env_vars": env_vars}}


@dataclass
class _Watch:
    """What is remembered of a job between two looks; nothing that another manager would miss."""

    absent_since: datetime | None = None
    kept_at: float = 0.0
    ended_at: float | None = None  # when it was first seen to have ended
    grown_at: float = 0.0
    gone_since: float | None = None
    submitted_at: float = 0.0


class JobKeeper:
    """Keeps the records of jobs true."""

    def __init__(self, store: Store, runner: JobRunner, *, log_bytes: int) -> None:
        """Make one; `start` lets it work.

        Args:
            store: of the manager's lead.
            runner: runs jobs.
            log_bytes: how much of each log is kept: the first half while the job runs, the last
                half at its end.
        """
        self._store = store
        self._runner = runner
        self._half = log_bytes // 2
        self._tasks = TaskSet("keeper of jobs")
        self._watches: dict[str, _Watch] = {}
        self._discovered_at: float | None = None

    def start(self) -> None:
        """Begin to look."""
        self._tasks.spawn(self._loop(), name="keeper of jobs")

    async def close(self) -> None:
        """Stop; the jobs go on."""
        await self._tasks.close()

    async def _loop(self) -> None:
        while True:
            try:
                await self.look()
            except (StoreUnavailable, RayUnavailable, ManagerSuperseded) as error:
                logger.warning("%s", error, extra={"action": "jobs_wait"})
            except Exception:
                # Whatever it is: the next look may succeed, and the manager does more than this.
                logger.exception("the look at jobs failed", extra={"action": "look_failed"})
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once at all jobs that are open."""
        await self._discover()
        open_jobs = await self._store.open_jobs()
        self._watches = {
            stored.job.job_id: self._watches.get(stored.job.job_id, _Watch())
            for stored in open_jobs
        }
        under_way = [stored for stored in open_jobs if not stored.job.status.ended]
        if under_way:
            seen = await self._runner.look([stored.job.job_id for stored in under_way])
            nodes = await self._runner.nodes()
            for stored in under_way:
                await self._guarded(self._judge(stored, seen.get(stored.job.job_id), nodes))
        for stored in open_jobs:
            await self._guarded(self._keep_log(stored))

    async def _guarded(self, step: Any) -> None:
        """Let one job's trouble be that of no other."""
        try:
            await step
        except (StoreUnavailable, RayUnavailable, ManagerSuperseded):
            raise
        except Exception:
            logger.exception("a job's look failed", extra={"action": "job_look_failed"})

    # Jobs that others submitted

    async def _discover(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._discovered_at is not None and now - self._discovered_at < DISCOVER_S:
            return
        unknown = sorted(await self._store.unknown_jobs(await self._runner.ids()))
        for begin in range(0, len(unknown), _FOUND_AT_ONCE):
            seen = await self._runner.look(unknown[begin : begin + _FOUND_AT_ONCE])
            for job_id in [job_id for job_id, job in seen.items() if job.left_over(job_id)]:
                del seen[job_id]
                await self._guarded(self._runner.forget(job_id))
            found = [found_job(job_id, ray_job, time_of_day()) for job_id, ray_job in seen.items()]
            await self._store.find_jobs([NewJob(job, _start_of(job)) for job in found])
        self._discovered_at = now

    # What becomes of each

    async def _judge(self, stored: StoredJob, seen: RayJob | None, nodes: set[str]) -> None:
        watch, now = self._watches[stored.job.job_id], time_of_day()
        why = None
        if seen is not None and seen.status is JobStatus.PENDING:
            accepted = _start_of(stored.job)
            if now - accepted >= EXPLAIN_AFTER:
                why = await self._runner.waits_for(seen)
        facts = JobFacts(
            stored.job, stored.submitted, seen, nodes, now, why, watch.absent_since, stored.stop_at
        )
        verdict = judge(facts)
        watch.absent_since = (watch.absent_since or now) if verdict.absent else None
        await self._carry_out(stored, verdict)

    async def _carry_out(self, stored: StoredJob, verdict: JobVerdict) -> None:
        job_id = stored.job.job_id
        if verdict.submit:
            await self._submit(job_id)
        if verdict.submitted:
            await self._store.job_submitted(job_id)
        if verdict.stop:
            await self._runner.stop(job_id)
        if verdict.kill:
            await self._runner.kill(job_id)
        if verdict.job is not None and verdict.job != stored.job:
            await self._store.update_job(verdict.job)
            if verdict.job.status is not stored.job.status:
                extra = {"action": "job_" + verdict.job.status.lower(), "job": job_id}
                logger.info("job %s is %s", job_id, verdict.job.status, extra=extra)

    async def _submit(self, job_id: str) -> None:
        """Give Ray a job that was accepted and whose acceptor has died before it could."""
        spec = await self._store.job_spec(job_id)
        if spec is None:
            return
        token = secrets.token_urlsafe(32)
        await self._store.add_job_token(job_id, token_digest(token))
        try:
            await self._runner.submit(job_id, with_token(spec, token))
        except JobRejected as error:
            stored = await self._store.get_job(job_id)
            if stored is not None:
                end_time = int(time_of_day().timestamp() * 1000)
                told = {"message": str(error), "error_type": "REJECTED", "end_time": end_time}
                failed = stored.job.model_copy(update={"status": JobStatus.FAILED, **told})
                await self._store.update_job(failed)
            return
        await self._store.job_submitted(job_id)

    # Logs

    async def _keep_log(self, stored: StoredJob) -> None:
        """Keep what is new of a log; note when there is nothing more to come."""
        watch, now = self._watches[stored.job.job_id], asyncio.get_running_loop().time()
        ended = stored.job.status.ended
        if ended:
            watch.ended_at = now if watch.ended_at is None else watch.ended_at
        elif now - watch.kept_at < KEEP_S:
            return
        watch.kept_at = now
        source = self._runner.log(stored.job)
        if source is None:
            if ended:  # its machine is gone, or it never had a log
                lost = stored.job.driver_node_id is not None or stored.log_size > 0
                await self._note(stored, stored.log_size, whole=not lost, lost=lost)
            return
        try:
            size = await source.size()
            kept = await self._copy(stored, source, size)
        except LogGone as error:
            watch.gone_since = now if watch.gone_since is None else watch.gone_since
            if ended and now - watch.gone_since >= _GIVE_UP_S:
                extra = {"action": "job_log_lost", "job": stored.job.job_id}
                logger.warning("the log of job %s: %s", stored.job.job_id, error, extra=extra)
                await self._note(stored, stored.log_size, whole=False, lost=True)
            return
        watch.gone_since = None
        if size != stored.log_size or watch.grown_at == 0:
            watch.grown_at = now
        settled = ended and watch.ended_at is not None
        whole = settled and now - max(watch.grown_at, watch.ended_at or now) >= _SETTLE_S
        if whole:
            await self._keep_end(stored, source, size, kept)
        if whole or size != stored.log_size:
            await self._note(stored, size, whole=whole, lost=False)

    async def _note(self, stored: StoredJob, size: int, *, whole: bool, lost: bool) -> None:
        await self._store.job_log_read(stored.job.job_id, size, whole=whole, lost=lost)

    async def _copy(self, stored: StoredJob, source: Any, size: int) -> int:
        """Keep the first half of what may be kept; return how far it reaches."""
        job_id = stored.job.job_id
        at = await self._kept(job_id, min(stored.log_size, self._half))
        most = min(size, self._half)
        while at < most:
            data = await source.read(at, min(CHUNK, most - at))
            if not data:
                break
            await self._store.append_job_log(job_id, at, data)
            at += len(data)
        return at

    async def _kept(self, job_id: str, at: int) -> int:
        """Return how far the log is kept from an offset on: another manager may have gone on."""
        while (found := await self._store.read_job_log(job_id, at)) is not None:
            begin, data = found
            if begin != at:
                break
            at += len(data)
        return at

    async def _keep_end(self, stored: StoredJob, source: Any, size: int, kept: int) -> None:
        """Keep the last half of what may be kept of a log that has ended."""
        at = await self._kept(stored.job.job_id, max(kept, size - self._half))
        while at < size:
            data = await source.read(at, min(CHUNK, size - at))
            if not data:
                break
            await self._store.append_job_log(stored.job.job_id, at, data)
            at += len(data)


def _start_of(job: Job) -> datetime:
    now = time_of_day()
    return datetime.fromtimestamp(job.start_time / 1000, tz=now.tzinfo)
