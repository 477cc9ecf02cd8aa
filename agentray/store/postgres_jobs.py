"""Jobs, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agentray.protocol.jobs import Job, JobPolicy, JobReport
from agentray.store.codec import encode
from agentray.store.database import Database, Row
from agentray.store.jobs import ALL_JOBS, JobAdmission, JobQuery, NewJob, StoredJob


class PostgresJobs:
    """A `JobStore`; a part of `PostgresStore`."""

    _database: Database

    async def admit_job(self, new: NewJob, *, max_running: int = 0) -> JobAdmission:
        """Accept a job, in one statement."""
        row = await self._database.fetch_row(
            "admit_job",
            new.job.job_id,
            new.owner,
            new.tenant,
            new.created_at,
            new.digest,
            encode(new.job.metadata),
            new.job.record(),
            None if new.spec is None else encode(dict(new.spec)),
            encode(dict(new.secrets)) if new.secrets else None,
            new.token_digest,
            max_running,
        )
        if row is None or row["created"]:  # the function returns a row
            return JobAdmission(new.job, created=True)
        if row["known_digest"] is None:
            return JobAdmission(None, created=False, running=row["running"])
        found = await self.get_job(new.job.job_id)
        if found is None:  # it was deleted this very moment
            return await self.admit_job(new, max_running=max_running)
        return JobAdmission(found.job, created=False, conflict=row["known_digest"] != new.digest)

    async def find_jobs(self, jobs: Sequence[NewJob]) -> None:
        """Keep jobs that Ray was given by somebody else."""
        await self._database.execute(
            "find_jobs",
            [new.job.job_id for new in jobs],
            [new.job.status.value for new in jobs],
            [new.created_at for new in jobs],
            [ended_at(new.job) for new in jobs],
            [encode(new.job.metadata) for new in jobs],
            [new.job.record() for new in jobs],
        )

    async def unknown_jobs(self, ids: Collection[str]) -> set[str]:
        """Return those of some ids that no job has."""
        found = await self._database.fetch("unknown_jobs", list(ids))
        return {row["id"] for row in found}

    async def get_job(self, job_id: str) -> StoredJob | None:
        """Return a job, or None."""
        row = await self._database.fetch_row("get_job", job_id)
        return None if row is None else _stored(row)

    async def list_jobs(self, query: JobQuery = ALL_JOBS, *, limit: int = 100) -> list[str]:
        """Return jobs as JSON, newest first."""
        found = await self._database.fetch(
            "list_jobs",
            query.status and query.status.value,
            query.source,
            query.tenant,
            encode(dict(query.metadata)),
            query.before,
            limit,
        )
        return [_text(row["record"], row["report"], stopping=row["stopping"]) for row in found]

    async def open_jobs(self) -> list[StoredJob]:
        """Return the jobs that have not ended, or whose logs have not been read to their ends."""
        return [_stored(row) for row in await self._database.fetch("open_jobs")]

    async def update_job(self, job: Job) -> bool:
        """Keep what is new of a job that has not ended."""
        about = (job.status.value, ended_at(job), job.record())
        return await self._database.fetch_value("update_job", job.job_id, *about)

    async def job_spec(self, job_id: str) -> dict[str, Any] | None:
        """Return what Ray is to be given."""
        text = await self._database.fetch_value("job_spec", job_id)
        return None if text is None else json.loads(text)

    async def job_submitted(self, job_id: str) -> None:
        """Note that Ray has a job."""
        await self._database.execute("job_submitted", job_id)

    async def add_job_token(self, job_id: str, digest: str) -> None:
        """Let a further token be a job's."""
        await self._database.execute("add_job_token", job_id, digest)

    async def stop_job(self, job_id: str, at: datetime) -> bool:
        """Note that a job shall end."""
        return await self._database.fetch_value("stop_job", job_id, at)

    async def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended."""
        return await self._database.fetch_value("delete_job", job_id)

    async def report_job(self, job_id: str, token_digest: str, report: JobReport) -> bool:
        """Keep what a job tells."""
        told = report.model_dump(mode="json", exclude_unset=True)
        metrics = told.pop("metrics", {})
        return await self._database.fetch_value(
            "report_job", job_id, token_digest, encode(told), encode(metrics)
        )

    async def take_job_secrets(self, job_id: str, token_digest: str) -> dict[str, str] | None:
        """Return a job's secrets and forget them."""
        text = await self._database.fetch_value("take_job_secrets", job_id, token_digest)
        return None if text is None else json.loads(text)

    async def append_job_log(self, job_id: str, offset: int, data: bytes) -> None:
        """Keep bytes of a log."""
        await self._database.execute("append_job_log", job_id, offset, data)

    async def job_log_read(self, job_id: str, size: int, *, whole: bool, lost: bool) -> None:
        """Note how far a job's log was read."""
        await self._database.execute("job_log_read", job_id, size, whole, lost)

    async def read_job_log(self, job_id: str, offset: int) -> tuple[int, bytes] | None:
        """Return bytes that are kept of a log from an offset on."""
        for row in await self._database.fetch("read_job_log", job_id, offset):
            first, data = row["first"], row["data"]
            if first >= offset:
                return first, data
            if first + len(data) > offset:
                return offset, data[offset - first :]
        return None

    async def prune_jobs(self, before: datetime, *, keep: int, limit: int) -> int:
        """Forget jobs that ended long ago."""
        return await self._database.fetch_value("prune_jobs", before, keep, limit)

    async def job_policy(self) -> JobPolicy:
        """Return the policy."""
        text = await self._database.fetch_value("job_policy")
        return JobPolicy() if text is None else JobPolicy.model_validate_json(text)

    async def change_job_policy(self, changes: Mapping[str, Any]) -> JobPolicy:
        """Change fields of the policy."""
        text = await self._database.fetch_value("change_job_policy", encode(dict(changes)))
        return JobPolicy.model_validate_json(text)


def ended_at(job: Job) -> datetime | None:
    """Return when a job ended; None: it has not."""
    if not job.status.ended:
        return None
    return datetime.fromtimestamp((job.end_time or job.start_time) / 1000, tz=UTC)


def _text(record: str, report: str, *, stopping: bool) -> str:
    """Return a job as JSON, of which two parts are kept apart; nothing is parsed."""
    told = report.strip()[1:-1].strip()
    more = f",{told}" if told else ""
    stop = ',"stop_requested":true' if stopping else ""
    return f"{record[:-1]}{more}{stop}}}"


def _stored(row: Row) -> StoredJob:
    text = _text(row["record"], row["report"], stopping=row["stop_at"] is not None)
    return StoredJob(
        Job.model_validate_json(text),
        row["owner"],
        row["submitted"],
        row["stop_at"],
        row["log_size"],
        row["log_whole"],
        row["log_lost"],
    )
