"""Brings the schema of a PostgreSQL database up to date.

The steps are files in `migrations/`, named `date_FROM_up_TO.sql` and run by asyncpg-trek: all that
are missing in one transaction, which also records them in the table `agentray.migrations`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg_trek import Direction, execute, plan
from asyncpg_trek.asyncpg import AsyncpgBackend, AsyncpgExecutor

from agentray.errors import SchemaTooNew

SCHEMA = "agentray"
"""The PostgreSQL schema that holds everything, so that the database may be shared with others."""

LOCK = int.from_bytes(b"agentray")  # advisory locks are numbers; this one is ours


async def migrate(connection: Any) -> None:
    """Bring the schema up to date; of several processes that try at once, one does.

    Args:
        connection: of asyncpg, outside a transaction.

    Raises:
        SchemaTooNew: a newer agentray has migrated this database; nothing was changed.
    """
    with resources.as_file(resources.files("agentray.store") / "migrations") as directory:
        revisions = _revisions(directory)
        if await _is_current(connection, revisions):
            return
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        try:
            if not await _is_current(connection, revisions):
                backend = AsyncpgBackend(connection, SCHEMA)
                steps = await plan(backend, directory, revisions[-1], Direction.up)
                await execute(backend, steps)
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def check_schema(connection: Any) -> None:
    """Look whether this agentray knows the schema of a database; nothing is changed.

    Raises:
        SchemaTooNew: a newer agentray has migrated it.
    """
    with resources.as_file(resources.files("agentray.store") / "migrations") as directory:
        await _is_current(connection, _revisions(directory))


def _revisions(directory: Path) -> list[str]:
    return sorted(file.stem.rpartition("_")[2] for file in directory.glob("*_up_*.sql"))


async def _is_current(connection: Any, revisions: list[str]) -> bool:
    try:
        found = await AsyncpgExecutor(connection, SCHEMA).get_current_revision()
    except asyncpg.UndefinedTableError:
        return False
    if found is not None and found not in revisions:
        raise SchemaTooNew(
            f"The database has schema {found}, written by a newer agentray; this one knows up to "
            f"{revisions[-1]}. Upgrade this one."
        )
    return found == revisions[-1]
