"""Every schema that there has been is brought up to date, with what is kept in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from asyncpg_trek import Direction, execute, plan
from asyncpg_trek.asyncpg import AsyncpgBackend

from agentray.cli.checks import Verdict
from agentray.cli.cluster_checks import answering_database
from agentray.errors import SchemaTooNew
from agentray.ids import AgentId
from agentray.protocol.letters import LetterKind, LetterReason
from agentray.protocol.runs import RunStatus
from agentray.store.migrate import SCHEMA
from agentray.store.postgres import PostgresStore
from tests.contract.samples import ADA, T0, at, connect
from tests.contract.story import tell

MIGRATIONS = Path(str(resources.files("agentray.store") / "migrations"))
REVISIONS = sorted(file.stem.rpartition("_")[2] for file in MIGRATIONS.glob("*_up_*.sql"))

RUN = {
    "agent_type": "greeter",
    "agent_key": "ada",
    "pool": "default",
    "slot": 0,
    "correlation_id": "cor",
    "owner": "key_1",
    "digest": "",
    "created_at": T0,
}
EVENT: dict[str, Any] = {"kind": "queued", "time": "2026-01-01T12:00:00+00:00", "data": {}}
ROWS: list[tuple[str, Mapping[str, Any]]] = [
    ("runs", {**RUN, "id": "run_queued", "status": "queued", "input": '{"prompt": "\\u0000"}'}),
    (
        "runs",
        {
            **RUN,
            "id": "run_done",
            "status": "succeeded",
            "input": '{"prompt": "Ada"}',
            "result": '{"text": "Hello"}',
            "events": 2,
            "attempt": 2,
            "started_at": at(1),
            "finished_at": at(2),
            "idempotency_key": "k",
        },
    ),
    (
        "runs",
        {
            **RUN,
            "id": "run_dead",
            "status": "dead",
            "input": '{"event": {"event_type": "shop.Ordered", "text": "\\u0000"}}',
            "error": '{"type": "HostDied", "message": "8", "agent": null, "path": []}',
            "attempt": 8,
            "started_at": at(1),
            "finished_at": at(3),
        },
    ),
    (
        "run_events",
        {
            "run_id": "run_done",
            "first_offset": 0,
            "events": json.dumps(
                [{**EVENT, "offset": 0}, {**EVENT, "offset": 1, "kind": "succeeded"}]
            ),
        },
    ),
    (
        "agent_states",
        {"agent_type": "greeter", "agent_key": "ada", "state": '{"n": 7}', "schema_version": 3},
    ),
    (
        "hosts",
        {
            "id": "h1",
            "pool": "default",
            "actor_name": "a",
            "status": "live",
            "node_id": "n",
            "pid": 1,
            "reason": "",
        },
    ),
    ("slot_leases", {"pool": "default", "slot": 0, "host": "h1", "epoch": 41}),
    (
        "apps",
        {
            "name": "shop",
            "spec": b"pickle",
            "import_string": "shop:app",
            "digest": "d",
            "status": "running",
            "deployed_at": T0,
        },
    ),
    (
        "launched_agents",
        {
            "agent_type": "greeter",
            "agent_key": "ada",
            "arguments": b"pickle",
            "labels": '{"team": "red"}',
            "launched_at": T0,
        },
    ),
    (
        "api_keys",
        {
            "id": "key_1",
            "digest": "ab",
            "label": "first",
            "scopes": ["admin"],
            "created_at": T0,
        },
    ),
]
OLD_LETTER = {
    "id": "dl_1",
    "kind": "event",
    "reason": "no subscriber",
    "target": "shop.Typo",
    "payload": '{"event_type": "shop.Typo", "source": "shop/1", "text": "\\u0000"}',
    "correlation_id": "cor",
    "created_at": T0,
}
CHANGED = {("dead_letters", "reason"), ("runs", "trace")}
"""Columns whose contents a migration changes on purpose."""

REFERRING: dict[str, dict[str, Any]] = {"job_logs": {}, "noted_states": {"run_id": "run_done"}}
"""Tables whose rows refer to those of others, and how."""

SAMPLES: dict[str, Any] = {
    "text": "x",
    "integer": 1,
    "bigint": 1,
    "double precision": 1.0,
    "boolean": True,
    "json": "{}",
    "jsonb": "{}",
    "bytea": b"x",
    "timestamp with time zone": T0,
    "ARRAY": ["x"],
}


@pytest.fixture
async def old_dsn(postgres_dsn: str, connection: Any) -> AsyncIterator[str]:
    """A database without a schema."""
    await connection.execute("CREATE DATABASE old TEMPLATE template0 STRATEGY file_copy")
    yield postgres_dsn.replace("/agentray?", "/old?")
    await connection.execute("DROP DATABASE old (FORCE)")


async def put(connection: Any, table: str, known: Mapping[str, Any]) -> None:
    """Insert a row as an older release did: of columns that it had to fill, some value."""
    columns = await connection.fetch(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = $1 AND table_name = $2 AND is_nullable = 'NO'"
        " AND column_default IS NULL AND is_identity = 'NO'",
        SCHEMA,
        table,
    )
    row: dict[str, Any] = {c["column_name"]: SAMPLES[c["data_type"]] for c in columns}
    row.update(known)
    names = ", ".join(row)
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *row.values())


async def contents(connection: Any, only: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """Return all rows of all tables, as text, of the columns that are there, or of these."""
    found = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = $1 AND table_name <> 'migrations' ORDER BY 1, ordinal_position",
        SCHEMA,
    )
    tables: dict[str, list[str]] = {}
    for row in found:
        tables.setdefault(row["table_name"], []).append(row["column_name"])
    rows: dict[str, Any] = {}
    for table, columns in (only or tables).items():
        kept = [name for name in columns if (table, name) not in CHANGED]
        listed = ", ".join(f"{name}::text" for name in kept)
        rows[table] = (
            kept,
            {tuple(r) for r in await connection.fetch(f"SELECT {listed} FROM {table}")},
        )
    return rows


async def make(dsn: str, revision: str) -> dict[str, Any]:
    """Make a database as a release with this schema has left it; return what is in it."""
    connection = await connect(dsn)
    backend = AsyncpgBackend(connection, SCHEMA)
    await execute(backend, await plan(backend, MIGRATIONS, revision, Direction.up))
    for table, row in ROWS:
        await put(connection, table, row)
    if revision < "0009":
        await put(connection, "dead_letters", OLD_LETTER)
    filled = {table for table, _ in ROWS} | {"dead_letters", "migrations"}
    others = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", SCHEMA)
    left = {row["tablename"] for row in others} - filled
    for table in sorted(left, key=lambda name: (name in REFERRING, name)):
        await put(connection, table, REFERRING.get(table, {}))
    before = await contents(connection)
    await connection.close()
    return before


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_database_of_every_schema_is_brought_up_to_date_with_all_that_is_in_it(
    old_dsn: str, revision: str
):
    before = await make(old_dsn, revision)
    store = PostgresStore(old_dsn)
    await store.open()
    try:
        connection = await connect(old_dsn)
        now = await contents(connection, {table: columns for table, (columns, _) in before.items()})
        await connection.close()
        for table, (_, rows) in before.items():
            assert rows <= now[table][1], table

        # And as the Store reads it.
        done = await store.get_run("run_done")
        assert done is not None
        assert (done.run.status, done.run.result) == (RunStatus.SUCCEEDED, {"text": "Hello"})
        assert [event.kind for event in await store.run_events("run_done")] == [
            "queued",
            "succeeded",
        ]
        queued = await store.get_run("run_queued")
        assert queued is not None
        assert queued.input == {"prompt": "\0"}
        assert (await store.load_states([ADA]))[ADA].state == {"n": 7}
        (launched,) = await store.list_launched()
        assert (launched.agent, launched.labels) == (AgentId("greeter", "ada"), {"team": "red"})
        assert [lease.epoch for lease in await store.list_slots()] == [41]
        assert await store.find_key("ab") is not None
        letters = {letter.kind: letter for letter in await store.list_dead_letters()}
        assert letters[LetterKind.RUN].run_id == "run_dead"
        if revision < "0009":
            old = letters[LetterKind.EVENT]
            assert (old.reason, old.name) == (LetterReason.NO_SUBSCRIBER, "shop.Typo")
            assert old.payload["text"] == "\0"
    finally:
        await store.close()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_what_is_done_with_a_store_can_be_done_after_each_way_up(old_dsn: str, revision: str):
    connection = await connect(old_dsn)
    backend = AsyncpgBackend(connection, SCHEMA)
    await execute(backend, await plan(backend, MIGRATIONS, revision, Direction.up))
    await connection.close()
    store = PostgresStore(old_dsn)
    await store.open()
    await tell(store)
    await store.close()


async def test_a_migration_that_fails_changes_nothing(old_dsn: str):
    await make(old_dsn, "0008")
    connection = await connect(old_dsn)
    # What the next step is about to add is there already, whoever made it.
    await connection.execute("ALTER TABLE dead_letters ADD COLUMN content bytea")
    before = await contents(connection)
    with pytest.raises(Exception, match="already exists"):
        await PostgresStore(old_dsn).open()
    assert await contents(connection) == before
    await connection.close()


async def test_a_newer_schema_is_refused_and_the_doctor_says_so(old_dsn: str):
    store = PostgresStore(old_dsn)
    await store.open()
    await store.close()
    assert (await answering_database(old_dsn, "")).verdict is Verdict.OK
    connection = await connect(old_dsn)
    await connection.execute(
        "INSERT INTO agentray.migrations (from_revision, to_revision) VALUES ($1, '9999')",
        REVISIONS[-1],
    )
    await connection.close()
    with pytest.raises(SchemaTooNew, match=r"schema 9999.*Upgrade"):
        await PostgresStore(old_dsn).open()
    found = await answering_database(old_dsn, "")
    assert found.verdict is Verdict.PROBLEM
    assert "9999" in found.told
    assert "pip install --upgrade agentray" in found.remedy
