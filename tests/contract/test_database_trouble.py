"""A database that is slow, hangs, is full of waiters, or whose answers are lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from agentray.config import DatabaseLimits
from agentray.errors import StoreUnavailable
from agentray.store import database, migrate
from agentray.store.base import CommitOutcome
from agentray.store.postgres import PostgresStore
from agentray.store.steps import NewMessage, Step
from tests.contract import story
from tests.contract.samples import (
    ADA,
    admit_one,
    at,
    connect,
    effects,
    end,
    serve,
    state,
)
from tests.support.cutting import CuttingProxy
from tests.support.eventually import eventually_async


@pytest.fixture
async def hasty(
    postgres: PostgresStore, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresStore]:
    """A store with two connections that waits for a short time only."""
    monkeypatch.setattr(database, "_ACQUIRE_TIMEOUT_S", 1.5)
    monkeypatch.setattr(database, "_RELEASE_TIMEOUT_S", 0.5)
    await serve(postgres)
    store = PostgresStore(postgres_dsn, max_connections=2, limits=DatabaseLimits(statement_s=2.0))
    await store.open()
    yield store
    await store.close()


_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


async def test_a_commit_that_waits_for_a_lock_too_long_fails_and_may_be_repeated(
    hasty: PostgresStore, connection: Any
):
    async with connection.transaction():
        await connection.execute("SELECT FROM hosts FOR UPDATE")
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="in time"):
            await hasty.commit("h1", [effects(states=[state(1)])])
        assert time.monotonic() - begun < 30
        await hasty.ping()
        # What was given up does not come after what follows.
        assert await connection.fetchval(_WAITING) == 0
    assert await hasty.commit("h1", [effects(states=[state(2)])]) == [CommitOutcome.COMMITTED]
    assert (await hasty.load_states([ADA]))[ADA].state == {"n": 2}


async def test_a_lock_that_is_given_back_in_time_only_delays(
    postgres: PostgresStore, connection: Any
):
    await serve(postgres)
    async with connection.transaction():
        await connection.execute("SELECT FROM hosts FOR UPDATE")
        commit = asyncio.create_task(postgres.commit("h1", [effects(states=[state(1)])]))
        await waiting_backend(connection)
    assert await commit == [CommitOutcome.COMMITTED]


async def test_a_server_process_that_hangs_holds_nobody_for_ever(
    hasty: PostgresStore, connection: Any
):
    await asyncio.gather(*(hasty.ping() for _ in range(4)))
    found = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'agentray'"
    )
    stopped = [row["pid"] for row in found]
    assert stopped
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(hasty.commit("h1", [effects(states=[state(n)])]) for n in range(5)),
            return_exceptions=True,
        )
        assert time.monotonic() - begun < 30
        assert any(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        assert {type(outcome) for outcome in outcomes} <= {StoreUnavailable, list}
        # The stopped ones are left alone: others take their places.
        assert await hasty.commit("h1", [effects(states=[state(9)])]) == [CommitOutcome.COMMITTED]
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def attentive(postgres: PostgresStore, postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    """A store with two connections that soon notices when its server is silent."""
    await serve(postgres)
    limits = DatabaseLimits(statement_s=300.0, silence_s=1.0)
    store = PostgresStore(postgres_dsn, max_connections=2, limits=limits)
    await store.open()
    yield store
    await store.close()


@contextmanager
def stopped(dsn: str) -> Generator[None]:
    """Stop a server with all of its processes, as a machine that hangs."""
    directory = Path(parse_qs(urlsplit(dsn).query)["host"][0])
    server = psutil.Process(int(next(directory.glob(".s.PGSQL.*.lock")).read_text().split()[0]))
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # some of them come and go
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def test_a_server_that_answers_nothing_is_given_up_soon_and_found_again(
    attentive: PostgresStore, postgres_dsn: str
):
    await asyncio.gather(*(attentive.ping() for _ in range(4)))
    with stopped(postgres_dsn):
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(attentive.commit("h1", [effects(states=[state(n)])]) for n in range(20)),
            return_exceptions=True,
        )
        assert time.monotonic() - begun < 60, "statements themselves may take five minutes"
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        begun = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreUnavailable, match="answered nothing for 1 s"):
                await attentive.ping()
        assert time.monotonic() - begun < 30, "each by itself would take a second"

    async def written() -> bool:
        try:
            committed = await attentive.commit("h1", [effects(states=[state(99)])])
        except StoreUnavailable:
            return False
        return committed == [CommitOutcome.COMMITTED]

    await eventually_async(written, timeout_s=30)
    assert (await attentive.load_states([ADA]))[ADA].state == {"n": 99}


async def test_a_server_that_is_slow_and_answers_is_waited_for(
    attentive: PostgresStore, connection: Any
):
    async with connection.transaction():
        await connection.execute("SELECT FROM hosts FOR UPDATE")
        commit = asyncio.create_task(attentive.commit("h1", [effects(states=[state(1)])]))
        await waiting_backend(connection)
        await asyncio.sleep(3.0)  # three times as long as a server may be silent
        assert not commit.done()
    assert await commit == [CommitOutcome.COMMITTED]


async def test_who_finds_no_free_connection_is_told_and_few_wait_for_one(
    postgres: PostgresStore, postgres_dsn: str, connection: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_ACQUIRE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(database, "MAX_WAITING", 3)
    await serve(postgres)
    hasty = PostgresStore(postgres_dsn, max_connections=2)
    await hasty.open()
    async with connection.transaction():
        await connection.execute("SELECT FROM hosts FOR UPDATE")
        commits = [
            asyncio.create_task(hasty.commit("h1", [effects(states=[state(n)])])) for n in range(2)
        ]
        await waiting_for_locks(connection, 2)
        waiting = [asyncio.create_task(hasty.ping()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="3 statements wait"):
            await hasty.ping()
        assert not any(ping.done() for ping in waiting)  # at once
        for ping in waiting:
            with pytest.raises(StoreUnavailable, match="No connection"):
                await ping
    await asyncio.gather(*commits)
    await hasty.ping()
    await hasty.close()


async def test_a_migration_may_take_longer_than_a_statement(postgres_dsn: str, connection: Any):
    await connection.execute("CREATE DATABASE slow TEMPLATE template0 STRATEGY file_copy")
    dsn, limits = postgres_dsn.replace("/agentray?", "/slow?"), DatabaseLimits(statement_s=1.0)
    store = PostgresStore(dsn, limits=limits)
    try:
        # Another one migrates, for longer than a statement may take.
        other = await connect(dsn)
        await other.execute("SELECT pg_advisory_lock($1)", migrate.LOCK)
        opening = asyncio.create_task(store.open())
        await asyncio.sleep(2.0)
        assert not opening.done()
        await other.close()
        await opening
        assert await store.list_hosts() == []
    finally:
        await store.close()
        await connection.execute("DROP DATABASE slow (FORCE)")


async def waiting_backend(connection: Any) -> int:
    """The process that waits for a lock of this connection's."""
    return await eventually_async(
        lambda: connection.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        )
    )


