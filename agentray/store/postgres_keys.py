"""API keys in PostgreSQL."""

from __future__ import annotations

from datetime import datetime

from agentray.store.codec import check_text
from agentray.store.database import Database, Row
from agentray.store.keys import ApiKey


class PostgresKeys:
    """A `KeyStore`; a part of `PostgresStore`."""

    _database: Database

    async def put_key(self, key: ApiKey) -> None:
        """Insert or replace an API key by its id."""
        check_text("name", key.name)
        about = (key.id, key.digest, key.name, sorted(key.scopes), key.created_at, key.revoked_at)
        await self._database.execute("put_key", *about, key.tenant)

    async def find_key(self, digest: str) -> ApiKey | None:
        """Return the key with this digest, also a revoked one, or None."""
        return _key_of(await self._database.fetch_row("find_key", digest))

    async def get_key(self, key_id: str) -> ApiKey | None:
        """Return the key of this id, also a revoked one, or None."""
        return _key_of(await self._database.fetch_row("get_key", key_id))

    async def list_keys(
        self, *, tenant: str | None = None, before: str | None = None, limit: int = 100
    ) -> list[ApiKey]:
        """Return keys, newest first, also revoked ones."""
        found = await self._database.fetch("list_keys", tenant, before, limit)
        return [key for row in found if (key := _key_of(row)) is not None]

    async def revoke_key(self, key_id: str, at: datetime) -> ApiKey | None:
        """Revoke a key, and return it; one that is revoked stays as it is."""
        return _key_of(await self._database.fetch_row("revoke_key", key_id, at))


def _key_of(row: Row | None) -> ApiKey | None:
    if row is None:
        return None
    fields = dict(row)
    fields["scopes"] = frozenset(row["scopes"])
    return ApiKey(**fields)
