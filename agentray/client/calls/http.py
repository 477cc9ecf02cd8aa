"""Requests and answers of a gateway as values, and what their statuses mean."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from agentray.client.errors import (
    ClientError,
    ConnectionFailed,
    ServerError,
    TimedOut,
    TooManyRequests,
    Unavailable,
    class_of,
)

EVENT_STREAM = "text/event-stream"

_T = TypeVar("_T")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to a gateway.

    Attributes:
        method: GET, POST …
        path: from the gateway's root on, quoted.
        query: what follows the `?`; several values: the name several times.
        headers: besides those of who asks.
        body: as bytes.
        harmless: a POST that may be repeated although it has no idempotency key.
    """

    method: str
    path: str
    query: Mapping[str, str | Sequence[str]] = field(default_factory=dict[str, str | Sequence[str]])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    harmless: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when nobody knows what became of it."""
        return self.method != "POST" or self.harmless or "Idempotency-Key" in self.headers


@dataclass(frozen=True, slots=True)
class Response:
    """The answer. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def path_of(*parts: str) -> str:
    """Return a path below `/v1`; whatever is in a part, it stays one."""
    return "/v1/" + "/".join(map(_quoted, parts))


def _quoted(part: str) -> str:
    # Whoever follows the standard resolves what looks like a step up, or none.
    return part.replace(".", "%2E") if set(part) == {"."} else quote(part, safe="@")


def query_of(**values: object) -> dict[str, str]:
    """Return a query of what is not None."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def post(
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    method: str = "POST",
    idempotency_key: str | None = None,
    harmless: bool = False,
) -> Request:
    """Return a request with a JSON body, without what is None in it.

    Args:
        path: see `path_of`.
        body: its members; None: there is no body.
        method: POST, PUT or PATCH.
        idempotency_key: makes it safe to send the request again.
        harmless: it may be repeated without a key.
    """
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    if body is None:
        return Request(method, path, headers=headers, harmless=harmless)
    given = {name: value for name, value in body.items() if value is not None}
    return Request(
        method,
        path,
        headers={"Content-Type": "application/json", **headers},
        body=json.dumps(given).encode(),
        harmless=harmless,
    )


def check(response: Response) -> None:
    """Let a good answer pass.

    Raises:
        ClientError: the answer is a problem; its class says which.
    """
    if not 200 <= response.status < 300:
        raise error_of(response)


def error_of(response: Response) -> ClientError:
    """Return the error that an answer tells of."""
    problem = _document(response.body)
    if response.status == 408:  # a proxy's patience was shorter than ours
        return TimedOut(str(problem.get("detail") or "a proxy has given up"))
    return class_of(response.status)(
        response.status,
        str(problem.get("title") or f"HTTP status {response.status}"),
        str(problem.get("detail") or ""),
        problem,
        _seconds(response.headers.get("retry-after", "")),
    )


def pause_before_retry(
    error: ClientError, attempt: int, *, repeatable: bool = True
) -> float | None:
    """Return how many seconds to wait before a request is sent again; None: do not.

    Args:
        error: why it failed.
        attempt: how often it was sent, from 1.
        repeatable: whether it may be sent again when nobody knows what became of it.
    """
    if not repeatable and not was_refused(error):
        return None
    passing = isinstance(error, ConnectionFailed | Unavailable) or (
        # Who may have no more says so without a time: then waiting does not help by itself.
        isinstance(error, TooManyRequests) and error.retry_after_s is not None
    )
    # An error page is no word of the gateway's: what stands before it lost it in the midst.
    if not passing and (not isinstance(error, ServerError) or error.problem):
        return None
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))
    # Jitter: clients that failed together shall not come back together.
    return max(error.retry_after_s or 0.0, pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


def was_refused(error: ClientError) -> bool:
    """Whether the request had no effect: it was not sent, or the gateway itself refused it."""
    if isinstance(error, ConnectionFailed):
        return not error.sent
    return isinstance(error, Unavailable | TooManyRequests) and bool(error.problem)


def parse_answer(response: Response, adapter: TypeAdapter[_T]) -> _T:
    """Read an answer.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    check(response)
    try:
        return adapter.validate_json(response.body)
    except ValidationError as error:
        told = f"{error.error_count()} errors, the first: {error.errors()[0]['msg']}"
        raise ClientError(
            response.status, "The answer is not what an agentray gateway says", told
        ) from error


def _document(body: bytes) -> dict[str, Any]:
    try:
        document: Any = json.loads(body)
    except ValueError:  # a proxy's page: the status has to do
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def _seconds(header: str) -> float | None:
    # A proxy may send a date instead: then our own pauses apply.
    return float(header) if header.isascii() and header.isdecimal() else None
