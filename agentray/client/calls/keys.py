"""Calls about API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter

from agentray.client.calls.http import Request, Response, parse_answer, path_of, post, query_of
from agentray.protocol.keys import CreatedKey, KeyInfo, Scope


class KeyPage(NamedTuple):
    """Some keys, newest first, and what to give as `before` for the next page."""

    keys: list[KeyInfo]
    next: str | None


class _Page(BaseModel):
    keys: list[KeyInfo]
    next: str | None


_key = TypeAdapter(KeyInfo)
_created = TypeAdapter(CreatedKey)
_page = TypeAdapter(_Page)


def create(scopes: Sequence[Scope], name: str, tenant: str | None) -> Request:
    """Make a key. Asking again makes another one."""
    return post(path_of("keys"), {"scopes": list(scopes), "name": name, "tenant": tenant})


def get(key_id: str) -> Request:
    """Look at a key."""
    return Request("GET", path_of("keys", key_id))


def list_keys(limit: int, before: str | None) -> Request:
    """List keys."""
    return Request("GET", path_of("keys"), query_of(limit=limit, before=before))


def revoke(key_id: str) -> Request:
    """Revoke a key."""
    return Request("DELETE", path_of("keys", key_id))


def parse_key(response: Response) -> KeyInfo:
    """Read a key.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _key)


def parse_created(response: Response) -> CreatedKey:
    """Read a key that was just made.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    return parse_answer(response, _created)


def parse_keys(response: Response) -> KeyPage:
    """Read a list of keys.

    Raises:
        ClientError: the answer is a problem, or nothing that a gateway says.
    """
    page = parse_answer(response, _page)
    return KeyPage(page.keys, page.next)
