"""Calls about the jobs of typed requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from pydantic import TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.protocol.async_jobs import JobStatus, JobType, StartedJob

_started = TypeAdapter(StartedJob)
_status = TypeAdapter(JobStatus)
_types = TypeAdapter(list[JobType])


class JobOptions(TypedDict):
    """How the job of a request is treated.

    Attributes:
        agent: an agent type (a fresh instance answers) or type/key; None: the only one that can.
        session: of a prompt, the session that it is given in.
        timeout_s: seconds from its acceptance after which it is ended.
        on_error: what an error in a part of it means: the job fails, or tells it in `failures`.
    """

    agent: NotRequired[str | None]
    session: NotRequired[str | None]
    timeout_s: NotRequired[float | None]
    on_error: NotRequired[Literal["fail", "collect"]]


def start(
    request_type: str, request: Mapping[str, Any], options: JobOptions, idempotency_key: str
) -> Request:
    """Start a job. Asking again with the same key finds the same one."""
    given = {name: value for name, value in options.items() if value is not None}
    body = {"request": dict(request), **given}
    path = path_of("async", request_type, "start")
    return post(path, body, idempotency_key=idempotency_key)


def get(request_type: str, token: str, wait_s: float, after: int | None) -> Request:
    """Look at a job."""
    query = query_of(wait_s=wait_s or None, after=after)
    return Request("GET", path_of("async", request_type, "get", token), query)


def cancel(request_type: str, token: str) -> Request:
    """End a job. Asking again does no harm."""
    return post(path_of("async", request_type, "cancel", token), harmless=True)


def list_types() -> Request:
    """List the types of requests."""
    return Request("GET", path_of("async"))


def parse_started(response: Response) -> str:
    """Read the token of a job.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _started).token


def parse_status(response: Response) -> JobStatus:
    """Read a job.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _status)


def parse_types(response: Response) -> list[JobType]:
    """Read types of requests.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _types)
