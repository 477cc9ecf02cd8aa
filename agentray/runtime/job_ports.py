"""What runs jobs, and where their logs are: narrow interfaces, so that tests have their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from agentray.errors import AgentrayError
from agentray.protocol.jobs import Job, RayJob


class LogGone(AgentrayError):
    """A log cannot be read where it was written: its machine does not answer."""


class LogSource(Protocol):
    """The log of one job, at the place where it is written. It only grows."""

    async def size(self) -> int:
        """Return how many bytes there are; 0: none yet.

        Raises:
            LogGone: it cannot be read.
        """
        ...

    async def read(self, offset: int, most: int) -> bytes:
        """Return bytes from an offset on; fewer than `most` where the log ends.

        Raises:
            LogGone: it cannot be read.
        """
        ...


class JobRunner(Protocol):
    """Runs jobs. Every method raises `RayUnavailable` when nobody answers."""

    async def submit(self, job_id: str, spec: Mapping[str, Any]) -> None:
        """Begin a job; harmless when it was begun.

        Raises:
            JobRejected: it is not taken.
        """
        ...

    async def look(self, ids: Collection[str]) -> dict[str, RayJob]:
        """Return what is known of jobs; those of which nothing is known are left out."""
        ...

    async def ids(self) -> set[str]:
        """Return the ids of all jobs that are known."""
        ...

    async def stop(self, job_id: str) -> None:
        """Ask a job to end; harmless when it has."""
        ...

    async def kill(self, job_id: str) -> None:
        """End what is about to start a job's command; harmless when it is gone."""
        ...

    async def forget(self, job_id: str) -> None:
        """Forget a job that has ended, and remove its log; harmless when nobody knows it."""
        ...

    async def waits_for(self, job: RayJob) -> str | None:
        """Return what a pending job waits for, in sentences; None: nobody can tell."""
        ...

    async def nodes(self) -> set[str]:
        """Return the ids of the machines that live."""
        ...

    def log(self, job: Job) -> LogSource | None:
        """Return where a job's log is; None: nowhere yet, or nowhere any more."""
        ...

    async def has_package(self, name: str) -> bool:
        """Whether a package was uploaded and is still there; it stays for a while from now on."""
        ...

    async def put_package(self, name: str, data: bytes) -> None:
        """Keep a package for the jobs that name it."""
        ...