# Answers that are lost


@pytest.fixture
async def proxy(postgres: PostgresStore, postgres_dsn: str) -> AsyncIterator[CuttingProxy]:
    assert await postgres.list_hosts() == []
    async with CuttingProxy(postgres_dsn).serving() as proxy:
        yield proxy


TOUCHED = "runs, noted_states, run_events, agent_states, hosts, slot_leases, dead_letters"


async def test_an_action_whose_answer_is_lost_is_repeated_without_harm(
    proxy: CuttingProxy, connection: Any
):
    """Cut the connection before each of the server's answers, and within some of them."""
    await _tell(proxy, connection)
    begins = list(proxy.answers)
    within = [point + 5 for point in begins[::4]]
    cut = 0
    for point in sorted({*begins, *within}):
        before = proxy.cuts
        await _tell(proxy, connection, point)
        cut += proxy.cuts - before
    assert cut >= len(begins) > 30


async def _tell(proxy: CuttingProxy, connection: Any, point: int | None = None) -> None:
    """Let the story happen, with a cut after so many bytes of answers."""
    await connection.execute(f"TRUNCATE {TOUCHED} CASCADE")
    store = PostgresStore(proxy.dsn, max_connections=1)
    proxy.begin(None)
    await store.open()
    proxy.begin(point)
    await story.tell(store)
    await store.close()


