"""The jobs of typed requests in the asynchronous client: `client.requests`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from agentray.client.calls import jobs as calls
from agentray.client.calls.jobs import JobOptions
from agentray.client.resource import AsyncResource
from agentray.ids import new_id
from agentray.protocol.async_jobs import JobStatus, JobType


class AsyncRequests(AsyncResource):
    """Starts typed requests, and looks after their jobs. Every method raises `ClientError`.

    ```python
    token = await client.requests.start("make-report", {"rows": 100})
    job = await client.requests.get("make-report", token, wait_s=20)
    ```
    """

    async def types(self) -> list[JobType]:
        """Return the types of requests that agents answer, with their schemas."""
        return calls.parse_types(await self._connection.send(calls.list_types()))

    async def start(
        self,
        request_type: str,
        request: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """Start the job of a request, and return its token: the id of its run.

        Args:
            request_type: `prompt`, or the name of a `Request` that agents handle.
            request: its fields, as JSON.
            idempotency_key: the same key finds the same job for 24 hours; None: a new one.
            options: see `JobOptions`.

        Raises:
            NotFound: no agent answers such requests, or there is no such session.
            InvalidRequest: a field is wrong.
            TypeError: there is no such option.
        """
        key = idempotency_key or new_id("key")
        asked = calls.start(request_type, request, options, key)
        return calls.parse_started(await self._connection.send(asked))

    async def get(
        self, request_type: str, token: str, *, wait_s: float = 0, after: int | None = None
    ) -> JobStatus:
        """Return a job as it is, when it has ended, or after `wait_s`.

        Args:
            request_type: of its request.
            token: what `start` returned.
            wait_s: seconds to wait; the gateway cuts what it finds too long.
            after: the `cursor` of an earlier look: the next progress ends the wait, too.

        Raises:
            NotFound: there is no such job.
        """
        asked = calls.get(request_type, token, wait_s, after)
        return calls.parse_status(await self._connection.send(asked, waiting_s=wait_s))

    async def cancel(self, request_type: str, token: str) -> JobStatus:
        """End a job, and return it; one that has ended is returned as it is.

        Raises:
            NotFound: there is no such job.
        """
        asked = calls.cancel(request_type, token)
        return calls.parse_status(await self._connection.send(asked, waiting_s=10))
