"""What only PostgreSQL has: connections, a schema with versions, and writers at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import pytest
from asyncpg_trek.asyncpg import AsyncpgExecutor

from agentray.errors import ConfigurationError, PayloadError, SchemaTooNew, StoreUnavailable
from agentray.ids import AgentId
from agentray.protocol.launching import AgentStatus
from agentray.store.arrays import arrays
from agentray.store.base import CommitOutcome
from agentray.store.migrate import SCHEMA
from agentray.store.postgres import PostgresStore
from agentray.store.queries import queries
from agentray.store.rows import effects_columns
from tests.contract.samples import (
    ADA,
    connect,
    effects,
    end,
    events,
    host,
    lease,
    new_run,
    serve,
    state,
)
from tests.support.eventually import eventually_async


@pytest.fixture
async def fresh_dsn(postgres_dsn: str, connection: Any) -> AsyncIterator[str]:
    """A database without a schema."""
    await connection.execute("CREATE DATABASE fresh TEMPLATE template0 STRATEGY file_copy")
    yield postgres_dsn.replace("/agentray?", "/fresh?")
    await connection.execute("DROP DATABASE fresh (FORCE)")


def store_of(dsn: str) -> PostgresStore:
    return PostgresStore(dsn, max_connections=2)


async def test_of_many_that_open_at_once_one_migrates(fresh_dsn: str):
    stores = [store_of(fresh_dsn) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].put_host(host())
    assert await stores[-1].list_hosts() == [host()]
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_newer_schema_is_refused_and_left_alone(fresh_dsn: str):
    await (first := store_of(fresh_dsn)).open()
    await first.close()
    connection = await connect(fresh_dsn)
    await connection.execute(
        "INSERT INTO agentray.migrations (from_revision, to_revision) VALUES ('0004', '9999')"
    )
    before = await connection.fetchval("SELECT count(*) FROM agentray.migrations")

    with pytest.raises(SchemaTooNew, match="9999"):
        await store_of(fresh_dsn).open()

    assert await connection.fetchval("SELECT count(*) FROM agentray.migrations") == before
    await connection.close()


async def test_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(StoreUnavailable) as caught:
        await PostgresStore("postgresql://u@/d?host=/nowhere").open()
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_database_that_is_not_there_is_unavailable(postgres_dsn: str):
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await PostgresStore(postgres_dsn.replace("/agentray?", "/none?")).open()


async def test_a_malformed_url_is_a_mistake_of_the_configuration():
    with pytest.raises(ConfigurationError):
        await PostgresStore("mysql://u@h/d").open()


async def test_a_store_that_is_not_open_is_unavailable(postgres_dsn: str):
    with pytest.raises(StoreUnavailable):
        await PostgresStore(postgres_dsn).ping()


async def test_a_lost_connection_is_unavailable_and_then_replaced(
    postgres: PostgresStore, connection: Any
):
    # A lock that a commit waits for, so that its connection is lost in the midst of a statement.
    await serve(postgres)
    async with connection.transaction():
        await connection.execute("SELECT FROM hosts FOR UPDATE")
        commit = asyncio.create_task(postgres.commit("h1", [effects(states=[state(1)])]))
        pid = await waiting_backend(connection)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StoreUnavailable):
            await commit
    await postgres.ping()


async def test_a_text_that_nobody_checked_before_is_still_a_payload_error(postgres: PostgresStore):
    with pytest.raises(PayloadError):
        await postgres.put_host(host(reason="a\0b"))
    with pytest.raises(PayloadError):
        await postgres.put_host(host(reason="\ud800"))


async def waiting_backend(connection: Any) -> int:
    """The process that waits for a lock of this connection's."""
    return await eventually_async(
        lambda: connection.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        )
    )


