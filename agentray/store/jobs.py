"""What the Store keeps of jobs, of their logs, and of the policy that lets them in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from agentray.protocol.jobs import Job, JobPolicy, JobReport, JobStatus


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is to be accepted.

    Attributes:
        job: as it is kept; its id is unique.
        created_at: when it was accepted.
        owner: see `agentray.core.owners`; "": nobody over HTTP.
        tenant: of its owner; "": of none.
        digest: of its submission, to tell a repeat from a conflict.
        spec: JSON of what Ray is given, until Ray has it; it may hold secrets.
        secrets: that the job fetches once.
        token_digest: SHA-256 of the token with which it does so, and reports.
    """

    job: Job
    created_at: datetime
    owner: str = ""
    tenant: str = ""
    digest: str = ""
    spec: Mapping[str, Any] | None = None
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    token_digest: str = ""


@dataclass(frozen=True, slots=True)
class JobAdmission:
    """What became of a `NewJob`.

    Attributes:
        job: the new job, or the earlier one of the same id; None: it was refused.
        created: it is new.
        conflict: its id is that of another job.
        running: how many jobs were under way, where it was refused.
    """

    job: Job | None
    created: bool
    conflict: bool = False
    running: int = 0


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job with what only the server knows of it.

    Attributes:
        job: what everybody may see.
        owner: whose it is.
        submitted: Ray has been given it.
        stop_at: when somebody asked for its end; None: nobody has.
        log_size: bytes of its log, as far as they were read for keeping.
        log_whole: nothing follows in its log: it was read to its end after the job's.
        log_lost: its log could not be read to its end.
    """

    job: Job
    owner: str
    submitted: bool
    stop_at: datetime | None
    log_size: int
    log_whole: bool
    log_lost: bool


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs are wanted; None: any."""

    status: JobStatus | None = None
    source: str | None = None
    tenant: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    before: str | None = None  # the id of one that was seen: only older ones


ALL_JOBS = JobQuery()


class JobStore(Protocol):
    """Jobs, their logs, and their policy."""

    async def admit_job(self, new: NewJob, *, max_running: int = 0) -> JobAdmission:
        """Accept a job unless its id is known, or too many are under way (0: any number may be)."""
        ...

    async def find_jobs(self, jobs: Sequence[NewJob]) -> None:
        """Keep jobs that Ray was given by somebody else; those whose ids are known stay."""
        ...

    async def unknown_jobs(self, ids: Collection[str]) -> set[str]:
        """Return those of some ids that no job has."""
        ...

    async def get_job(self, job_id: str) -> StoredJob | None:
        """Return a job, or None."""
        ...

    async def list_jobs(self, query: JobQuery = ALL_JOBS, *, limit: int = 100) -> list[str]:
        """Return jobs as JSON, newest first: `Job` can read them, and nobody has to."""
        ...

    async def open_jobs(self) -> list[StoredJob]:
        """Return the jobs that have not ended, or whose logs have not been read to their ends."""
        ...

    async def update_job(self, job: Job) -> bool:
        """Keep what is new of a job, without what it reports; False: it has ended, or is gone."""
        ...

    async def job_spec(self, job_id: str) -> dict[str, Any] | None:
        """Return what Ray is to be given; None: Ray has it, or there is no such job."""
        ...

    async def job_submitted(self, job_id: str) -> None:
        """Note that Ray has a job, and forget what it was given."""
        ...

    async def add_job_token(self, job_id: str, digest: str) -> None:
        """Let a further token be a job's."""
        ...

    async def stop_job(self, job_id: str, at: datetime) -> bool:
        """Note that a job shall end; False: it has ended, or is gone."""
        ...

    async def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended, and its log; False: it has not ended, or is gone."""
        ...

    async def report_job(self, job_id: str, token_digest: str, report: JobReport) -> bool:
        """Keep what a job tells; metrics are added to those that are known.

        Returns:
            False: the token is not that job's, or it has ended long ago.

        Raises:
            PayloadError: it cannot be kept.
        """
        ...

    async def take_job_secrets(self, job_id: str, token_digest: str) -> dict[str, str] | None:
        """Return a job's secrets and forget them; None: the token is not its, or they are gone."""
        ...

    async def append_job_log(self, job_id: str, offset: int, data: bytes) -> None:
        """Keep bytes of a log; those that were kept at this offset stay."""
        ...

    async def job_log_read(self, job_id: str, size: int, *, whole: bool, lost: bool) -> None:
        """Note how far a job's log was read for keeping.

        Args:
            job_id: the job.
            size: bytes of the log that were there.
            whole: nothing follows.
            lost: what follows cannot be read.
        """
        ...

    async def read_job_log(self, job_id: str, offset: int) -> tuple[int, bytes] | None:
        """Return bytes that are kept of a log from an offset on, and where they begin.

        None: nothing is kept from there on. It may begin later: what is between was not kept.
        """
        ...

    async def prune_jobs(self, before: datetime, *, keep: int, limit: int) -> int:
        """Forget jobs that ended before a time, or before the newest `keep` that have ended.

        Returns:
            How many, at most `limit`.
        """
        ...

    async def job_policy(self) -> JobPolicy:
        """Return the policy."""
        ...

    async def change_job_policy(self, changes: Mapping[str, Any]) -> JobPolicy:
        """Change fields of the policy, and return it."""
        ...
