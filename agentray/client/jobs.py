"""Jobs and their logs in the asynchronous client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Unpack

from agentray.client.calls import ray_jobs as calls
from agentray.client.calls.http import check
from agentray.client.calls.job_log import LogEvent, LogWish
from agentray.client.calls.ray_jobs import JobPage, LogProtocol, SubmitOptions, check_id
from agentray.client.connection import Connection
from agentray.client.errors import NotFound
from agentray.client.frames import open_frames
from agentray.client.job_log import AsyncLogTail, line_tail_of, tail_of
from agentray.client.packages import pack, with_requirements
from agentray.client.records import Job
from agentray.client.resource import AsyncResource
from agentray.core.log_limits import StreamLimits
from agentray.ids import new_id
from agentray.protocol.jobs import JobStatus

TAIL_TIMEOUT_S = 30.0
_LONGEST_WAIT_S = 30.0
_BLOCK = 1 << 18
_UPLOAD_S = 600.0

Progress = Callable[[int, int], None]
"""Hears how many bytes of how many are uploaded."""


class AsyncJobs(AsyncResource):
    """A part of `AsyncAgentClient`."""

    def __init__(self, connection: Connection) -> None:
        """Made by the client."""
        super().__init__(connection)
        self._stream_limits = StreamLimits()
        self._open_frames = partial(open_frames, connection)

    @property
    def stream_limits(self) -> StreamLimits:
        """What the tail of a log is worth, at most; it holds for tails that begin from then on."""
        return self._stream_limits

    @stream_limits.setter
    def stream_limits(self, limits: StreamLimits) -> None:
        self._stream_limits = calls.check_limits(limits)

    async def submit_job(
        self,
        entrypoint: str,
        *,
        working_dir: str | Path | None = None,
        py_modules: Sequence[str | Path] = (),
        excludes: Sequence[str] = (),
        on_upload: Progress | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit a job: a command line that Ray runs on the cluster.

        Args:
            entrypoint: the command line.
            working_dir: a directory of this machine in which it runs: it is packed and uploaded,
                unless the cluster has it already.
            py_modules: directories of this machine that it can import, likewise.
            excludes: what is left out of these: names or paths, with `*`.
            on_upload: hears how far an upload is.
            idempotency_key: the same key finds the same job; None: a new one.
            options: see `SubmitOptions`.

        Raises:
            Conflict: the id is that of another job.
            TooManyRequests: the policy lets no further job in now.
            InvalidRequest: Ray does not take it.
            ConfigurationError: a directory cannot be packed, or a file of requirements not be read.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        again = idempotency_key or new_id("key")
        calls.submit(entrypoint, options, again)  # what is wrong is said before the upload
        env = with_requirements(options.get("runtime_env") or {})
        if working_dir is not None:
            env["working_dir"] = await self.upload(working_dir, excludes, on_upload=on_upload)
        if py_modules:
            env["py_modules"] = [
                await self.upload(module, excludes, within=True, on_upload=on_upload)
                for module in py_modules
            ]
        request = calls.submit(entrypoint, {**options, "runtime_env": env or None}, again)
        return calls.parse_job(await self._connection.send(request))

    async def upload(
        self,
        directory: str | Path,
        excludes: Sequence[str] = (),
        *,
        within: bool = False,
        on_upload: Progress | None = None,
    ) -> str:
        """Upload a directory for jobs, unless the cluster has it already; return its URI.

        Args:
            directory: of this machine.
            excludes: what is left out.
            within: the directory itself is in it, as `py_modules` need it.
            on_upload: hears how far it is.

        Raises:
            ConfigurationError: there is no such directory, or nothing in it.
            PayloadTooLarge: it is over the gateway's limit.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        package = await asyncio.to_thread(pack, directory, excludes, within=within)
        with package.file as file:
            try:
                check(await self._connection.send(calls.has_package(package.name)))
            except NotFound:
                data = partial(_blocks, file, package.size, on_upload)
                await self._connection.upload(
                    calls.put_package(package.name), data, package.size, timeout_s=_UPLOAD_S
                )
        return f"gcs://{package.name}"

    async def list_jobs(
        self,
        *,
        limit: int | None = None,
        before: str | None = None,
        status: JobStatus | str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Job]:
        """Return jobs, newest first, also those that Ray's own commands submitted.

        Args:
            limit: most of them; None: as many as the gateway returns at once.
            before: id of the last one already seen.
            status: only those.
            metadata: only those with these values.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        return (await self.job_page(limit, before, status, metadata)).jobs

    async def job_page(
        self,
        limit: int | None = None,
        before: str | None = None,
        status: JobStatus | str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> JobPage:
        """Return jobs, and where the next page begins; see `list_jobs`.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        request = calls.list_jobs(limit, before, status, metadata)
        return calls.parse_jobs(await self._connection.send(request))

    async def all_jobs(
        self, *, status: JobStatus | str | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Job]:
        """Yield all jobs, newest first, page by page; see `list_jobs`.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        before = None
        while True:
            page = await self.job_page(None, before, status, metadata)
            for job in page.jobs:
                yield job
            if page.next is None:
                return
            before = page.next

    async def get_job(self, job_id: str, wait_s: float = 0) -> Job:
        """Return a job: ended, or as it is after `wait_s` seconds.

        Raises:
            NotFound: there is none of this id.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        deadline = time.monotonic() + wait_s
        while True:
            slice_s = min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT_S)
            request = calls.get_job(job_id, slice_s)
            job = calls.parse_job(await self._connection.send(request, waiting_s=slice_s))
            if job.status.ended or time.monotonic() >= deadline:
                return job

    async def get_job_logs(
        self,
        job_id: str,
        *,
        offset: int | None = None,
        tail: int | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """Return the log of a job as it is now.

        Args:
            job_id: which job.
            offset: of the first byte; None: the beginning.
            tail: the last so many lines instead.
            max_bytes: most of it.

        Raises:
            NotFound: there is no such job.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        request = calls.get_logs(job_id, offset, tail, max_bytes)
        return calls.parse_text(await self._connection.send(request))

    async def list_job_logs(self, job_id: str) -> str:
        """Return the log of a job as it is now: another name of `get_job_logs`."""
        return await self.get_job_logs(job_id)

    async def stop_job(self, job_id: str) -> Job:
        """Ask for the end of a job, and return it; one that has ended stays as it is.

        Raises:
            NotFound: there is none of this id.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        return calls.parse_job(await self._connection.send(calls.stop_job(job_id)))

    async def delete_job(self, job_id: str) -> None:
        """Forget a job that has ended, and its log.

        Raises:
            NotFound: there is none of this id, or an earlier try has forgotten it.
            Conflict: it has not ended.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        check(await self._connection.send(calls.delete_job(job_id)))

    # Logs as they come

    def tail_job_logs(
        self,
        job_id: str,
        timeout: float = TAIL_TIMEOUT_S,
        protocol: LogProtocol = "auto",
        *,
        tail: int | None = None,
        follow: bool = True,
    ) -> AsyncLogTail[str]:
        """Return the lines of a job's log, from the first one on, as they come.

        It ends as the log does: `end` of what is returned says why. A connection that breaks is
        made again, and no line is lost or doubled by it. A line of more than
        `stream_limits.max_message_size` characters is cut, and says so.

        Args:
            job_id: which job.
            timeout: seconds without any sign of the gateway after which it is given up; at most
                300.
            protocol: `auto`: a WebSocket, and plain HTTP where there is none.
            tail: begin so many lines before the end instead.
            follow: go on as the log grows.

        Raises:
            InvalidRequest: an argument is malformed; at the call.
            NotFound: there is no such job.
            Unauthorized, Forbidden: the key does not do.
            TimedOut, ConnectionFailed: the gateway showed no sign for `timeout`.
            StreamLimitExceeded: a limit of `stream_limits` is reached.
            LogLost: the rest of the log cannot be read any more.
        """
        wish = LogWish(check_id(job_id), lines=tail, follow=follow, limits=self._stream_limits)
        checked = calls.check_protocol(protocol)
        return line_tail_of(self._open_frames, wish, checked, calls.check_timeout(timeout))

    def websocket_tail_job_logs(
        self, job_id: str, timeout: float = TAIL_TIMEOUT_S
    ) -> AsyncLogTail[str]:
        """Return the lines of a job's log as they come, through WebSockets; see `tail_job_logs`."""
        return self.tail_job_logs(job_id, timeout, "websocket")

    def stream_tail_job_logs(
        self, job_id: str, timeout: float = TAIL_TIMEOUT_S
    ) -> AsyncLogTail[str]:
        """Return the lines of a job's log as they come, through HTTP; see `tail_job_logs`."""
        return self.tail_job_logs(job_id, timeout, "http")

    def follow_job(
        self,
        job_id: str,
        timeout: float = TAIL_TIMEOUT_S,
        protocol: LogProtocol = "auto",
        *,
        offset: int = 0,
        tail: int | None = None,
        follow: bool = True,
    ) -> AsyncLogTail[LogEvent]:
        """Return all that is told of a job as it comes: its log with offsets, status and reports.

        Pieces of the log have their exact bytes (`LogPiece.data`), and their offsets. To go on
        where an earlier one ended give its `offset`.

        Args:
            job_id: which job.
            timeout: see `tail_job_logs`.
            protocol: likewise.
            offset: of the first byte.
            tail: begin so many lines before the end instead.
            follow: go on as the log grows.

        Raises:
            ClientError: as `tail_job_logs`.
        """
        wish = LogWish(check_id(job_id), offset, tail, follow, self._stream_limits)
        checked = calls.check_protocol(protocol)
        return tail_of(self._open_frames, wish, checked, calls.check_timeout(timeout))


async def _blocks(file: IO[bytes], size: int, told: Progress | None) -> AsyncGenerator[bytes]:
    """Yield a file from its beginning on."""
    file.seek(0)
    sent = 0
    while block := await asyncio.to_thread(file.read, _BLOCK):
        yield block
        sent += len(block)
        if told is not None:
            told(sent, size)
