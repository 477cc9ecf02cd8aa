"""Jobs, in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from agentray.protocol.jobs import Job, JobPolicy, JobReport
from agentray.store.jobs import ALL_JOBS, JobAdmission, JobQuery, NewJob, StoredJob
from agentray.store.postgres_jobs import ended_at


@dataclass
class JobRow:
    """A job as memory has it."""

    new: NewJob
    stored: StoredJob
    spec: dict[str, Any] | None
    secrets: dict[str, str] | None
    tokens: set[str]
    log: dict[int, bytes] = field(default_factory=dict[int, bytes])

    @property
    def ended_at(self) -> datetime | None:
        """When it ended."""
        return ended_at(self.stored.job)

    @property
    def place(self) -> tuple[datetime, str]:
        """Where it is in the order of jobs."""
        return self.new.created_at, self.new.job.job_id


class MemoryJobs:
    """A `JobStore`; a part of `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, JobRow] = {}
        self._job_policy = JobPolicy()

    async def admit_job(self, new: NewJob, *, max_running: int = 0) -> JobAdmission:
        """Accept a job."""
        known = self._jobs.get(new.job.job_id)
        if known is not None:
            differs = known.new.digest != new.digest
            return JobAdmission(known.stored.job, created=False, conflict=differs)
        running = sum(row.ended_at is None for row in self._jobs.values())
        if max_running and running >= max_running:
            return JobAdmission(None, created=False, running=running)
        self._keep(new, submitted=False)
        return JobAdmission(new.job, created=True)

    def _keep(self, new: NewJob, *, submitted: bool) -> None:
        stored = StoredJob(new.job, new.owner, submitted, None, 0, log_whole=False, log_lost=False)
        spec = None if new.spec is None else dict(new.spec)
        tokens = {new.token_digest} if new.token_digest else set[str]()
        self._jobs[new.job.job_id] = JobRow(new, stored, spec, dict(new.secrets) or None, tokens)

    async def find_jobs(self, jobs: Sequence[NewJob]) -> None:
        """Keep jobs that Ray was given by somebody else."""
        for new in jobs:
            if new.job.job_id not in self._jobs:
                self._keep(replace(new, owner="", tenant="", digest=""), submitted=True)

    async def unknown_jobs(self, ids: Collection[str]) -> set[str]:
        """Return those of some ids that no job has."""
        return set(ids) - self._jobs.keys()

    async def get_job(self, job_id: str) -> StoredJob | None:
        """Return a job, or None."""
        row = self._jobs.get(job_id)
        return None if row is None else row.stored

    async def list_jobs(self, query: JobQuery = ALL_JOBS, *, limit: int = 100) -> list[str]:
        """Return jobs as JSON, newest first."""
        rows = sorted(self._jobs.values(), key=lambda row: row.place, reverse=True)
        last = self._jobs.get(query.before) if query.before is not None else None
        if query.before is not None and last is None:
            return []
        found = [
            row
            for row in rows
            if query.status in {None, row.stored.job.status}
            and query.source in {None, row.stored.job.source}
            and (not query.tenant or row.new.tenant == query.tenant)
            and query.metadata.items() <= row.stored.job.metadata.items()
            and (last is None or row.place < last.place)
        ]
        return [row.stored.job.model_dump_json() for row in found[:limit]]

    async def open_jobs(self) -> list[StoredJob]:
        """Return the jobs that have not ended, or whose logs have not been read to their ends."""
        return [
            row.stored
            for _, row in sorted(self._jobs.items())
            if row.ended_at is None or not (row.stored.log_whole or row.stored.log_lost)
        ]

    async def update_job(self, job: Job) -> bool:
        """Keep what is new of a job that has not ended."""
        row = self._jobs.get(job.job_id)
        if row is None or row.ended_at is not None:
            return False
        known = row.stored.job
        told = {name: getattr(known, name) for name in ("progress", "metrics", "result")}
        told["stop_requested"] = known.stop_requested
        row.stored = replace(row.stored, job=job.model_copy(update=told))
        if row.ended_at is not None:
            row.secrets = row.spec = None
        return True

    async def job_spec(self, job_id: str) -> dict[str, Any] | None:
        """Return what Ray is to be given."""
        row = self._jobs.get(job_id)
        return None if row is None else row.spec

    async def job_submitted(self, job_id: str) -> None:
        """Note that Ray has a job."""
        if row := self._jobs.get(job_id):
            row.spec = None
            row.stored = replace(row.stored, submitted=True)

    async def add_job_token(self, job_id: str, digest: str) -> None:
        """Let a further token be a job's."""
        if row := self._jobs.get(job_id):
            row.tokens.add(digest)

    async def stop_job(self, job_id: str, at: datetime) -> bool:
        """Note that a job shall end."""
        row = self._jobs.get(job_id)
        if row is None or row.ended_at is not None:
            return False
        job = row.stored.job.model_copy(update={"stop_requested": True})
        row.stored = replace(row.stored, job=job, stop_at=row.stored.stop_at or at)
        return True

    async def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended."""
        row = self._jobs.get(job_id)
        if row is None or row.ended_at is None:
            return False
        del self._jobs[job_id]
        return True

    async def report_job(self, job_id: str, token_digest: str, report: JobReport) -> bool:
        """Keep what a job tells."""
        row = self._jobs.get(job_id)
        if row is None or token_digest not in row.tokens:
            return False
        told = report.model_dump(exclude_unset=True)
        told["metrics"] = {**row.stored.job.metrics, **report.metrics}
        row.stored = replace(row.stored, job=row.stored.job.model_copy(update=told))
        return True

    async def take_job_secrets(self, job_id: str, token_digest: str) -> dict[str, str] | None:
        """Return a job's secrets and forget them."""
        row = self._jobs.get(job_id)
        if row is None or token_digest not in row.tokens:
            return None
        found, row.secrets = row.secrets, None
        return found

    async def append_job_log(self, job_id: str, offset: int, data: bytes) -> None:
        """Keep bytes of a log."""
        if row := self._jobs.get(job_id):
            row.log.setdefault(offset, data)

    async def job_log_read(self, job_id: str, size: int, *, whole: bool, lost: bool) -> None:
        """Note how far a job's log was read."""
        if row := self._jobs.get(job_id):
            row.stored = replace(row.stored, log_size=size, log_whole=whole, log_lost=lost)

    async def read_job_log(self, job_id: str, offset: int) -> tuple[int, bytes] | None:
        """Return bytes that are kept of a log from an offset on."""
        row = self._jobs.get(job_id)
        for first, data in sorted(row.log.items()) if row else ():
            if first >= offset:
                return first, data
            if first + len(data) > offset:
                return offset, data[offset - first :]
        return None

    async def prune_jobs(self, before: datetime, *, keep: int, limit: int) -> int:
        """Forget jobs that ended long ago."""
        ended = [(at, job_id) for job_id, row in self._jobs.items() if (at := row.ended_at)]
        ended.sort(reverse=True)
        old = [job_id for n, (at, job_id) in enumerate(ended) if at < before or n >= keep]
        for job_id in old[:limit]:
            del self._jobs[job_id]
        return len(old[:limit])

    async def job_policy(self) -> JobPolicy:
        """Return the policy."""
        return self._job_policy

    async def change_job_policy(self, changes: Mapping[str, Any]) -> JobPolicy:
        """Change fields of the policy."""
        self._job_policy = self._job_policy.model_copy(update=dict(changes))
        return self._job_policy
