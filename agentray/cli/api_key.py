"""The API key that `agentray up` makes: in a file that only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agentray.runtime import api_keys


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
        known = await store.find_key(api_keys.digest_of(kept)) if kept else None
        if known is not None and known.revoked_at is None:
            return False
        key, secret = api_keys.make_key("agentray up", ("invoke", "read", "admin"))
        await store.put_key(key)
        _write_private(path, secret)
        return True
    finally:
        await store.close()


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
