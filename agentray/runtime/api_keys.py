"""Making API keys. Their text is told once, to whoever asks for one; what is kept is its hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from agentray.event_loop import time_of_day
from agentray.ids import new_id
from agentray.store.keys import ApiKey

_PREFIX = "ar_"  # so that scanners for leaked secrets can know one


class NewKey(NamedTuple):
    """A key that was just made."""

    key: ApiKey
    secret: str


def make_key(name: str, scopes: Iterable[str], tenant: str = "") -> NewKey:
    """Make a key; nothing is kept yet.

    Args:
        name: for people.
        scopes: what it may do.
        tenant: whose it is; "": nobody's in particular.
    """
    secret = f"{_PREFIX}{secrets.token_urlsafe(32)}"
    key = ApiKey(
        new_id("key"), digest_of(secret), name, frozenset(scopes), time_of_day(), tenant=tenant
    )
    return NewKey(key, secret)


def digest_of(secret: str | bytes) -> str:
    """Return what is kept of a key."""
    data = secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret
    return hashlib.sha256(data).hexdigest()
