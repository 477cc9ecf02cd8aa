"""Errors as HTTP: RFC 9457 problem documents, and the one table from error class to status.

A problem tells the caller what to change. It never shows internals: an error that nobody expected
becomes a 500 with an id, and the log has the rest under that id.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

from agentray.errors import (
    AddressError,
    AgentrayError,
    AnswerInvalid,
    ChannelClosed,
    DeploymentStopped,
    FilterRejected,
    IdempotencyConflict,
    JobConflict,
    JobRefused,
    JobRejected,
    JobRunning,
    NoHandler,
    NotRetryable,
    NotWaiting,
    Overloaded,
    PayloadError,
    RayUnavailable,
    ScheduleConflict,
    SessionBusy,
    SessionConflict,
    StoreUnavailable,
)
from agentray.ids import new_id

MEDIA_TYPE = "application/problem+json"

logger = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(description="Name of the field; '' for the body as a whole.")
    location: str = Field(description="Where it is: body, query, path or header.")
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable name of the kind of problem, a URN.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time, and what to do about it.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="The fields that are wrong; with status 400 and 422."
    )
    run_id: str | None = Field(
        default=None, description="The run that is in the way; with status 409."
    )
    missing: list[str] | None = Field(
        default=None, description="What is not there yet; from /readyz."
    )
    id: str | None = Field(default=None, description="To find it in the log; with status 500.")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem."""

    status: int
    name: str
    title: str


MALFORMED = Kind(400, "malformed-request", "The request cannot be read")
UNAUTHORIZED = Kind(401, "unauthorized", "A valid API key is needed")
FORBIDDEN = Kind(403, "forbidden", "The API key does not allow this")
_PYDANTIC = "Value error, "
"""What pydantic says before the messages of our own checks."""

NOT_FOUND = Kind(404, "not-found", "There is nothing here")
UNKNOWN = Kind(404, "unknown", "What the request names does not exist")
METHOD_NOT_ALLOWED = Kind(405, "method-not-allowed", "The method is not allowed here")
CONFLICT = Kind(409, "idempotency-conflict", "The idempotency key was used for another request")
NOT_RETRYABLE = Kind(409, "not-retryable", "It cannot be tried once more")
NOT_WAITING = Kind(409, "not-waiting", "The run does not wait for this answer")
JOB_RUNNING = Kind(409, "job-running", "The job has not ended")
TAKEN = Kind(409, "taken", "The id is in use")
SESSION_BUSY = Kind(409, "session-busy", "The session has a run under way")
VERSION_MISMATCH = Kind(412, "version-mismatch", "It was changed since it was read")
TOO_LARGE = Kind(413, "too-large", "The request body is too large")
MISDIRECTED = Kind(421, "misdirected", "This gateway does not serve the host that was asked for")
INVALID = Kind(422, "invalid-request", "The request has fields that are wrong")
VERSION_REQUIRED = Kind(428, "version-required", "The version that was read is needed")
OVERLOADED = Kind(429, "overloaded", "Too much is waiting already")
REFUSED = Kind(429, "refused", "The policy lets no further job in now")
INTERNAL = Kind(500, "internal-error", "Something went wrong here")
IN_USE = Kind(409, "in-use", "It is needed")
NOT_HERE = Kind(501, "not-available-here", "This cluster cannot do this")
UNAVAILABLE = Kind(503, "unavailable", "The service cannot take this request now")


