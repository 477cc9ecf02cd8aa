"""Calls about jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypedDict

from pydantic import TypeAdapter

from agentray.client.calls.http import (
    Request,
    Response,
    parse_answer,
    path_of,
    post,
    query_of,
)
from agentray.client.errors import InvalidRequest
from agentray.client.records import Job
from agentray.core.job_log import MIN_MESSAGE_SIZE
from agentray.core.log_limits import StreamLimits
from agentray.errors import ConfigurationError
from agentray.protocol.jobs import JobStatus, check_job_id

LogProtocol = Literal["auto", "websocket", "http"]

_PROTOCOLS = ("auto", "websocket", "http")
_LONGEST_TIMEOUT_S = 300.0
_MOST_MESSAGE_SIZE = 1_048_576


class SubmitOptions(TypedDict, total=False):
    """What else there is to say of a job.

    Attributes:
        submission_id: its id, 1 to 100 letters, digits, `-`, `_`. The same id with the same body is
            the same job; None: a new one.
        runtime_env: Ray's: `pip` (packages, or a file of requirements on this machine), `env_vars`,
            `working_dir` as a URI …
        metadata: names and values by which it is found again.
        entrypoint_num_cpus: that Ray reserves for its command.
        entrypoint_num_gpus: likewise.
        entrypoint_memory: bytes, likewise.
        entrypoint_resources: likewise, by name.
        secrets: environment variables that are kept in no record.
    """

    submission_id: str | None
    runtime_env: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None
    entrypoint_num_cpus: float | None
    entrypoint_num_gpus: float | None
    entrypoint_memory: int | None
    entrypoint_resources: Mapping[str, float] | None
    secrets: Mapping[str, str] | None


class JobPage(NamedTuple):
    """Some jobs, newest first, and what to give as `before` for the next page."""

    jobs: list[Job]
    next: str | None


_job = TypeAdapter(Job)
_jobs = TypeAdapter(list[Job])
_text = TypeAdapter(str)


# What is wrong with the arguments is said where they are given


def check_id(value: object, what: str = "job") -> str:
    """Return an id when it is one.

    Raises:
        InvalidRequest: it is not.
    """
    if what == "job" and isinstance(value, str):
        try:
            return check_job_id(value)
        except ConfigurationError as error:
            raise InvalidRequest(400, "The id is malformed", str(error)) from error
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        raise InvalidRequest(400, "The id is malformed", f"{value!r} is no id of a {what}.")
    return value


def check_protocol(protocol: object) -> LogProtocol:
    """Return a protocol when it is one.

    Raises:
        InvalidRequest: it is not.
    """
    for known in _PROTOCOLS:
        if protocol == known:
            return known
    told = f"protocol={protocol!r}: it is one of {', '.join(_PROTOCOLS)}."
    raise InvalidRequest(400, "There is no such protocol", told)


def check_timeout(timeout: object) -> float:
    """Return seconds when they are above 0, and at most 300.

    Raises:
        InvalidRequest: they are not.
    """
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0 < timeout <= _LONGEST_TIMEOUT_S
    ):
        told = f"timeout={timeout!r}: seconds, above 0 and at most {_LONGEST_TIMEOUT_S:g}."
        raise InvalidRequest(400, "The timeout is malformed", told)
    return float(timeout)


def check_limits(limits: StreamLimits) -> StreamLimits:
    """Return limits when they are whole numbers that can be.

    Raises:
        InvalidRequest: they are not.
    """
    for name in ("max_messages", "max_lines", "max_bytes"):
        value: object = getattr(limits, name)
        if value is not None and (type(value) is not int or value < 1):
            raise InvalidRequest(400, "A limit is malformed", f"{name}={value!r}: 1 or more.")
    size = limits.max_message_size
    if type(size) is not int or not MIN_MESSAGE_SIZE <= size <= _MOST_MESSAGE_SIZE:
        told = f"max_message_size={size!r}: {MIN_MESSAGE_SIZE} to {_MOST_MESSAGE_SIZE}."
        raise InvalidRequest(400, "A limit is malformed", told)
    return limits


# Requests


def submit(entrypoint: str, options: SubmitOptions, idempotency_key: str) -> Request:
    """Submit a job.

    Raises:
        TypeError: there is no such option.
    """
    given: Mapping[str, Any] = options
    if unknown := given.keys() - SubmitOptions.__annotations__.keys():
        raise TypeError(f"A job has no option {min(unknown)!r}.")
    if options.get("submission_id") is not None:
        check_id(options.get("submission_id"))
    body = {"entrypoint": entrypoint, **given}
    return post(path_of("jobs"), body, idempotency_key=idempotency_key)


def list_jobs(
    limit: int | None,
    before: str | None,
    status: JobStatus | str | None,
    metadata: Mapping[str, str] | None,
) -> Request:
    """List jobs, newest first."""
    query = query_of(limit=limit, before=before, status=status)
    query |= {f"metadata.{name}": value for name, value in (metadata or {}).items()}
    return Request("GET", path_of("jobs"), query)


def get_job(job_id: str, wait_s: float = 0) -> Request:
    """Look at a job, waiting up to `wait_s` seconds for its end."""
    query = {"wait_s": f"{wait_s:.3f}"} if wait_s > 0 else {}
    return Request("GET", path_of("jobs", check_id(job_id)), query)


def get_logs(job_id: str, offset: int | None, tail: int | None, max_bytes: int | None) -> Request:
    """Read a job's log as it is now."""
    query = query_of(offset=offset, tail=tail, max_bytes=max_bytes)
    return Request("GET", path_of("jobs", check_id(job_id), "logs"), query)


def stop_job(job_id: str) -> Request:
    """Ask for the end of a job."""
    return post(path_of("jobs", check_id(job_id), "stop"), harmless=True)


def delete_job(job_id: str) -> Request:
    """Forget a job that has ended."""
    return Request("DELETE", path_of("jobs", check_id(job_id)))


def has_package(name: str) -> Request:
    """Ask whether a package is there."""
    return Request("GET", path_of("jobs", "packages", name))


def put_package(name: str) -> Request:
    """Upload a package; the body is given apart."""
    headers = {"Content-Type": "application/zip"}
    return Request("PUT", path_of("jobs", "packages", name), headers=headers)


# Answers


def parse_job(response: Response) -> Job:
    """Read a job.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _job)


def parse_jobs(response: Response) -> JobPage:
    """Read a list of jobs.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    found = parse_answer(response, _jobs)
    more = 'rel="next"' in response.headers.get("link", "")
    return JobPage(found, found[-1].job_id if more and found else None)


def parse_text(response: Response) -> str:
    """Read a text that came as JSON.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _text)
