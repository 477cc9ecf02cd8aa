"""What the clients ask and how they read the answers. No I/O: values in, values out."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypedDict, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from agentray.client.errors import (
    ClientError,
    ConnectionFailed,
    ServerError,
    TooManyRequests,
    Unavailable,
    class_of,
)
from agentray.protocol.budgets import Budget
from agentray.protocol.cursors import Cursor
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run, RunStatus, Span

EVENT_STREAM = "text/event-stream"

_T = TypeVar("_T")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to a gateway. Each of them may be repeated without harm."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """The answer. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RunPage(NamedTuple):
    """Some runs, newest first, and what to give as `before` for the next page."""

    runs: list[Run]
    next: str | None


class DeadLetterPage(NamedTuple):
    """Some dead letters, newest first, and what to give as `before` for the next page."""

    dead_letters: list[DeadLetter]
    next: str | None


class LetterMatch(TypedDict, total=False):
    """Which dead letters are meant; what is not said does not matter.

    Attributes:
        kind: event, message or run.
        reason: why they are dead.
        agent: for which they were, as type/key or only its type; or the type of an event.
        retried: whether they were tried once more.
    """

    kind: LetterKind | None
    reason: LetterReason | None
    agent: str | None
    retried: bool | None


class _LetterPage(BaseModel):
    dead_letters: list[DeadLetter]
    next: str | None


class _Purged(BaseModel):
    purged: int


class _Page(BaseModel):
    runs: list[Run]
    next: str | None


class _Trace(BaseModel):
    spans: list[Span]


_run = TypeAdapter(Run)
_page = TypeAdapter(_Page)
_trace = TypeAdapter(_Trace)
_letter = TypeAdapter(DeadLetter)
_letter_page = TypeAdapter(_LetterPage)
_purged = TypeAdapter(_Purged)


# Requests


def prompt(  # noqa: PLR0913 - all that there is to say of a run
    text: str,
    *,
    agent: str | None,
    idempotency_key: str,
    wait_s: float | None = None,
    stream: bool = False,
    timeout_s: float | None = None,
    budget: Budget | None = None,
    max_attempts: int | None = None,
    durability: PromptDurability = "run",
    delay_s: float | None = None,
    at: datetime | None = None,
) -> Request:
    """Ask an agent.

    Args:
        text: what it is asked.
        agent: an agent type or type/key; None: the entry of the deployed app.
        idempotency_key: makes it safe to send the request again.
        wait_s: seconds the gateway waits for the run's end; None: its default.
        stream: answer with the run's events.
        timeout_s: seconds after which the run is ended; None: it has no deadline.
        budget: what the run may use.
        max_attempts: after so many that each lost a host it is given up.
        durability: `step`: when a host dies the run goes on after its last commit.
        delay_s: seconds after which the run begins.
        at: when it begins, an aware time.
    """
    body: dict[str, Any] = {"prompt": text, "agent": agent, "wait_s": wait_s, "stream": stream}
    body |= {"timeout_s": timeout_s, "max_attempts": max_attempts, "delay_s": delay_s}
    body["budget"] = None if budget is None else budget.model_dump(mode="json", exclude_none=True)
    body["durability"] = None if durability == "run" else durability
    body["at"] = None if at is None else at.isoformat()
    return _post("/v1/prompts", body, **{"Idempotency-Key": idempotency_key})


def cancel_run(run_id: str, wait_s: float | None = None) -> Request:
    """End a run; the gateway waits `wait_s` seconds for that, None: its default."""
    return _post(f"/v1/runs/{quote(run_id, safe='')}/cancel", {"wait_s": wait_s})


def answer_run(
    run_id: str,
    answer: Any,
    *,
    idempotency_key: str,
    question: str | None = None,
    wait_s: float | None = None,
) -> Request:
    """Answer what a run waits to be told.

    Args:
        run_id: the run.
        answer: JSON values.
        idempotency_key: makes it safe to send the request again.
        question: id of the question; None: the one that is asked now.
        wait_s: seconds the gateway waits for the run's end; None: its default.
    """
    options = {"question": question, "wait_s": wait_s}
    body = {"answer": answer, **{name: v for name, v in options.items() if v is not None}}
    return Request(
        "POST",
        f"/v1/runs/{quote(run_id, safe='')}/answer",
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key},
        body=json.dumps(body).encode(),
    )


def _post(path: str, body: Mapping[str, Any], **headers: str) -> Request:
    return Request(
        "POST",
        path,
        headers={"Content-Type": "application/json", **headers},
        body=json.dumps({name: v for name, v in body.items() if v is not None}).encode(),
    )


def get_run(run_id: str, wait_s: float = 0) -> Request:
    """Look at a run, waiting up to `wait_s` seconds for its end."""
    query = {"wait_s": f"{wait_s:.3f}"} if wait_s > 0 else {}
    return Request("GET", f"/v1/runs/{quote(run_id, safe='')}", query)


