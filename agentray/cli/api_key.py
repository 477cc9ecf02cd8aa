"""The API key that `agentray up` makes: in a file that only its owner can read."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentray.ids import new_id
from agentray.store.base import ApiKey


async def make_key(database_url: str, path: Path) -> bool:
    """Make an API key, unless the one in the file still opens this database.

    Args:
        database_url: keeps the key's digest.
        path: the file.

    Returns:
        Whether it is a new one.
    """
    from agentray.store.postgres import PostgresStore

    store = PostgresStore(database_url)
    await store.open()
    try:
        kept = _read_private(path)
        known = await store.find_key(_digest(kept)) if kept else None
        if known is not None and known.revoked_at is None:
            return False
        key = f"ar_{secrets.token_urlsafe(32)}"
        scopes = frozenset({"invoke", "read", "admin"})
        row = ApiKey(new_id("key"), _digest(key), "agentray up", scopes, datetime.now(UTC))
        await store.put_key(row)
        _write_private(path, key)
        return True
    finally:
        await store.close()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _read_private(path: Path) -> str:
    """Read the file, and close it to others; "" if there is none."""
    if not path.exists():
        return ""
    path.chmod(0o600)
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    descriptor: Any = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
