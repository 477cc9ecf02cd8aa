"""Calls about prompts and runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypedDict

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import (
    EVENT_STREAM,
    Request,
    Response,
    parse_answer,
    path_of,
    post,
    query_of,
)
from agentray.client.calls.parts import with_files
from agentray.client.errors import ClientError
from agentray.protocol.attachments import Attachment
from agentray.protocol.budgets import Budget
from agentray.protocol.cursors import Cursor
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.runs import Run, RunStatus, Span
from agentray.protocol.sessions import PolicyName, SessionPolicy
from agentray.protocol.webhooks import WebhookSpec


class PromptOptions(TypedDict, total=False):
    """What else there is to say of a prompt's run.

    Attributes:
        run_timeout_s: seconds from now, or from when it is to begin, after which the run is ended
            as `timed_out`, wherever it is then; None: never.
        budget: what the run may use; beyond it, it ends as `budget_exceeded`.
        max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
        durability: `run`: it begins again when a host dies. `step`: it goes on after the last
            commit.
        delay_s: seconds after which the run begins; it is accepted at once.
        at: when it begins, an aware time.
        webhook: whom to tell when it has ended.
        session: id of the session that it is given in: its agent takes it, after the session's
            earlier runs.
        policy: while one of these is under way: `enqueue`: it waits; `reject`: it is refused
            (`Conflict`); `interrupt`: that one is cancelled; `rollback`: the same, and the agent's
            state goes back to what it was before it.
        attachments: files that the agent is given with it: `Attachment.of_file(PATH)`.
        output_schema: JSON Schema of the result, or a pydantic model; `run.result_as(MODEL)` reads
            the result. One that does not fit ends the run as failed with `OutputInvalid`.
        enable_trace: each handled message is one of its events, `span`, as it comes.
    """

    run_timeout_s: float | None
    budget: Budget | None
    max_attempts: int | None
    durability: PromptDurability
    delay_s: float | None
    at: datetime | None
    webhook: WebhookSpec | None
    session: str | None
    policy: SessionPolicy | PolicyName
    attachments: Sequence[Attachment]
    output_schema: Mapping[str, Any] | type[BaseModel] | None
    enable_trace: bool


def begins_later(options: PromptOptions) -> bool:
    """Whether a prompt's run is to begin later."""
    return options.get("delay_s") is not None or options.get("at") is not None


class RunPage(NamedTuple):
    """Some runs, newest first, and what to give as `before` for the next page."""

    runs: list[Run]
    next: str | None


class _Page(BaseModel):
    runs: list[Run]
    next: str | None


class TracePage(BaseModel):
    """Some spans of a run's trace, and where to go on."""

    spans: list[Span]
    next: datetime | None = None
    more: bool = False


_run = TypeAdapter(Run)
_page = TypeAdapter(_Page)
_trace = TypeAdapter(TracePage)


# Requests


def prompt(
    text: str,
    agent: str | None,
    options: PromptOptions,
    *,
    idempotency_key: str,
    wait_s: float | None = None,
    stream: bool = False,
) -> Request:
    """Ask an agent.

    Args:
        text: what it is asked.
        agent: an agent type or type/key; None: the entry of the deployed app.
        options: what else there is to say.
        idempotency_key: makes it safe to send the request again.
        wait_s: seconds the gateway waits for the run's end; None: its default.
        stream: answer with the run's events.

    Raises:
        TypeError: there is no such option.
    """
    said = {"prompt": text, "agent": agent, "wait_s": wait_s, "stream": stream, **_said(options)}
    request = post(path_of("prompts"), said, idempotency_key=idempotency_key)
    files = options.get("attachments", ())
    return with_files(request, files) if files else request


def _said(options: PromptOptions) -> dict[str, Any]:
    """Return options as members of the body."""
    given: Mapping[str, Any] = options
    if unknown := given.keys() - PromptOptions.__annotations__.keys():
        raise TypeError(f"A prompt has no option {min(unknown)!r}.")
    budget, at = options.get("budget"), options.get("at")
    webhook = options.get("webhook")
    durability = options.get("durability", "run")
    policy = options.get("policy", SessionPolicy.ENQUEUE)
    schema = options.get("output_schema")
    return {
        "timeout_s": options.get("run_timeout_s"),
        "budget": None if budget is None else budget.model_dump(mode="json", exclude_none=True),
        "max_attempts": options.get("max_attempts"),
        "durability": None if durability == "run" else durability,
        "delay_s": options.get("delay_s"),
        "at": None if at is None else at.isoformat(),
        "enable_trace": options.get("enable_trace") or None,
        "webhook": None if webhook is None else webhook.model_dump(mode="json", exclude_none=True),
        "session": options.get("session"),
        "policy": None if policy == SessionPolicy.ENQUEUE else str(policy),
        "output_schema": schema.model_json_schema() if isinstance(schema, type) else schema,
    }


def cancel_run(run_id: str, wait_s: float | None = None) -> Request:
    """End a run; the gateway waits `wait_s` seconds for that, None: its default."""
    return post(path_of("runs", run_id, "cancel"), {"wait_s": wait_s}, harmless=True)


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
        path_of("runs", run_id, "answer"),
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key},
        body=json.dumps(body).encode(),
    )


def get_run(run_id: str, wait_s: float = 0) -> Request:
    """Look at a run, waiting up to `wait_s` seconds for its end."""
    query = {"wait_s": f"{wait_s:.3f}"} if wait_s > 0 else {}
    return Request("GET", path_of("runs", run_id), query)


def list_runs(
    limit: int, before: str | None, status: RunStatus | None, agent: str | None
) -> Request:
    """List runs, newest first."""
    query = query_of(limit=limit, before=before, status=status, agent=agent)
    return Request("GET", path_of("runs"), query)


def get_events(run_id: str, after: Cursor) -> Request:
    """Follow a run's events after those seen."""
    headers = {"Accept": EVENT_STREAM}
    if after.offset >= 0:
        headers["Last-Event-ID"] = str(after)
    return Request("GET", path_of("runs", run_id, "events"), headers=headers)


def get_trace(run_id: str, newer_than: datetime | None = None) -> Request:
    """Ask for the spans of a run."""
    since = None if newer_than is None else newer_than.isoformat()
    return Request("GET", path_of("runs", run_id, "trace"), query_of(newer_than=since))


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


def parse_trace(response: Response) -> TracePage:
    """Read a page of a trace.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _trace)


def run_id_of(response: Response) -> str:
    """Return the id of the run that a `Location` header names.

    Raises:
        ClientError: there is no such header.
    """
    location = response.headers.get("location", "")
    _, found, run_id = location.rpartition("/v1/runs/")  # a proxy may have put something before
    if not found:
        raise ClientError(response.status, "The answer names no run")
    return run_id
