"""The database server is killed under load: it comes back, and with it all that was accepted."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from agentray import ManagerClient, Run, RunStatus
from agentray.client import AsyncAgentClient
from agentray.errors import StoreUnavailable
from agentray.runtime.database_keeper import LOOK_S
from tests.support.cluster import Cluster, live_hosts, postmaster, until_complete
from tests.support.eventually import eventually_async
from tests.support.helpers import Ledger
from tests.support.web import Web

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]


class Load:
    """People who prompt, and a driver who calls, until they are told to stop."""

    def __init__(self, client: AsyncAgentClient, web: Web, manager: ManagerClient) -> None:
        self.stopping = asyncio.Event()
        self.answered: list[Run] = []
        self.accepted: dict[str, str] = {}  # texts by the ids of their runs
        self.refused = 0
        self.added: list[int] = []
        self.not_added = 0
        self._client = client
        self._web = web
        self._ledger = manager.handle(Ledger, "database-kill")

    async def prompt(self, who: int) -> None:
        """Wait for each answer: the client asks again where it is refused."""
        number = 0
        while not self.stopping.is_set():
            text = f"patient {who}-{number}"
            run = await self._client.prompt(text, "parrot", wait_s=120)
            assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": text}), run
            self.answered.append(run)
            number += 1

    async def post(self, who: int) -> None:
        """Prompt as curl does, and count what is accepted and what is refused."""
        number = 0
        while not self.stopping.is_set():
            text = f"hasty {who}-{number}"
            answer = await self._web.prompt(text, agent="parrot", wait_s=0)
            if answer.status in (200, 202):
                self.accepted[answer.body["id"]] = text
            else:
                assert answer.status == 503, answer
                assert int(answer.headers["retry-after"]) >= 1
                self.refused += 1
                await asyncio.sleep(0.05)
            number += 1

    async def add(self) -> None:
        """Count in an agent's state."""
        while not self.stopping.is_set():
            try:
                self.added.append(await self._ledger.add(1))
            except StoreUnavailable:
                self.not_added += 1


async def test_what_was_accepted_is_kept_and_goes_on_when_the_server_is_back(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    hosts = await until_complete(manager)
    gate = tmp_path / "gate"
    async with cluster.client() as client, aiohttp.ClientSession() as session:
        load = Load(client, Web(cluster.url, cluster.key, session), manager)
        waiting = asyncio.create_task(client.prompt(f"{gate} waited", "waiter", wait_s=200))
        async with asyncio.TaskGroup() as group:
            for who in range(3):
                group.create_task(load.prompt(who))
            group.create_task(load.post(0))
            group.create_task(load.add())

            async def under_load() -> bool:
                page = await client.runs(agent="waiter", status=RunStatus.RUNNING)
                return bool(page.runs and load.answered and load.accepted and load.added)

            await eventually_async(under_load, timeout_s=60)
            killed = postmaster(cluster.home)
            assert killed
            os.kill(killed, signal.SIGKILL)
            gate.touch()  # it ends while there is no database
            before = len(load.answered), len(load.accepted), len(load.added)

            async def goes_on() -> bool:
                now = len(load.answered), len(load.accepted), len(load.added)
                return postmaster(cluster.home) not in (0, killed) and all(
                    n > b + 3 for n, b in zip(now, before, strict=True)
                )

            await eventually_async(goes_on, timeout_s=120, interval_s=LOOK_S / 5)
            load.stopping.set()

        ended = await waiting
        assert (ended.status, ended.result, ended.attempt) == (
            RunStatus.SUCCEEDED,
            {"text": "waited"},
            1,
        )
        for run_id, text in load.accepted.items():
            run = await client.run(run_id, wait_s=60)
            assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": text}), run
        for run in load.answered:
            assert await client.run(run.id) == run  # as the Store has it

    assert load.added == sorted(set(load.added))
    total = await manager.handle(Ledger, "database-kill").add(0)
    # Of one that failed it is not known whether it was written.
    assert len(load.added) <= total <= len(load.added) + load.not_added
    assert await live_hosts(manager) == hosts, "no host was lost to it"
