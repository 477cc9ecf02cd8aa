"""Calls about sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.protocol.access import AccessLevel
from agentray.protocol.sessions import Session, SessionRun


class SessionOptions(TypedDict, total=False):
    """What is said of a session.

    Attributes:
        access_level: what the agent's tools may touch: `public`, `read` (private data) or `write`
            (also changing it).
        title: for people.
        labels: by which sessions are found.
        metadata: whatever its user wants to keep with it, as JSON.
        ttl_s: seconds without use after which it is forgotten; None: it is kept.
    """

    access_level: AccessLevel | str
    title: str | None
    labels: Mapping[str, str]
    metadata: Mapping[str, Any]
    ttl_s: float | None


class SessionPage(NamedTuple):
    """Some sessions, the last id first, and what to give as `before` for the next page."""

    sessions: list[Session]
    next: str | None


class HistoryPage(NamedTuple):
    """Some runs of a session, oldest first, and what to give as `after` for the next page."""

    runs: list[SessionRun]
    next: int | None


class _Page(BaseModel):
    sessions: list[Session]
    next: str | None


class _History(BaseModel):
    runs: list[SessionRun]
    next: int | None


_session = TypeAdapter(Session)
_page = TypeAdapter(_Page)
_history = TypeAdapter(_History)


def create(session_id: str, agent: str | None, options: SessionOptions) -> Request:
    """Make a session. With its id, asking again does no harm."""
    body = {"id": session_id, "agent": agent, **options}
    return post(path_of("sessions"), body, harmless=True)


def get(session_id: str) -> Request:
    """Look at a session."""
    return Request("GET", path_of("sessions", session_id))


def list_sessions(
    limit: int,
    before: str | None,
    labels: Mapping[str, str],
    owner: str | None,
    agent: str | None,
) -> Request:
    """List sessions."""
    query: dict[str, str | Sequence[str]] = dict(
        query_of(limit=limit, before=before, owner=owner, agent=agent)
    )
    if labels:
        query["label"] = [f"{name}:{value}" for name, value in labels.items()]
    return Request("GET", path_of("sessions"), query)


def update(session_id: str, version: int | None, options: SessionOptions) -> Request:
    """Change fields of a session, if it is in a version; None: whatever it is."""
    return Request(
        "PATCH",
        path_of("sessions", session_id),
        headers={"Content-Type": "application/json", "If-Match": _etag(version)},
        body=json.dumps(dict(options)).encode(),
    )


def delete(session_id: str, version: int | None) -> Request:
    """Delete a session, if it is in a version; None: whatever it is."""
    headers = {} if version is None else {"If-Match": _etag(version)}
    return Request("DELETE", path_of("sessions", session_id), headers=headers)


def copy(session_id: str, copy_id: str, options: SessionOptions) -> Request:
    """Make a copy of a session."""
    return Request(
        "POST",
        path_of("sessions", session_id, "copy"),
        headers={"Content-Type": "application/json"},
        body=json.dumps({"id": copy_id, **options}).encode(),
    )


def runs(session_id: str, after: int, limit: int, *, rolled_back: bool) -> Request:
    """List the runs of a session."""
    query = query_of(after=after, limit=limit, rolled_back=rolled_back)
    return Request("GET", path_of("sessions", session_id, "runs"), query)


def parse_session(response: Response) -> Session:
    """Read a session.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _session)


def parse_sessions(response: Response) -> SessionPage:
    """Read a list of sessions.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _page)
    return SessionPage(page.sessions, page.next)


def parse_runs(response: Response) -> HistoryPage:
    """Read a history.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _history)
    return HistoryPage(page.runs, page.next)


def _etag(version: int | None) -> str:
    return "*" if version is None else f'"{version}"'
