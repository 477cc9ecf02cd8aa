"""Errors of the clients, below `agentray.errors.AgentrayError`.

::

    AgentrayError
    └── ClientError                 the gateway's answer was not what was asked for
        ├── InvalidRequest          400, 422: the request is wrong (`errors` names the fields)
        ├── Unauthorized            401: no key, or one that is unknown or revoked
        ├── Forbidden               403: the key lacks the scope, or is another tenant's
        ├── NotFound                404: there is no such thing
        ├── Conflict                409: the key was used otherwise; what is asked for cannot be
        ├── PayloadTooLarge         413
        ├── TooManyRequests         429: `retry_after_s`
        │   └── StreamLimitExceeded     a limit of `stream_limits` was reached; `offset`, to go on
        ├── WebSocketRefused        the handshake of a WebSocket was not taken; its status
        ├── Unavailable             503: `retry_after_s`
        ├── ServerError             other 5xx: look into the gateway's log for `problem["id"]`
        │   ├── NotSupported            501: this cluster has no such thing
        │   └── LogLost                 the rest of a log cannot be read any more
        ├── JobFailed               a job has ended without a response; `error` tells why
        ├── JobTimedOut             nothing new came of a job; it goes on
        └── ConnectionFailed        no answer at all: it could not be reached, or broke
            └── TimedOut            408: it took too long
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentray.errors import AgentrayError
from agentray.protocol.runs import RunError


class ClientError(AgentrayError):
    """The gateway did not do what was asked.

    Attributes:
        status_code: the HTTP status; where there was no answer, that which means the same.
        title: what kind of problem it is.
        detail: what happened this time.
        problem: the whole problem document (RFC 9457).
        retry_after_s: seconds that the gateway asked to wait, None when it did not.
    """

    def __init__(
        self,
        status_code: int,
        title: str,
        detail: str = "",
        problem: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status_code, self.title, self.detail = status_code, title, detail
        self.problem: dict[str, Any] = dict(problem or {})
        self.retry_after_s = retry_after_s


class InvalidRequest(ClientError):
    """The request is wrong."""

    @property
    def errors(self) -> list[dict[str, str]]:
        """The fields that are wrong: `field`, `location` and `message` of each."""
        return self.problem.get("errors", [])


class Unauthorized(ClientError):
    """There is no API key, or it is unknown or revoked."""


class Forbidden(ClientError):
    """The API key lacks the scope, or belongs to another tenant."""


class NotFound(ClientError):
    """There is no such thing: an agent type, a run, a job and so on."""


class Conflict(ClientError):
    """The idempotency key was used for another request, or what is asked for cannot be any more."""

    @property
    def run_id(self) -> str:
        """The run that the key belongs to; "" where it is not about a key."""
        return self.problem.get("run_id", "")


class PayloadTooLarge(ClientError):
    """The request's body is over the gateway's limit."""


class TooManyRequests(ClientError):
    """Too much is waiting at the gateway."""


class Unavailable(ClientError):
    """The gateway cannot take the request now."""


class ServerError(ClientError):
    """Something went wrong in the gateway."""


class WebSocketRefused(ClientError):
    """The gateway, or what is before it, did not take the handshake of a WebSocket.

    Attributes:
        status_code: of the answer, which had no reason with it.
    """


class StreamLimitExceeded(TooManyRequests):
    """A stream has reached one of the client's limits.

    Attributes:
        limit: which one: `max_lines`, `max_bytes` or `max_messages`.
        offset: in the log, at which it can go on.
    """

    def __init__(self, limit: str, offset: int) -> None:
        super().__init__(429, "The stream has reached its limit", f"{limit}, at byte {offset}")
        self.limit, self.offset = limit, offset


class NotSupported(ServerError):
    """This cluster cannot do that; the detail names what is missing."""


class LogLost(ServerError):
    """The rest of a log cannot be read any more.

    Attributes:
        offset: up to which it was read.
    """

    def __init__(self, detail: str, offset: int) -> None:
        super().__init__(500, "The rest of the log is lost", detail)
        self.offset = offset


class JobFailed(ClientError):
    """A job has ended without a response.

    Attributes:
        token: of the job.
        error: why; None: it was not told.
    """

    def __init__(self, token: str, error: RunError | None) -> None:
        why = f"{error.type}: {error.message}" if error else "nobody knows why"
        super().__init__(500, "The job failed", f"{token}: {why}")
        self.token, self.error = token, error


class JobTimedOut(ClientError):
    """There was no progress of a job for as long as its caller waits. It goes on.

    Attributes:
        token: of the job.
    """

    def __init__(self, token: str, timeout_s: float) -> None:
        super().__init__(408, "No progress", f"nothing new of job {token} for {timeout_s:g} s")
        self.token, self.timeout_s = token, timeout_s


class ConnectionFailed(ClientError):
    """The gateway could not be reached, or the connection broke.

    Attributes:
        sent: whether the request may have arrived there.
    """

    def __init__(self, detail: str, *, sent: bool = True) -> None:
        super().__init__(503, "No answer from the gateway", detail)  # as one would say, if it could
        self.sent = sent


class TimedOut(ConnectionFailed):
    """Connecting, or the answer, took longer than the client waits."""

    def __init__(self, detail: str, *, sent: bool = True) -> None:
        super().__init__(detail, sent=sent)
        self.status_code, self.title = 408, "The gateway takes too long"


_BY_STATUS: dict[int, type[ClientError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    413: PayloadTooLarge,
    422: InvalidRequest,
    429: TooManyRequests,
    501: NotSupported,
    503: Unavailable,
}


def class_of(status: int) -> type[ClientError]:
    """Return the class of error that a status means."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else ClientError)
