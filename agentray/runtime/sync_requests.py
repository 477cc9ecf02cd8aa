"""Typed requests for programs that do not await."""

from __future__ import annotations

from agentray.protocol.async_jobs import JobType
from agentray.runtime.request_client import RequestClient
from agentray.runtime.sync_part import SyncPart, blocking


class SyncRequests(SyncPart[RequestClient]):
    """A `RequestClient` whose methods block; see there for what each one does and raises."""

    start = blocking(RequestClient.start)
    send = blocking(RequestClient.send)
    get = blocking(RequestClient.get)
    cancel = blocking(RequestClient.cancel)

    def types(self) -> list[JobType]:
        """Return the types of requests that agents answer now, with their schemas."""
        return self._target.types()