class HttpProblem(AgentrayError):
    """A request is answered with a problem document."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldProblem] | None = None,
        **more: Any,
    ) -> None:
        """Make one.

        Args:
            kind: which problem it is.
            detail: what happened this time.
            headers: further headers of the response.
            errors: the fields that are wrong.
            more: further members of the document, such as `run_id`.
        """
        super().__init__(detail)
        self.kind, self.detail = kind, detail
        self.headers = dict(headers or {})
        self.errors = errors
        self.more = more

    def document(self) -> Problem:
        """Return the problem document."""
        return Problem(
            type=f"urn:agentray:problem:{self.kind.name}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            errors=None if self.errors is None else list(self.errors),
            **self.more,
        )

    def response(self) -> Response:
        """Return the HTTP response."""
        return Response(
            self.document().model_dump_json(exclude_none=True),
            status_code=self.kind.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def invalid(field: str, location: str, message: str) -> HttpProblem:
    """Return the problem of one wrong field."""
    return from_fields([FieldProblem(field=field, location=location, message=message)])


def from_fields(errors: Sequence[FieldProblem]) -> HttpProblem:
    """Return the problem of wrong fields."""
    told = "; ".join(f"{e.field or e.location}: {e.message}" for e in errors)
    return HttpProblem(INVALID, told, errors=errors)


def from_validation(
    errors: Sequence[ErrorDetails], location: str, *, within: str | None = None
) -> HttpProblem:
    """Return the problem that pydantic found: a body that is no JSON, or wrong fields.

    Args:
        errors: what pydantic told.
        location: where the fields are: body, query, path or header.
        within: the field that these are parts of; None: they are the outermost.
    """
    outer = () if within is None else (within,)
    for error in errors:
        if error["type"] == "json_invalid":
            told = error["msg"].removeprefix("Invalid JSON: ")
            return HttpProblem(MALFORMED, f"The body is not JSON: {told}.")
    return from_fields(
        [
            FieldProblem(
                field=".".join(map(str, (*outer, *error["loc"]))),
                location=location,
                message=error["msg"].removeprefix(_PYDANTIC),
            )
            for error in errors
        ]
    )


def from_error(error: AgentrayError) -> HttpProblem:  # noqa: C901, PLR0911, PLR0912 - one row per class
    """Return the problem that tells of an error, by its class."""
    match error:
        case HttpProblem():
            return error
        case NoHandler():
            return invalid("agent", "body", str(error))
        case AnswerInvalid():
            return invalid(error.field, "body", error.reason)
        case NotWaiting():
            return HttpProblem(NOT_WAITING, str(error), run_id=error.run_id)
        case PayloadError():
            return invalid("request", "query", str(error))
        case AddressError():
            return HttpProblem(UNKNOWN, str(error))
        case NotRetryable():
            return HttpProblem(NOT_RETRYABLE, str(error))
        case JobRejected():
            return invalid(error.field, "body", error.problem)
        case JobConflict():
            return HttpProblem(TAKEN, str(error), job_id=error.job_id)
        case JobRunning():
            return HttpProblem(JOB_RUNNING, str(error), job_id=error.job_id)
        case JobRefused():
            # Nothing was kept: whoever tries again does no harm.
            headers = retry_after(error.retry_after_s)
            return HttpProblem(REFUSED, str(error), headers=headers, reasons=list(error.reasons))
        case FilterRejected():
            return invalid(error.field[:80], "query", error.problem)
        case RayUnavailable():
            return HttpProblem(UNAVAILABLE, str(error), headers=retry_after(2))
        case ScheduleConflict() | SessionConflict():
            return HttpProblem(TAKEN, str(error))
        case SessionBusy():
            return HttpProblem(SESSION_BUSY, str(error), run_id=error.run_id)
        case IdempotencyConflict():
            return HttpProblem(CONFLICT, str(error), run_id=error.run_id)
        case Overloaded() | DeploymentStopped():
            kind = OVERLOADED if isinstance(error, Overloaded) else UNAVAILABLE
            return HttpProblem(kind, str(error), headers=retry_after(error.retry_after_s))
        case StoreUnavailable():
            # Not its text: it may name the database's address.
            return HttpProblem(
                UNAVAILABLE, "The database cannot be reached.", headers=retry_after(1)
            )
        case ChannelClosed():
            return HttpProblem(
                UNAVAILABLE, "This replica is going away; ask again.", headers=retry_after(1)
            )
        case _:
            return internal(error)


def internal(error: Exception) -> HttpProblem:
    """Log an error that nobody expected, and return a problem that shows only the log's id."""
    error_id = new_id("err")
    extra = {"action": "request_failed", "error_id": error_id}
    logger.error("request failed, id %s", error_id, exc_info=error, extra=extra)
    return HttpProblem(INTERNAL, f"Look for {error_id} in the gateway's log.", id=error_id)


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header that asks to wait: whole seconds, rounded up."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


async def on_error(_request: Request, error: Exception) -> Response:
    """Answer with the problem of one of our errors."""
    if not isinstance(error, AgentrayError):
        return internal(error).response()
    problem = from_error(error)
    if problem.kind is UNAVAILABLE:
        logger.warning("request refused: %s", error, extra={"action": "request_refused"})
    return problem.response()


async def on_invalid_request(_request: Request, error: Exception) -> Response:
    """Answer with the problem of query, path or header fields that FastAPI refused."""
    if not isinstance(error, RequestValidationError):
        return internal(error).response()
    fields = [
        FieldProblem(
            field=".".join(map(str, found["loc"][1:])),
            location=str(found["loc"][0]),
            message=str(found["msg"]).removeprefix(_PYDANTIC),
        )
        for found in error.errors()
    ]
    return from_fields(fields).response()


async def on_unroutable(request: Request, error: Exception) -> Response:
    """Answer when no route fits the path or the method."""
    path = request.url.path
    if getattr(error, "status_code", None) == HTTPStatus.METHOD_NOT_ALLOWED:
        headers: Mapping[str, str] = getattr(error, "headers", None) or {}
        detail = f"{request.method} is not possible for {path}."
        return HttpProblem(METHOD_NOT_ALLOWED, detail, headers=headers).response()
    return HttpProblem(NOT_FOUND, f"There is no {path}.").response()
