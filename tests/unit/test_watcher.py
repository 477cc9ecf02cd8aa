"""The watcher goes on, whatever happens to the manager that it asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentray.errors import ManagerSuperseded, ManagerUnavailable, StartFailed, StoreUnavailable
from agentray.protocol.codec import encode
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.ray_adapter.manager_actor import ManagerActor
from agentray.runtime.ray_adapter.setup import Setup
from agentray.runtime.watcher import SnapshotWatcher
from agentray.store.embedded import EmbeddedPostgres
from agentray.testing import LocalRuntime, run


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


async def test_a_manager_whose_database_does_not_start_says_that_it_waits(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("1\n")  # a server that nobody has
    server = EmbeddedPostgres(tmp_path)
    with pytest.raises(StartFailed):
        await asyncio.to_thread(server.start)
    actor = ManagerActor(encode(Setup(server.url, 1, embedded_database=str(tmp_path))))
    for _ in range(2):  # and it is tried again for each who asks
        with pytest.raises(StoreUnavailable, match="PostgreSQL"):
            await actor.ready()
