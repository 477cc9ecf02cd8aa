"""Requests that take a while, as objects that send themselves and take their answer in.

::

    @dataclass
    class MakeReport(AsynchronousCommunicator):
        rows: int
        title: str | None = None

        request_type: ClassVar[str] = "make-report"

        def to_request(self) -> dict[str, Any]:
            return {"rows": self.rows}

        def fill_from_response(self, response: Any) -> None:
            self.title = response["title"]

    report = await MakeReport(rows=100).send_job_and_wait_async()  # or .send_job_and_wait()
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Self, TypeVar

from agentray.client.async_client import AsyncAgentClient
from agentray.client.calls.jobs import JobOptions
from agentray.client.errors import JobFailed, JobTimedOut
from agentray.client.progress import ProgressBar
from agentray.client.sync_client import AgentClient
from agentray.protocol.async_jobs import JobState, JobStatus
from agentray.protocol.runs import RunError

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 120.0

_LONGEST_WAIT_S = 20.0  # of one request; the gateway answers earlier when something happens

logger = logging.getLogger("agentray.client")


class AsynchronousCommunicator:
    """Sends a request as a job, waits for it, and takes its response in.

    A class that has this for a base says with which type of request it asks, what it asks, and
    what it makes of the response. It is changed only when its job has completed: a job that fails
    leaves it as it was, but for `token`.

    Attributes:
        request_type: the name of the request, as `client.requests.types()` has it.
        token: of its last job, from the moment on at which that was accepted; None: it has none.
        failures: what went wrong in parts of its last job, which completed all the same.
    """

    request_type: ClassVar[str]

    token: str | None = None
    failures: tuple[RunError, ...] = ()

    def to_request(self) -> Mapping[str, Any]:
        """Return the fields of the request, as JSON."""
        raise NotImplementedError(f"{type(self).__name__} has no to_request.")

    def job_options(self) -> JobOptions:
        """Return how the job is treated."""
        return {}

    def fill_from_response(self, response: Any) -> None:
        """Take the response in, which is JSON."""
        raise NotImplementedError(f"{type(self).__name__} has no fill_from_response.")

    async def post_exchange_async(self, client: AsyncAgentClient, **kwargs: Any) -> None:
        """Do whatever else is to be done when the response is there. Nothing, here.

        Args:
            client: that was used.
            kwargs: the `post_exchange_args` of the call.
        """

    async def send_job_and_wait_async(
        self,
        post_exchange_args: Mapping[str, Any] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        client: AsyncAgentClient | None = None,
        show_progress: bool = False,
        on_progress: Callable[[JobStatus], None] | None = None,
    ) -> Self:
        """Send it as a job, wait until that has completed, and return it.

        Who stops waiting (a timeout, a cancelled task) does not end the job: `cancel_job_async`
        does, and `wait_for_job_async` goes on waiting.

        Args:
            post_exchange_args: for `post_exchange_async`.
            timeout: seconds without any progress after which it is waited no longer; whatever the
                agents tell of it begins them anew. None: for ever.
            client: None: one for this call alone, which finds its gateway by itself.
            show_progress: show a bar on a terminal.
            on_progress: called whenever something is new.

        Raises:
            JobFailed: the job has ended without a response.
            JobTimedOut: there was no progress for so long; the job goes on.
            ClientError: the gateway refuses, or cannot be reached.
        """
        async with using(client) as used:
            self.token, self.failures = None, ()
            request, options = self.to_request(), self.job_options()
            self.token = await used.requests.start(self.request_type, request, **options)
            return await self._wait(used, post_exchange_args, timeout, show_progress, on_progress)

    async def wait_for_job_async(
        self,
        post_exchange_args: Mapping[str, Any] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        client: AsyncAgentClient | None = None,
        show_progress: bool = False,
        on_progress: Callable[[JobStatus], None] | None = None,
    ) -> Self:
        """Wait for the job that `token` names, as `send_job_and_wait_async` does.

        Raises:
            ValueError: it has no job.
            JobFailed, JobTimedOut, ClientError: as there.
        """
        self._its_token()
        async with using(client) as used:
            return await self._wait(used, post_exchange_args, timeout, show_progress, on_progress)

    async def cancel_job_async(self, *, client: AsyncAgentClient | None = None) -> JobStatus:
        """End its job, and return what has become of it.

        Raises:
            ValueError: it has no job.
            ClientError: the gateway refuses, or cannot be reached.
        """
        token = self._its_token()
        async with using(client) as used:
            return await used.requests.cancel(self.request_type, token)

    # The same without an event loop

    def send_job_and_wait(
        self,
        post_exchange_args: Mapping[str, Any] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        client: AgentClient | None = None,
        show_progress: bool = False,
        on_progress: Callable[[JobStatus], None] | None = None,
    ) -> Self:
        """Do as `send_job_and_wait_async`, and block meanwhile; also where an event loop runs."""
        return with_client(
            client,
            lambda used: self.send_job_and_wait_async(
                post_exchange_args, timeout, client=used, show_progress=show_progress,
                on_progress=on_progress,
            ),
        )  # fmt: skip

    def wait_for_job(
        self,
        post_exchange_args: Mapping[str, Any] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        client: AgentClient | None = None,
        show_progress: bool = False,
        on_progress: Callable[[JobStatus], None] | None = None,
    ) -> Self:
        """Do as `wait_for_job_async`, and block meanwhile."""
        return with_client(
            client,
            lambda used: self.wait_for_job_async(
                post_exchange_args, timeout, client=used, show_progress=show_progress,
                on_progress=on_progress,
            ),
        )  # fmt: skip

    def cancel_job(self, *, client: AgentClient | None = None) -> JobStatus:
        """Do as `cancel_job_async`, and block meanwhile."""
        return with_client(client, lambda used: self.cancel_job_async(client=used))

    # Waiting

    def _its_token(self) -> str:
        if self.token is None:
            raise ValueError(f"This {type(self).__name__} was not sent yet: it has no job.")
        return self.token

    async def _wait(
        self,
        client: AsyncAgentClient,
        post_exchange_args: Mapping[str, Any] | None,
        timeout: float | None,
        show_progress: bool,
        on_progress: Callable[[JobStatus], None] | None,
    ) -> Self:
        with ProgressBar(self.request_type, shown=show_progress) as bar:

            def heard(job: JobStatus) -> None:
                bar.show(job.progress)
                if on_progress is not None:
                    on_progress(job)

            job = await _until_ended(client, self.request_type, self._its_token(), timeout, heard)
        if job.state is JobState.FAILED:
            raise JobFailed(job.token, job.error)
        self.failures = job.failures
        if job.failures:
            told = "; ".join(f"{each.type}: {each.message}" for each in job.failures)
            logger.warning("%d parts of job %s failed: %s", len(job.failures), job.token, told)
        self.fill_from_response(job.response)
        await self.post_exchange_async(client, **(post_exchange_args or {}))
        return self


async def _until_ended(
    client: AsyncAgentClient,
    request_type: str,
    token: str,
    timeout: float | None,
    heard: Callable[[JobStatus], None],
) -> JobStatus:
    """Return a job when it has ended.

    Raises:
        JobTimedOut: nothing new came of it for `timeout` seconds.
    """
    after: int | None = None
    active = time.monotonic()
    while True:
        left_s = _LONGEST_WAIT_S if timeout is None else active + timeout - time.monotonic()
        if left_s <= 0:
            raise JobTimedOut(token, timeout or 0.0)
        wait_s = min(left_s, _LONGEST_WAIT_S)
        job = await client.requests.get(request_type, token, wait_s=wait_s, after=after)
        if job.cursor != after:
            after, active = job.cursor, time.monotonic()
            heard(job)
        if job.state is not JobState.PROCESSING:
            return job
        if job.question is not None:
            await asyncio.sleep(0.5)  # it waits for a person, and answers at once meanwhile


@asynccontextmanager
async def using(client: AsyncAgentClient | None) -> AsyncGenerator[AsyncAgentClient]:
    """Give a client, or where there is none, one that is closed afterwards."""
    if client is not None:
        yield client
        return
    async with AsyncAgentClient() as own:
        yield own


def with_client(
    client: AgentClient | None, work: Callable[[AsyncAgentClient], Coroutine[Any, Any, T]]
) -> T:
    """Do something with the asynchronous client below a blocking one, on that one's own loop."""
    if client is not None:
        return client.do(work)
    with AgentClient() as own:
        return own.do(work)
