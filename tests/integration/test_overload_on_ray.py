"""More requests than the gateway takes, through HAProxy and Serve: none hangs, none is a 500."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from agentray import RunStatus, Settings
from tests.support.cluster import Cluster
from tests.support.eventually import eventually_async

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]

LIMIT = Settings.model_fields["gateway_requests"].default
BEYOND = 150


async def test_requests_beyond_the_limit_are_told_to_come_again(cluster: Cluster, tmp_path: Path):
    gate = tmp_path / "gate"
    headers = {"Authorization": f"Bearer {cluster.key}"}
    # A connection for each: many wait at once.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        cluster.client() as client,
        aiohttp.ClientSession(cluster.url, connector=connector, timeout=timeout) as session,
    ):
        run = await client.prompt(f"{gate} overload", "waiter", wait_s=0)
        path = f"/v1/runs/{run.id}"

        async def ask(query: str = "") -> tuple[int, str, int]:
            async with session.get(path + query, headers=headers) as answer:
                body = await answer.json(content_type=None)
                if answer.status == 429:
                    assert body["type"] == "urn:agentray:problem:overloaded"
                return answer.status, answer.content_type, int(answer.headers.get("retry-after", 0))

        # Some more than there is room for: who asks whether it is full takes a place meanwhile.
        waiting = [asyncio.create_task(ask("?wait_s=60")) for _ in range(LIMIT + BEYOND)]

        async def full() -> bool:
            return (await ask())[0] == 429

        await eventually_async(full, 60)
        refused = await asyncio.gather(*(ask() for _ in range(BEYOND)))
        assert Counter(refused) == {(429, "application/problem+json", 1): BEYOND}
        async with session.get("/readyz") as answer:
            assert answer.status == 200

        # Clients that hang up give their places back.
        for task in waiting[: LIMIT // 2]:
            task.cancel()

        async def free() -> bool:
            return (await ask())[0] == 200

        await eventually_async(free, 60)
        gate.touch()
        rest = await asyncio.gather(*waiting[LIMIT // 2 :])
        assert {status for status, _, _ in rest} <= {200, 429}
        assert (await client.run(run.id, wait_s=30)).status is RunStatus.SUCCEEDED
