"""Who looks after something goes on looking, whatever went wrong with one look."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentray import logs
from agentray.core.leadership import LEASE_S, Candidate, Lead, Standing
from agentray.errors import ManagerSuperseded, ManagerUnavailable, StartFailed, StoreUnavailable
from agentray.protocol.codec import encode
from agentray.protocol.snapshot import Snapshot
from agentray.runtime import database_keeper
from agentray.runtime.channel import Channel
from agentray.runtime.database_keeper import DatabaseKeeper
from agentray.runtime.leadership import Leadership
from agentray.runtime.manager_watch import ManagerWatch
from agentray.runtime.ports import Reading
from agentray.runtime.ray_adapter.manager_actor import ManagerActor
from agentray.runtime.ray_adapter.setup import Setup
from agentray.runtime.watcher import SnapshotWatcher
from agentray.store.embedded import EmbeddedPostgres
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime, RecordedMetrics, run
from tests.support.eventually import eventually_async


class Manager:
    """One that fails in a certain way whenever it is told to."""

    def __init__(self) -> None:
        self.version = 1
        self.error: Exception | None = None
        self.asked = 0

    async def call(self, method: str, *args: Any) -> Snapshot:
        assert (method, len(args)) == ("watch", 1)
        self.asked += 1
        if self.error is not None:
            raise self.error
        while args[0] >= self.version:
            await asyncio.sleep(0.01)
            if self.error is not None:
                raise self.error
        return Snapshot(version=self.version)


@pytest.mark.parametrize(
    "error",
    [
        ManagerUnavailable("The manager does not answer."),
        ManagerSuperseded("Another manager works."),
        StartFailed("The embedded PostgreSQL server did not start."),
        KeyError("a fault in the manager"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_channel_has_new_snapshots_again_after_any_error_of_the_manager(
    error: Exception,
) -> None:
    async def story() -> None:
        manager = Manager()
        channel = Channel(LocalRuntime().network)
        watcher = SnapshotWatcher(manager, channel)
        await watcher.start()
        assert (channel.snapshot.version, watcher.stale) == (1, False)
        manager.error = error
        await asyncio.sleep(10)
        assert watcher.stale
        assert manager.asked < 100, "it is asked now and then"
        manager.error, manager.version = None, 2
        async with asyncio.timeout(10):
            await channel.newer_than(1)
        assert (channel.snapshot.version, watcher.stale) == (2, False)
        await watcher.close()
        await channel.close()

    run(story())


async def test_a_manager_whose_database_does_not_start_says_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here(level: str, *, process: str) -> None:
        """Leave the logs of the tests' process as they are."""

    monkeypatch.setattr(logs, "configure", not_here)
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("1\n")  # a server that nobody has
    server = EmbeddedPostgres(tmp_path)
    with pytest.raises(StartFailed):
        await asyncio.to_thread(server.start)
    actor = ManagerActor(encode(Setup(server.url, 1, embedded_database=str(tmp_path))))
    for _ in range(2):  # and it is tried again for each who asks
        with pytest.raises(StoreUnavailable, match="PostgreSQL"):
            await actor.ready()


class Flaky(MemoryStore):
    """A Store with a fault, for as long as it is told."""

    broken = False

    async def read_lead(self) -> tuple[Lead | None, float]:
        if self.broken:
            raise KeyError("a fault in the Store")
        return await super().read_lead()


class Maker:
    """Counts the managers that it was told to make."""

    def __init__(self) -> None:
        self.made = 0

    async def standing(self, lead: Lead) -> Standing:
        del lead
        return Standing.NOBODY

    async def restart(self, lead: Lead) -> None:
        raise AssertionError(lead)

    async def make(self) -> None:
        self.made += 1


def test_a_manager_that_is_gone_is_made_anew_after_a_fault_of_the_store() -> None:
    async def story() -> None:
        store, maker = Flaky(), Maker()
        await store.open()
        await Leadership.gain(store, Candidate("here", "a manager that died at once"))
        store.broken = True
        looking = asyncio.create_task(ManagerWatch(store, maker).run())
        await asyncio.sleep(10 * LEASE_S)
        store.broken = False
        await asyncio.sleep(10 * LEASE_S)
        looking.cancel()
        assert maker.made > 0

    run(story())


def test_a_lead_is_renewed_again_after_a_fault_of_the_store() -> None:
    async def story() -> None:
        store = Flaky()
        await store.open()
        lead = await Leadership.gain(store, Candidate("here", "a manager"))
        lead.keep(on_lost=lambda: None)
        store.broken = True
        await asyncio.sleep(LEASE_S / 2)
        store.broken = False
        await asyncio.sleep(10 * LEASE_S)
        found, now = await store.read_lead()
        assert found is not None
        assert (found.epoch, found.expires_at > now) == (lead.epoch, True)
        await lead.give_up()

    run(story())


class Faulty(RecordedMetrics):
    """Takes no readings at first."""

    faults = 0

    async def report(self, readings: Sequence[Reading]) -> None:
        if self.faults < 3:
            self.faults += 1
            raise KeyError("a fault of who keeps them")
        await super().report(readings)


def test_metrics_are_reported_again_after_a_fault_of_who_keeps_them() -> None:
    async def story() -> None:
        metrics = Faulty()
        async with LocalRuntime(hosts=1, metrics=metrics, metrics_interval_s=1.0):
            await asyncio.sleep(10.0)
        assert (metrics.faults, metrics.reports > 0) == (3, True)

    run(story())


class Server(EmbeddedPostgres):
    """A server whose directory cannot be read at first."""

    looks = starts = 0

    def is_running(self) -> bool:
        self.looks += 1
        if self.looks == 1:
            raise PermissionError("postmaster.pid")
        return self.starts > 1

    def start(self, *, timeout_s: float = 60.0) -> str:
        del timeout_s
        self.starts += 1
        return self.url


async def test_a_server_is_started_again_after_a_look_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_keeper, "LOOK_S", 0.01)
    monkeypatch.setattr(database_keeper, "_RETRY_S", 0.01)
    server = Server(tmp_path)
    keeper = DatabaseKeeper(server)
    await keeper.start()
    await eventually_async(lambda: _is(server, 2))
    await keeper.close()


async def _is(server: Server, starts: int) -> bool:
    return server.starts == starts