async def test_slots_move_only_after_the_commits_under_way(
    postgres: PostgresStore, connection: Any
):
    await serve(postgres)
    async with connection.transaction():
        # A commit that has passed the fence and has not ended yet.
        under_way = arrays(effects_columns([effects(states=[state(1)])]))
        await connection.fetchval(queries()["commit_effects"], "h1", *under_way)
        moving = asyncio.create_task(postgres.assign_slots([lease("h2")]))
        await waiting_backend(connection)
        assert not moving.done()
    assert await moving == [lease("h2", epoch=2)]
    assert (await postgres.load_states([ADA]))[ADA].state == {"n": 1}


async def test_a_commit_that_waited_for_the_move_is_fenced(
    postgres: PostgresStore, connection: Any
):
    await serve(postgres)
    async with connection.transaction():
        await connection.fetch(queries()["assign_slots"], ["default"], [0], ["h2"], [], [])
        commit = asyncio.create_task(postgres.commit("h1", [effects(states=[state(1)])]))
        await waiting_backend(connection)
    assert await commit == [CommitOutcome.FENCED]


async def test_a_commit_that_waited_for_its_hosts_death_is_fenced(
    postgres: PostgresStore, connection: Any
):
    await serve(postgres)
    async with connection.transaction():
        await connection.fetch(queries()["assign_slots"], [], [], [], ["h1"], ["killed"])
        commit = asyncio.create_task(postgres.commit("h1", [effects(states=[state(1)])]))
        await waiting_backend(connection)
    assert await commit == [CommitOutcome.FENCED]


async def test_no_state_is_written_by_a_former_holder_while_commits_race_with_moves(
    postgres: PostgresStore,
):
    for host_id in ("h0", "h1"):
        await postgres.put_host(host(host_id))
    for turn in range(20):
        holder, next_holder = f"h{turn % 2}", f"h{(turn + 1) % 2}"
        (held,) = await postgres.assign_slots([lease(holder)])
        agent = AgentId("greeter", str(turn))
        writes = [
            asyncio.create_task(
                postgres.commit(holder, [effects(held.epoch, states=[state(n, agent)])])
            )
            for n in range(12)
        ]
        await writes[turn % 3]
        await postgres.assign_slots([lease(next_holder)])
        at_return = await postgres.load_states([agent])
        await asyncio.gather(*writes)
        assert await postgres.load_states([agent]) == at_return


async def test_an_end_that_waited_for_another_end_is_refused(
    postgres: PostgresStore, connection: Any
):
    await serve(postgres)
    run = new_run()
    await postgres.admit([run])
    first = effects(events={run.id: events(0, 1)}, end=end(run.id, result="first"))
    second = effects(events={run.id: events(0, 2)}, end=end(run.id, result="second"))
    async with connection.transaction():
        await connection.fetchval(
            queries()["commit_effects"], "h1", *arrays(effects_columns([first]))
        )
        commit = asyncio.create_task(postgres.commit("h1", [second]))
        await waiting_backend(connection)
    assert await commit == [CommitOutcome.ALREADY_ENDED]
    stored = await postgres.get_run(run.id)
    assert stored is not None
    assert (stored.run.result, stored.events) == ("first", 1)


async def test_a_run_ends_once_when_many_try_at_the_same_time(postgres: PostgresStore):
    await serve(postgres)
    run = new_run()
    await postgres.admit([run])
    endings = [effects(events={run.id: events(0, 1)}, end=end(run.id, result=n)) for n in range(8)]

    outcomes = await asyncio.gather(*(postgres.commit("h1", [ending]) for ending in endings))

    (winner,) = [n for n, (o,) in enumerate(outcomes) if o is CommitOutcome.COMMITTED]
    stored = await postgres.get_run(run.id)
    assert stored is not None
    assert stored.run.result == winner


async def test_one_of_many_admissions_of_a_key_creates_its_run(postgres: PostgresStore):
    batches = [
        [new_run(idempotency_key=key) for key in (keys if n % 2 else reversed(keys))]
        for n, keys in enumerate([["a", "b", "c"]] * 8)
    ]

    admissions = await asyncio.gather(*(postgres.admit(batch) for batch in batches))

    assert sum(a.created for batch in admissions for a in batch) == 3
    assert len({a.run.id for batch in admissions for a in batch}) == 3


