"""Who asks, for whom, and what they may do: API keys, their scopes and tenants."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakValueDictionary

from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from agentray.core.owners import check_tenant, may_see, owner_of
from agentray.errors import ConfigurationError
from agentray.gateway.problems import FORBIDDEN, UNAUTHORIZED, HttpProblem, invalid
from agentray.runtime.api_keys import digest_of
from agentray.store.base import Store
from agentray.store.keys import ApiKey

_HEADERS = (b"authorization", b"synapse-tenant", b"synapse-user")  # as `_Credentials` has them

INVOKE = "invoke"
READ = "read"
ADMIN = "admin"
SCOPES = (INVOKE, READ, ADMIN)

_KNOWN_S = 10.0  # a revoked key works that long at most
_UNKNOWN_S = (
    1.0  # a new key may be refused that long at most, by whom it was tried before it was made
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key: what was sent.
        tenant: for whom; "": for nobody in particular, and everything may be seen.
        owner: of what this request makes: see `agentray.core.owners`.
        user: a fingerprint of what the header `SYNAPSE-User` had; "": nothing. It may be a secret.
    """

    key: ApiKey
    tenant: str
    owner: str
    user: str = ""

    def sees(self, owner: str) -> bool:
        """Whether what an owner has is there for this caller."""
        return may_see(self.tenant, owner)


class _Found(NamedTuple):
    until: float
    caller: Caller | None  # with the key's own tenant


class _Credentials(NamedTuple):
    authorization: bytes = b""
    tenant: bytes = b""
    user: bytes = b""


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

    async def find(self, secret: bytes) -> Caller | None:
        """Return who has a key, None when it is unknown or revoked.

        No two secrets are compared: the SHA-256 of what was sent is looked up, so the time that
        takes tells nothing about the stored keys.

        Raises:
            StoreUnavailable: it had to be looked up, and cannot be.
        """
        digest = digest_of(secret)
        found = self._remembered(digest)
        if found is None:
            # One query per key, however many requests come with it just after it was forgotten.
            lock = self._locks.setdefault(digest, asyncio.Lock())
            async with lock:
                found = self._remembered(digest) or self._remember(
                    digest, await self._store.find_key(digest)
                )
        return found.caller

    def forget(self, digest: str) -> None:
        """Look a key up again when it comes next: it was revoked, or made."""
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)

    def _remembered(self, digest: str) -> _Found | None:
        found = self._known.get(digest) or self._unknown.get(digest)
        return found if found is not None and found.until > self._clock() else None

    def _remember(self, digest: str, key: ApiKey | None) -> _Found:
        caller = None
        if key is not None and key.revoked_at is None:
            caller = Caller(key, key.tenant, owner_of(key.id, key.tenant))
        self.forget(digest)
        memory, for_s = (self._unknown, _UNKNOWN_S) if caller is None else (self._known, _KNOWN_S)
        found = memory[digest] = _Found(self._clock() + for_s, caller)
        if len(memory) > self._capacity:
            memory.popitem(last=False)
        return found


class RequireScope(SecurityBase):
    """A dependency that lets a request through when its key has a scope; `admin` has them all.

    The key comes as `Authorization: Bearer KEY`, or as the header's whole value. It holds for
    WebSockets, too.
    """

    def __init__(self, keys: KeyRing, scope: str) -> None:
        self.model = HTTPBearer(
            description="An API key. `agentray up` prints where the first one is kept; "
            "`agentray keys create` makes others. With `SYNAPSE-Tenant: Token NAME` a key that "
            "belongs to no tenant asks for one."
        )
        self.scheme_name = "api_key"
        self._keys = keys
        self._scope = scope

    async def __call__(self, connection: HTTPConnection) -> None:
        """Check the key of a request; `caller` returns who asks from then on.

        Raises:
            HttpProblem: 401, no key or one that is unknown or revoked; 403, its scope or its tenant
                is another; 422, the tenant is none.
            StoreUnavailable: keys cannot be looked up now.
        """
        sent = _credentials(connection.scope["headers"])
        secret = _secret(sent.authorization)
        if not secret:
            raise _unauthorized("Send the API key as 'Authorization: Bearer KEY'.")
        found = await self._keys.find(secret)
        if found is None:
            raise _unauthorized("The API key is unknown or was revoked.")
        if self._scope not in found.key.scopes and ADMIN not in found.key.scopes:
            told = f"The API key {found.key.id} lacks the scope {self._scope!r}."
            raise HttpProblem(FORBIDDEN, told)
        if sent.tenant or sent.user:
            found = _on_behalf(found.key, _token(sent.tenant), _token(sent.user))
        connection.state.caller = found


def caller(connection: HTTPConnection) -> Caller:
    """Return who sent a request that `RequireScope` let through."""
    return connection.state.caller


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> _Credentials:
    """Return what headers say of who asks, in one pass; of repeated ones the first counts."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _HEADERS:
            found.setdefault(name, value)
    return _Credentials(*(found.get(name, b"") for name in _HEADERS))


def _secret(header: bytes) -> bytes:
    scheme, space, rest = header.strip().partition(b" ")
    if not space:
        return b"" if scheme.lower() == b"bearer" else scheme
    return rest.strip() if scheme.lower() == b"bearer" else b""


def _token(header: bytes) -> bytes:
    """Return what a `SYNAPSE-…` header says: `Token VALUE`, or the value alone."""
    value = header.strip()
    return value[6:].strip() if value[:6].lower() == b"token " else value


def _on_behalf(key: ApiKey, tenant: bytes, user: bytes) -> Caller:
    wanted = tenant.decode("latin-1") or key.tenant
    if key.tenant and wanted != key.tenant:
        raise HttpProblem(FORBIDDEN, f"The API key {key.id} belongs to another tenant.")
    try:
        wanted = wanted and check_tenant(wanted)
    except ConfigurationError as error:
        raise invalid("SYNAPSE-Tenant", "header", str(error)) from error
    fingerprint = digest_of(user)[:16] if user else ""
    return Caller(key, wanted, owner_of(key.id, wanted), fingerprint)


def _unauthorized(detail: str) -> HttpProblem:
    return HttpProblem(UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
