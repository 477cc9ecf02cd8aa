"""Calls about dead letters."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason


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


_letter = TypeAdapter(DeadLetter)
_letter_page = TypeAdapter(_LetterPage)
_purged = TypeAdapter(_Purged)


def list_letters(limit: int, before: str | None, match: LetterMatch) -> Request:
    """List dead letters, newest first."""
    query = query_of(limit=limit, before=before, **match)
    return Request("GET", path_of("dead-letters"), query)


def get_letter(letter_id: str) -> Request:
    """Look at a dead letter."""
    return Request("GET", path_of("dead-letters", letter_id))


def retry_letter(letter_id: str) -> Request:
    """Try a dead letter once more; one that is tried already is not."""
    return post(path_of("dead-letters", letter_id, "retry"), harmless=True)


def forget_letter(letter_id: str) -> Request:
    """Forget a dead letter."""
    return Request("DELETE", path_of("dead-letters", letter_id))


def purge_letters(older_than_s: float | None, match: LetterMatch) -> Request:
    """Forget dead letters."""
    age = None if older_than_s is None else f"{older_than_s:.3f}"
    query = query_of(older_than_s=age, **match)
    return Request("DELETE", path_of("dead-letters"), query or {"all": "true"})


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
