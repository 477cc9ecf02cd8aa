"""API keys in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from agentray.store.codec import check_text
from agentray.store.keys import ApiKey


class MemoryKeys:
    """A `KeyStore`; a part of `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self._api_keys: dict[str, ApiKey] = {}

    async def put_key(self, key: ApiKey) -> None:
        """Insert or replace an API key by its id."""
        check_text("name", key.name)
        self._api_keys[key.id] = key

    async def find_key(self, digest: str) -> ApiKey | None:
        """Return the key with this digest, also a revoked one, or None."""
        return next((key for key in self._api_keys.values() if key.digest == digest), None)

    async def get_key(self, key_id: str) -> ApiKey | None:
        """Return the key of this id, also a revoked one, or None."""
        return self._api_keys.get(key_id)

    async def list_keys(
        self, *, tenant: str | None = None, before: str | None = None, limit: int = 100
    ) -> list[ApiKey]:
        """Return keys, newest first, also revoked ones."""
        found = [
            key
            for key_id, key in sorted(self._api_keys.items(), reverse=True)
            if tenant in {None, key.tenant} and (before is None or key_id < before)
        ]
        return found[:limit]

    async def revoke_key(self, key_id: str, at: datetime) -> ApiKey | None:
        """Revoke a key, and return it; one that is revoked stays as it is."""
        key = self._api_keys.get(key_id)
        if key is not None and key.revoked_at is None:
            key = self._api_keys[key_id] = replace(key, revoked_at=at)
        return key