async def test_batches_that_touch_the_same_runs_do_not_deadlock(postgres: PostgresStore):
    await serve(postgres)
    runs = [new_run() for _ in range(20)]
    await postgres.admit(runs)
    agents = [AgentId("greeter", str(n)) for n in range(20)]
    forth = [
        effects(states=[state(1, agent)], events={run.id: events(0, 2)})
        for run, agent in zip(runs, agents, strict=True)
    ]

    outcomes = await asyncio.gather(
        *(postgres.commit("h1", forth if n % 2 else forth[::-1]) for n in range(12)),
        *(postgres.mark_running({run.id: run.created_at for run in runs}, "h1") for _ in range(4)),
    )

    assert all(set(o) == {CommitOutcome.COMMITTED} for o in outcomes[:12] if o is not None)
    assert await postgres.run_events(runs[0].id) == events(0, 2)


async def test_a_database_of_the_first_schema_keeps_its_launched_agents(fresh_dsn: str):
    connection = await connect(fresh_dsn)
    executor = AsyncpgExecutor(connection, SCHEMA)
    await executor.create_table_idempotent()
    await connection.execute(f"SET search_path TO {SCHEMA}")
    migrations = resources.files("agentray.store") / "migrations"
    await connection.execute((migrations / "20261121_initial_up_0001.sql").read_text())
    await executor.record_migration("initial", "0001")
    await connection.execute(
        "INSERT INTO launched_agents VALUES ('greeter', 'ada', 'x', '{\"a\": \"b\"}', now())"
    )
    await connection.close()

    await (store := store_of(fresh_dsn)).open()
    (launched,) = await store.list_launched()
    assert (launched.agent, launched.arguments) == (ADA, b"x")
    assert (launched.status, launched.labels) == (AgentStatus.RUNNING, {"a": "b"})
    await store.close()


async def test_traces_that_were_kept_with_their_runs_are_found_as_all_others(fresh_dsn: str):
    connection = await connect(fresh_dsn)
    executor = AsyncpgExecutor(connection, SCHEMA)
    await executor.create_table_idempotent()
    await connection.execute(f"SET search_path TO {SCHEMA}")
    migrations = resources.files("agentray.store") / "migrations"
    await connection.execute((migrations / "20261121_initial_up_0001.sql").read_text())
    await executor.record_migration("initial", "0001")
    spans = [
        {"id": "s1", "parent": None, "event": "Prompt", "agent": "greeter/a/b", "host": "h1",
         "started_at": "2026-01-01T12:00:00Z", "duration_ms": 1.5, "error": "E: no"},
        {"id": "s2", "parent": "s1", "event": "shop.Ordered", "agent": "shop/1", "host": "h2",
         "started_at": "2026-01-01T12:00:01Z", "duration_ms": 0.5},
    ]  # fmt: skip
    await connection.execute(
        "INSERT INTO runs (id, status, agent_type, agent_key, pool, slot, input, trace,"
        " correlation_id, owner, digest, created_at, started_at, finished_at)"
        " VALUES ('run_1', 'failed', 'greeter', 'a/b', 'default', 0, '{}', $1, 'c1', '', '',"
        " '2026-01-01T12:00Z', '2026-01-01T12:00Z', '2026-01-01T12:00:02Z')",
        json.dumps(spans),
    )
    await connection.close()

    await (store := store_of(fresh_dsn)).open()
    found = await store.get_trace("run_1")
    assert found is not None
    assert [span.id for span in found.spans] == ["s1", "s2"]
    (about,) = await store.list_traces()
    assert (about.run, about.correlation_id, about.agent) == ("run_1", "c1", "greeter/a/b")
    assert (about.duration_ms, about.spans, about.errors) == (2000, 2, 1)
    assert (about.agent_types, about.events) == (("greeter", "shop"), ("Prompt", "shop.Ordered"))
    await store.close()
