"""The book of jobs: accepts them once, gives them to Ray, stops and forgets them.

Accepted is kept: the record is in the Store before Ray is asked. Should this process die in
between, the manager gives the job to Ray; the id is the same, so Ray never runs it twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agentray.core.jobs import NodeLoad, refusals
from agentray.errors import (
    JobConflict,
    JobRefused,
    JobRejected,
    JobRunning,
    RayUnavailable,
    UnknownJob,
)
from agentray.event_loop import time_of_day
from agentray.ids import new_id
from agentray.jobs.checks import check_submission
from agentray.jobs.entrypoint import with_secrets
from agentray.jobs.reporting import JOB_URL
from agentray.protocol.jobs import JOB_ID, Job, JobPolicy, JobStatus, JobSubmission, redacted
from agentray.runtime.job_keeper import token_digest, with_token
from agentray.runtime.job_ports import JobRunner
from agentray.store.base import Store
from agentray.store.jobs import NewJob, StoredJob

logger = logging.getLogger(__name__)

_OWN_PYTHON = frozenset({"pip", "uv", "conda", "container", "image_uri", "py_executable"})
"""With one of these in its runtime_env, a job has another Python than the gateway."""


class Loads(Protocol):
    """Knows how busy the machines are."""

    async def loads(self, max_age_s: float) -> list[NodeLoad]:
        """Return the machines that live; what is known of them may be so many seconds old."""
        ...


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submits a job.

    Attributes:
        owner: see `agentray.core.owners`.
        tenant: of the owner; "": of none.
    """

    owner: str = ""
    tenant: str = ""


