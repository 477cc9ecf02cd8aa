"""The embedded database server is killed, for real, and comes back with what was committed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentray.errors import StoreUnavailable
from agentray.ids import AgentId, new_id
from agentray.runtime.database_keeper import DatabaseKeeper
from agentray.store.base import AppRow, NewRun
from agentray.store.embedded import EmbeddedPostgres, EmbeddedPostgresError
from agentray.store.postgres import PostgresStore
from tests.support.cluster import make_home, postmaster, remove_home
from tests.support.eventually import eventually_async

OWN_SCORE = Path("/proc/self/oom_score_adj")


@pytest.fixture
def home() -> Generator[Path]:
    home = make_home()
    yield home
    remove_home(home)


@pytest.fixture
async def server(home: Path) -> AsyncGenerator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home / "postgres")
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
def low_score() -> Generator[str]:
    """Make this process one of the first to go when memory is short, as Ray does to its workers."""
    before = OWN_SCORE.read_text()
    OWN_SCORE.write_text("600")
    yield "600"
    OWN_SCORE.write_text(before)


def score_of(path: Path) -> str:
    return path.read_text().strip()


async def test_a_server_that_is_killed_is_started_again_with_all_that_was_committed(
    server: EmbeddedPostgres, home: Path
):
    keeper = DatabaseKeeper(server)
    await keeper.start()
    store = PostgresStore(server.url)
    await store.open()
    try:
        for number in range(3):
            await store.put_app(AppRow(f"app-{number}", b"", "", "", "running", datetime.now(UTC)))
            killed = postmaster(home)
            assert killed  # 0 would be this very test and all of its kind
            os.kill(killed, signal.SIGKILL)

            async def answers(expected: int = number + 1, killed: int = killed) -> bool:
                if postmaster(home) in (0, killed):
                    return False  # a process of the killed one may still answer
                try:
                    return len(await store.list_apps()) == expected
                except StoreUnavailable:
                    return False

            await eventually_async(answers, timeout_s=60)
    finally:
        await keeper.close()
        await store.close()


async def test_who_uses_it_meanwhile_is_told_that_it_is_away_and_nothing_else(
    server: EmbeddedPostgres, home: Path
):
    keeper = DatabaseKeeper(server)
    await keeper.start()
    store = PostgresStore(server.url)
    await store.open()
    kept: set[str] = set()
    away = 0

    async def write() -> None:
        nonlocal away
        while True:
            run_id = new_id("run")
            try:
                await store.admit([a_run(run_id)])
                kept.add(run_id)
            except StoreUnavailable:
                away += 1
                await asyncio.sleep(0.05)  # the server needs the processor to come back

    writers = [asyncio.create_task(write()) for _ in range(12)]
    try:
        for _ in range(4):
            before, killed = len(kept), postmaster(home)
            assert killed

            async def goes_on(before: int = before, killed: int = killed) -> bool:
                failed = [task for task in writers if task.done()]
                assert not failed, failed
                return len(kept) > before + 100 and postmaster(home) not in (0, killed)

            os.kill(killed, signal.SIGKILL)
            await eventually_async(goes_on, timeout_s=60)
    finally:
        for task in writers:
            task.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await keeper.close()
    assert away
    found = [await store.get_run(run_id) for run_id in kept]
    await store.close()
    assert None not in found


def a_run(run_id: str) -> NewRun:
    return NewRun(
        id=run_id,
        agent=AgentId("parrot", run_id),
        pool="default",
        slot=1,
        input={"prompt": "x"},
        correlation_id=run_id,
        created_at=datetime.now(UTC),
        owner="key",
        idempotency_key=None,
        digest="",
    )


async def test_it_is_not_among_the_first_to_go_when_memory_is_short(
    server: EmbeddedPostgres, home: Path, low_score: str
):
    keeper = DatabaseKeeper(server)
    await keeper.start()
    await keeper.close()
    assert score_of(Path(f"/proc/{postmaster(home)}/oom_score_adj")) == "0"
    assert score_of(OWN_SCORE) == low_score


async def test_nothing_is_started_after_the_end(server: EmbeddedPostgres):
    before = asyncio.all_tasks()  # tasks of other tests, which may end meanwhile
    keeper = DatabaseKeeper(server)
    await keeper.start()
    assert asyncio.all_tasks() - before
    await keeper.close()
    assert not asyncio.all_tasks() - before  # who could start it has ended
    await asyncio.to_thread(server.stop)
    assert not server.is_running()


async def test_a_server_that_cannot_be_started_is_told(tmp_path: Path):
    (tmp_path / "postgres").write_text("no directory")
    with pytest.raises(EmbeddedPostgresError):
        await DatabaseKeeper(EmbeddedPostgres(tmp_path / "postgres")).start()