async def test_steps_and_ends_in_one_batch_cannot_wait_for_who_marks_both_runs(
    postgres: PostgresStore, connection: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_ATTEMPTS", 1)  # a deadlock is an error
    await serve(postgres)
    stepping, ending = sorted([await admit_one(postgres), await admit_one(postgres)])
    begun = Step(stepping, at(1), begins="fail", emitted=(NewMessage(ADA, 0, '{"n":1}', "[]"),))
    await postgres.commit_steps("h1", [effects(step=begun)])

    async with connection.transaction():
        await connection.execute("SELECT FROM runs WHERE id = $1 FOR UPDATE", stepping)
        marking = asyncio.create_task(postgres.mark_running({stepping: at(2), ending: at(2)}, "h1"))
        await waiting_for_locks(connection, 1)
        last = effects(step=Step(stepping, at(3), handled=1))
        committing = asyncio.create_task(
            postgres.commit_steps("h1", [effects(end=end(ending)), last])
        )
        await waiting_for_locks(connection, 2)
    await marking
    committed = await committing
    assert [each.outcome for each in committed] == [CommitOutcome.COMMITTED] * 2


async def test_who_is_chosen_to_end_a_deadlock_is_repeated(
    postgres: PostgresStore, connection: Any
):
    await serve(postgres)
    first, second = sorted([await admit_one(postgres), await admit_one(postgres)])
    lock = "SELECT FROM runs WHERE id = $1 FOR UPDATE"
    await connection.execute("SET deadlock_timeout = '30s'")  # the store's statement finds it
    async with connection.transaction():
        await connection.execute(lock, second)
        marking = asyncio.create_task(postgres.mark_running({first: at(1), second: at(1)}, "h1"))
        await waiting_for_locks(connection, 1)
        await connection.execute(lock, first)
    await marking
    for run_id in (first, second):
        stored = await postgres.get_run(run_id)
        assert stored is not None
        assert stored.run.status == "running"


async def waiting_for_locks(connection: Any, many: int) -> None:
    """Wait until so many sessions wait for a lock."""

    async def found() -> bool:
        await connection.execute("SELECT pg_stat_clear_snapshot()")  # one for each transaction
        waiting = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        return waiting >= many

    await eventually_async(found, 30, interval_s=0.01)


async def test_a_connection_that_was_lost_or_not_used_for_long_is_made_anew(
    postgres_dsn: str, connection: Any, monkeypatch: pytest.MonkeyPatch
):
    store = PostgresStore(postgres_dsn)
    await store.open()

    def at_hand() -> set[int]:
        """Return the processes of the server behind the store's own connections."""
        return {each.get_server_pid() for each, _ in store._database._at_hand}  # pyright: ignore[reportPrivateUsage]

    async def gone(processes: set[int]) -> bool:
        alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1::integer[])"
        return await connection.fetchval(alive, list(processes)) == 0

    async def answers() -> bool:
        try:
            await store.ping()
        except StoreUnavailable:  # it has not heard yet
            return False
        return True

    await store.ping()
    first = at_hand()
    await store.ping()
    assert at_hand() == first, "it is used again"
    assert len(first) == 1
    for pid in first:
        await connection.execute("SELECT pg_terminate_backend($1, 10000)", pid)
    await eventually_async(answers)
    second = at_hand()
    assert len(second) == 1
    assert not second & first
    monkeypatch.setattr(database, "_KEPT_S", 0.0)
    await store.ping()
    third = at_hand()
    assert not third & second
    await eventually_async(lambda: gone(second))
    await store.close()
    await eventually_async(lambda: gone(third))