class JobBook:
    """Accepts jobs, and what is to become of them."""

    def __init__(self, store: Store, runner: JobRunner, loads: Loads, *, url: str) -> None:
        """Make one.

        Args:
            store: keeps the records.
            runner: runs the jobs.
            loads: for the limits of the policy.
            url: of the gateway, as jobs reach it.
        """
        self._store = store
        self._runner = runner
        self._loads = loads
        self._url = url

    async def submit(
        self, submission: JobSubmission, who: Submitter, key: str | None = None
    ) -> tuple[Job, bool]:
        """Accept a job, and begin it.

        Args:
            submission: what is to run.
            who: submits it.
            key: unique per piece of work, for a submission without an id.

        Returns:
            The job, and whether it is new: the same id with the same body is the same job.

        Raises:
            JobConflict: the id is that of another job.
            JobRefused: the policy lets no further job in now.
            JobRejected: Ray does not take it; nothing is kept.
            StoreUnavailable: nothing can be kept now.
        """
        job_id = submission.submission_id or _id_of(who, key) or new_id("job")
        digest = _digest(submission)
        known = await self._store.get_job(job_id)
        if known is not None and known.owner.partition("@")[2] != who.tenant:
            raise JobConflict(job_id)  # and not a word about the job of another tenant
        policy = await self._store.job_policy()
        if known is None:
            check_submission(submission)
            await self._check_loads(policy, submission)
        token = secrets.token_urlsafe(32)
        spec = self._spec(job_id, submission)
        now = time_of_day()
        new = NewJob(
            _record(job_id, submission, int(now.timestamp() * 1000)),
            now,
            who.owner,
            who.tenant,
            digest,
            spec,
            submission.secrets,
            token_digest(token),
        )
        most = policy.max_concurrent_jobs if policy.gatekeeping_enabled else 0
        admission = await self._store.admit_job(new, max_running=most)
        if admission.job is None:
            told = f"Jobs under way: {admission.running}, and the policy allows {most}."
            raise JobRefused((told,))
        if admission.conflict:
            raise JobConflict(job_id)
        if admission.created:
            await self._begin(admission.job, with_token(spec, token))
        return admission.job, admission.created

    async def _check_loads(self, policy: JobPolicy, submission: JobSubmission) -> None:
        if not policy.gatekeeping_enabled:
            return
        limits = (
            policy.cpu_max_utilization_percent,
            policy.memory_max_utilization_percent,
            policy.gpu_max_utilization_percent,
        )
        if min(limits) < 100:  # else nobody needs to be asked
            loads = await self._loads.loads(policy.resource_cache_ttl_seconds)
            reasons = refusals(policy, _demand(submission), loads)
            if reasons:
                raise JobRefused(tuple(reasons))

    async def _begin(self, job: Job, spec: Mapping[str, Any]) -> None:
        try:
            await self._runner.submit(job.job_id, spec)
        except JobRejected:
            end_time = int(time_of_day().timestamp() * 1000)
            await self._store.update_job(
                job.model_copy(update={"status": JobStatus.FAILED, "end_time": end_time})
            )
            await self._store.delete_job(job.job_id)
            raise
        except RayUnavailable as error:
            # It is accepted: the manager gives it to Ray as soon as Ray answers.
            extra = {"action": "job_submitted_later", "job": job.job_id}
            logger.warning("job %s is submitted later: %s", job.job_id, error, extra=extra)
            return
        await self._store.job_submitted(job.job_id)

    def _spec(self, job_id: str, submission: JobSubmission) -> dict[str, Any]:
        """Return what Ray is given, apart from the token."""
        env = submission.runtime_env
        entrypoint = submission.entrypoint
        if submission.secrets:
            python = "python" if _OWN_PYTHON & env.keys() else sys.executable
            entrypoint = with_secrets(entrypoint, python)
        own = {JOB_ID: job_id, JOB_URL: self._url}
        env_vars: dict[str, str] = env.get("env_vars") or {}
        return {
            "entrypoint": entrypoint,
            "runtime_env": {**env, "env_vars": {**env_vars, **own}},
            "metadata": submission.metadata,
            "entrypoint_num_cpus": submission.entrypoint_num_cpus,
            "entrypoint_num_gpus": submission.entrypoint_num_gpus,
            "entrypoint_memory": submission.entrypoint_memory,
            "entrypoint_resources": submission.entrypoint_resources or None,
        }

    async def stop(self, job_id: str) -> StoredJob:
        """Ask for the end of a job; harmless when it has ended.

        Raises:
            UnknownJob: there is none of this id.
        """
        asked = await self._store.stop_job(job_id, time_of_day())
        if asked:
            try:
                await self._runner.stop(job_id)  # at once; the manager sees to the rest
            except RayUnavailable as error:
                logger.warning("%s", error, extra={"action": "job_stopped_later", "job": job_id})
        stored = await self._store.get_job(job_id)
        if stored is None:
            raise UnknownJob(job_id)
        return stored

    async def delete(self, job_id: str) -> None:
        """Forget a job that has ended, and its log.

        Raises:
            UnknownJob: there is none of this id.
            JobRunning: it has not ended.
            RayUnavailable: Ray would bring it back; nothing was forgotten.
        """
        stored = await self._store.get_job(job_id)
        if stored is None:
            raise UnknownJob(job_id)
        if not stored.job.status.ended:
            raise JobRunning(job_id)
        await self._runner.forget(job_id)
        await self._store.delete_job(job_id)


def _id_of(who: Submitter, key: str | None) -> str | None:
    """Return the id that follows from an idempotency key and from whose it is."""
    if key is None:
        return None
    return "job_" + hashlib.sha256(f"{who.owner}\n{key}".encode()).hexdigest()[:32]


def _digest(submission: JobSubmission) -> str:
    """Return what two submissions of the same job have in common; no secret can be told from it."""
    body = submission.model_dump(mode="json", exclude={"submission_id", "secrets"})
    body["secrets"] = sorted(submission.secrets)
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _record(job_id: str, submission: JobSubmission, start_time: int) -> Job:
    kept = submission.model_dump(exclude={"submission_id", "secrets", "runtime_env"})
    return Job(
        job_id=job_id,
        submission_id=job_id,
        start_time=start_time,
        message="Job has not started yet.",
        runtime_env=redacted(submission.runtime_env),
        **kept,
    )


def _demand(submission: JobSubmission) -> dict[str, float]:
    own = {
        "CPU": submission.entrypoint_num_cpus,
        "GPU": submission.entrypoint_num_gpus,
        "memory": float(submission.entrypoint_memory),
    }
    return {name: n for name, n in (own | submission.entrypoint_resources).items() if n}