def list_runs(
    limit: int, before: str | None, status: RunStatus | None, agent: str | None
) -> Request:
    """List runs, newest first."""
    query = {
        "limit": str(limit),
        "before": before,
        "status": None if status is None else RunStatus(status).value,
        "agent": agent,
    }
    return Request("GET", "/v1/runs", {name: v for name, v in query.items() if v is not None})


def get_events(run_id: str, after: Cursor) -> Request:
    """Follow a run's events after those seen."""
    headers = {"Accept": EVENT_STREAM}
    if after.offset >= 0:
        headers["Last-Event-ID"] = str(after)
    return Request("GET", f"/v1/runs/{quote(run_id, safe='')}/events", headers=headers)


def get_trace(run_id: str) -> Request:
    """Ask for the spans of a run."""
    return Request("GET", f"/v1/runs/{quote(run_id, safe='')}/trace")


def list_letters(limit: int, before: str | None, match: LetterMatch) -> Request:
    """List dead letters, newest first."""
    query = {"limit": str(limit), **({} if before is None else {"before": before})}
    return Request("GET", "/v1/dead-letters", query | _match(match))


def get_letter(letter_id: str) -> Request:
    """Look at a dead letter."""
    return Request("GET", f"/v1/dead-letters/{quote(letter_id, safe='')}")


def retry_letter(letter_id: str) -> Request:
    """Try a dead letter once more; one that is tried already is not."""
    return Request("POST", f"/v1/dead-letters/{quote(letter_id, safe='')}/retry")


def forget_letter(letter_id: str) -> Request:
    """Forget a dead letter."""
    return Request("DELETE", f"/v1/dead-letters/{quote(letter_id, safe='')}")


def purge_letters(older_than_s: float | None, match: LetterMatch) -> Request:
    """Forget dead letters."""
    query = _match(match)
    if older_than_s is not None:
        query["older_than_s"] = f"{older_than_s:.3f}"
    return Request("DELETE", "/v1/dead-letters", query or {"all": "true"})


def _match(match: LetterMatch) -> dict[str, str]:
    retried = match.get("retried")
    query = {
        "kind": match.get("kind"),
        "reason": match.get("reason"),
        "agent": match.get("agent"),
        "retried": None if retried is None else str(retried).lower(),
    }
    return {name: str(value) for name, value in query.items() if value is not None}


def get_ready() -> Request:
    """Ask whether prompts can be served."""
    return Request("GET", "/readyz")


# Answers


def parse_run(response: Response) -> Run:
    """Read a run.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _run)


def parse_page(response: Response) -> RunPage:
    """Read a list of runs.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _page)
    return RunPage(page.runs, page.next)


def parse_trace(response: Response) -> list[Span]:
    """Read a trace.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _trace).spans


def parse_letter(response: Response) -> DeadLetter:
    """Read a dead letter.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _letter)


def parse_letter_page(response: Response) -> DeadLetterPage:
    """Read a list of dead letters.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _letter_page)
    return DeadLetterPage(page.dead_letters, page.next)


def parse_purged(response: Response) -> int:
    """Read how many dead letters were forgotten.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _purged).purged


def missing_parts(response: Response) -> list[str]:
    """Read what is missing before prompts can be served; [] when nothing is.

    Raises:
        ClientError: the answer is nothing that `/readyz` says.
    """
    if response.status == 200:
        return []
    error = error_of(response)
    missing = error.problem.get("missing")
    if not missing:
        raise error
    return [str(part) for part in missing]


def run_id_of(response: Response) -> str:
    """Return the id of the run that a `Location` header names.

    Raises:
        ClientError: there is no such header.
    """
    location = response.headers.get("location", "")
    if not location.startswith("/v1/runs/"):
        raise ClientError(response.status, "The answer names no run")
    return location.removeprefix("/v1/runs/")


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
    return class_of(response.status)(
        response.status,
        str(problem.get("title") or f"HTTP status {response.status}"),
        str(problem.get("detail") or ""),
        problem,
        _seconds(response.headers.get("retry-after", "")),
    )


def pause_before_retry(error: ClientError, attempt: int) -> float | None:
    """Return how many seconds to wait before a request is sent again; None: do not.

    Args:
        error: why it failed.
        attempt: how often it was sent, from 1.
    """
    passing = isinstance(error, ConnectionFailed | Unavailable | TooManyRequests)
    # An error page is no word of the gateway's: what stands before it lost it in the midst.
    if not passing and (not isinstance(error, ServerError) or error.problem):
        return None
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1))
    # Jitter: clients that failed together shall not come back together.
    return max(error.retry_after_s or 0.0, pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


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
