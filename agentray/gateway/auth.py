"""Who asks, and what they may do: API keys and their scopes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from agentray.gateway.problems import FORBIDDEN, UNAUTHORIZED, HttpProblem
from agentray.store.base import ApiKey, Store

INVOKE = "invoke"
READ = "read"
ADMIN = "admin"

_KNOWN_S = 10.0  # a revoked key works that long at most
_UNKNOWN_S = (
    1.0  # a new key may be refused that long at most, by whom it was tried before it was made
)


class _Found(NamedTuple):
    until: float
    key: ApiKey | None


class KeyRing:
    """Finds keys by their digest, with a short memory so that most requests need no query.

    Keys that exist and digests that do not are remembered apart: a flood of guesses cannot push
    out the keys that work.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float] = time.monotonic, capacity: int = 4096
    ) -> None:
        """Make one.

        Args:
            store: where the keys are.
            clock: seconds, monotonic.
            capacity: most keys, and most unknown digests, to remember.
        """
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._known: OrderedDict[str, _Found] = OrderedDict()
        self._unknown: OrderedDict[str, _Found] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, secret: str) -> ApiKey | None:
        """Return the key, None when it is unknown or revoked.

        No two secrets are compared: the SHA-256 of what was sent is looked up, so the time that
        takes tells nothing about the stored keys.

        Raises:
            StoreUnavailable: it had to be looked up, and cannot be.
        """
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
        found = self._remembered(digest)
        if found is None:
            # One query per key, however many requests come with it just after it was forgotten.
            lock = self._locks.setdefault(digest, asyncio.Lock())
            async with lock:
                found = self._remembered(digest) or self._remember(
                    digest, await self._store.find_key(digest)
                )
        return found.key

    def _remembered(self, digest: str) -> _Found | None:
        found = self._known.get(digest) or self._unknown.get(digest)
        return found if found is not None and found.until > self._clock() else None

    def _remember(self, digest: str, key: ApiKey | None) -> _Found:
        if key is not None and key.revoked_at is not None:
            key = None
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        memory, for_s = (self._unknown, _UNKNOWN_S) if key is None else (self._known, _KNOWN_S)
        found = memory[digest] = _Found(self._clock() + for_s, key)
        if len(memory) > self._capacity:
            memory.popitem(last=False)
        return found


class RequireScope(SecurityBase):
    """A dependency that lets a request through when its key has a scope; `admin` has them all.

    The key comes as `Authorization: Bearer KEY`, or as the header's whole value.
    """

    def __init__(self, keys: KeyRing, scope: str) -> None:
        self.model = HTTPBearer(
            description="An API key. `agentray up` prints where the first one is kept."
        )
        self.scheme_name = "api_key"
        self._keys = keys
        self._scope = scope

    async def __call__(self, request: Request) -> None:
        """Check the key of a request; `caller` returns it from then on.

        Raises:
            HttpProblem: 401, no key or one that is unknown or revoked; 403, its scope is another.
            StoreUnavailable: keys cannot be looked up now.
        """
        secret = _secret(request.headers.get("authorization", ""))
        if not secret:
            raise _unauthorized("Send the API key as 'Authorization: Bearer KEY'.")
        key = await self._keys.find(secret)
        if key is None:
            raise _unauthorized("The API key is unknown or was revoked.")
        if self._scope not in key.scopes and ADMIN not in key.scopes:
            raise HttpProblem(FORBIDDEN, f"The API key {key.id} lacks the scope {self._scope!r}.")
        request.state.key = key


def caller(request: Request) -> ApiKey:
    """Return the key of a request that `RequireScope` let through."""
    return request.state.key


def _secret(header: str) -> str:
    scheme, space, rest = header.strip().partition(" ")
    if not space:
        return "" if scheme.lower() == "bearer" else scheme
    return rest.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str) -> HttpProblem:
    return HttpProblem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
