"""The REST API for agents that `synapseclient` (4.13) asks for, in terms of agents and sessions.

An agent type is a registered agent: its name is the `awsAgentId`. What is told here is what that
client reads: the end of a job is flat, and progress has all of its fields or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from agentray.compat.openai.answers import said_by
from agentray.protocol.access import AccessLevel
from agentray.protocol.async_jobs import JobProgress
from agentray.protocol.runs import EventKind, Run, RunEvent, RunStatus, Span
from agentray.protocol.sessions import Session
from agentray.protocol.snapshot import TypeView

CHAT_REQUEST = "org.sagebionetworks.repo.model.agent.AgentChatRequest"
RESPONSE = "org.sagebionetworks.repo.model.agent.AgentChatResponse"
STATUS = "org.sagebionetworks.repo.model.asynch.AsynchronousJobStatus"
ERROR = "org.sagebionetworks.repo.model.ErrorResponse"

LEVELS = {
    "PUBLICLY_ACCESSIBLE": AccessLevel.PUBLIC,
    "READ_YOUR_PRIVATE_DATA": AccessLevel.READ,
    "WRITE_YOUR_PRIVATE_DATA": AccessLevel.WRITE,
}
_NAMES = {level: name for name, level in LEVELS.items()}
_SEPARATOR = "~"  # which no name of an agent type has

REGISTRATION = "agentRegistrationId"
"""In the metadata of a session: which registration it was started with."""


class Registration(NamedTuple):
    """A registered agent.

    Attributes:
        agent_type: the agent type.
        alias: that its user gave; "": none.
    """

    agent_type: str
    alias: str = ""

    @property
    def id(self) -> str:
        """The registration's id: it can be read without being kept."""
        return f"{self.agent_type}{_SEPARATOR}{self.alias}" if self.alias else self.agent_type

    @classmethod
    def parse(cls, registration_id: str) -> Registration:
        """Read an id."""
        agent_type, _, alias = registration_id.partition(_SEPARATOR)
        return cls(agent_type, alias)

    def told(self, view: TypeView) -> dict[str, Any]:
        """Return it as the client reads it."""
        return {
            "awsAgentId": self.agent_type,
            "awsAliasId": self.alias or None,
            "agentRegistrationId": self.id,
            "registeredOn": when(datetime.fromtimestamp(view.since, UTC)),
            "type": "CUSTOM",
        }


def when(time: datetime) -> str:
    """Write a time as there: UTC, in milliseconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def session(found: Session) -> dict[str, Any]:
    """Return a session as the client reads it."""
    registration = found.metadata.get(REGISTRATION)
    return {
        "sessionId": found.id,
        "agentAccessLevel": _NAMES[found.access_level],
        "startedOn": when(found.created_at),
        "startedBy": found.owner,
        "modifiedOn": when(found.updated_at),
        "agentRegistrationId": registration or found.agent.partition("/")[0],
        "etag": str(found.version),
    }


def job(run: Run, session_id: str, progress: JobProgress | None) -> tuple[int, dict[str, Any]]:
    """Return a chat's job as the client reads it: HTTP status and body.

    A run that waits says its question: nothing more comes by itself.
    """
    if run.status in {RunStatus.SUCCEEDED, RunStatus.WAITING}:
        text = said_by(run).text
        answer = {"concreteType": RESPONSE, "sessionId": session_id, "responseText": text}
        return 201, {**answer, "jobId": run.id}
    told: dict[str, Any] = {"concreteType": STATUS, "jobId": run.id}
    told |= {"startedOn": when(run.created_at), "startedByUserId": None, "jobCanceling": False}
    if run.status not in {RunStatus.QUEUED, RunStatus.RUNNING}:
        why = run.error
        told |= {"jobState": "FAILED", "exception": why.type if why else run.status.value}
        told["errorMessage"] = why.message if why else f"It ended as {run.status}."
        told["errorDetails"] = " → ".join([*why.path, why.agent or ""]) if why else ""
        return 200, told
    told["jobState"] = "PROCESSING"
    if progress is not None:
        current, total = progress.current or 0, progress.total or 0
        told |= {"progressMessage": progress.message, "progressCurrent": current}
        told["progressTotal"] = max(total, current, 1)
    return 202, told


class TraceLine(NamedTuple):
    """Something of a trace.

    Attributes:
        time: when it was.
        text: what it was.
    """

    time: datetime
    text: str

    @property
    def millis(self) -> int:
        """The time in milliseconds since 1970."""
        return int(self.time.timestamp() * 1000)


def trace(
    run: Run, events: Iterable[RunEvent], spans: Iterable[Span], newer_than: int | None
) -> dict[str, Any]:
    """Return what happened in a chat as a page.

    The client shows the first entry of a page and nothing else, and breaks where there is none: so
    there is one, with a line for everything that happened.

    Args:
        run: of the chat.
        events: of the run.
        spans: its handled messages, when it has ended.
        newer_than: only what was later, in milliseconds since 1970; None: everything.
    """
    lines = [line for line in map(_of_event, events) if line is not None]
    lines += [_of_span(span) for span in spans]
    lines.sort(key=lambda line: line.time)
    shown = [line for line in lines if newer_than is None or line.millis > newer_than]
    last = shown[-1].millis if shown else (newer_than or int(run.created_at.timestamp() * 1000))
    text = "\n".join(f"{when(line.time)} {line.text}" for line in shown)
    return {"jobId": run.id, "page": [{"message": text, "timestamp": last}]}


def _of_event(event: RunEvent) -> TraceLine | None:
    data = event.data
    match event.kind:
        case EventKind.TEXT_DELTA:
            return None  # it is in the answer
        case EventKind.TOOL_CALL:
            told = f"calls {data.get('name')}({_short(data.get('arguments'))})"
        case EventKind.TOOL_RESULT:
            came = data.get("error") or _short(data.get("result"))
            told = f"{data.get('name')} returned {came}"
        case EventKind.PROGRESS:
            told = str(data.get("message", ""))
        case EventKind.EVENT:
            told = f"publishes {data.get('event_type')}"
        case _:
            told = event.kind
    return TraceLine(event.time, told)


def _of_span(span: Span) -> TraceLine:
    what = f"{span.agent} handled {span.event} in {span.duration_ms:g} ms"
    return TraceLine(span.started_at, f"{what}: {span.error}" if span.error else what)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 500 else f"{text[:500]}…"


def from_problem(document: bytes) -> tuple[int, dict[str, Any]]:
    """Translate a problem document.

    Returns:
        The HTTP status, and the body.
    """
    told = cast("dict[str, Any]", json.loads(document))
    status = 400 if told["status"] == 422 else int(told["status"])
    return status, {"concreteType": ERROR, "reason": str(told["detail"])}
