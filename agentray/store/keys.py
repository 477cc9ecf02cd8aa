"""What the Store keeps of API keys: never the keys themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key. The key itself is never stored, only its hash."""

    id: str
    digest: str  # hex SHA-256 of the key: 256 random bits need no slow hash
    name: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None = None
    tenant: str = ""  # whose it is; "": nobody's in particular, it sees everything


class KeyStore(Protocol):
    """API keys."""

    async def put_key(self, key: ApiKey) -> None:
        """Insert or replace an API key by its id.

        Raises:
            PayloadError: a text has a NUL or a lone surrogate.
        """
        ...

    async def find_key(self, digest: str) -> ApiKey | None:
        """Return the key with this digest, also a revoked one, or None."""
        ...

    async def get_key(self, key_id: str) -> ApiKey | None:
        """Return the key of this id, also a revoked one, or None."""
        ...

    async def list_keys(
        self, *, tenant: str | None = None, before: str | None = None, limit: int = 100
    ) -> list[ApiKey]:
        """Return keys, newest first, also revoked ones.

        Args:
            tenant: only those of this one; None: of all.
            before: id of the last one already seen.
            limit: most of them.
        """
        ...

    async def revoke_key(self, key_id: str, at: datetime) -> ApiKey | None:
        """Revoke a key, and return it; one that is revoked stays as it is. None: there is none."""
        ...
