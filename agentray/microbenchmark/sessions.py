"""Rows of sessions: how fast they are made and prompted, and whether hosts grow by them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from agentray.microbenchmark.agents import POOL, Talker
from agentray.microbenchmark.places import host_bytes
from agentray.microbenchmark.rows import Row, at_most
from agentray.microbenchmark.scale import Scale
from agentray.runtime.manager_client import ManagerClient

_CONNECTIONS = 32
_MB = 1_000_000
_ALLOWED_MB = 5  # of all hosts: allocators do not put everything where it was before
_TTL_S = 120.0  # the rows go by themselves
_LOOK_S = 0.5


async def measure_sessions(
    manager: ManagerClient, url: str, api_key: str, scale: Scale
) -> list[Row]:
    """Make sessions and prompt each once, over HTTP; then let their agents leave memory."""
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
        await _prompt_all(http, url, scale.sessions // 5)  # warms up
        per_s = await _prompt_all(http, url, scale.sessions)
        plain_per_s = await _prompt_all(http, url, scale.sessions // 5, sessions=False)
        await _until_idle(manager)
        # An allocator keeps what the first ones made it take, and it is used again. So these are no
        # growth, whatever they leave; as many more are, if they leave anything.
        before = await host_bytes(manager, POOL)
        await _prompt_all(http, url, scale.sessions)
        busy = await host_bytes(manager, POOL) - before
        await _until_idle(manager)
        left = await host_bytes(manager, POOL) - before
    thousands = scale.sessions // 1000
    return [
        Row("session_prompt_http_per_s", per_s, "sessions/s", "prompts without one", plain_per_s),
        Row(
            f"sessions_{thousands}k_growth_mb",
            max(0.0, left / _MB),
            "MB",
            "more than after as many before, while in memory",
            busy / _MB,
            at_most(_ALLOWED_MB, of="value"),
        ),
    ]


async def _prompt_all(
    http: aiohttp.ClientSession, url: str, count: int, *, sessions: bool = True
) -> float:
    """Prompt so many agents, each in a session of its own; return how many per second."""
    name = Talker.agent_type.name
    left = iter(range(count))

    async def post(path: str, body: dict[str, Any]) -> Any:
        async with http.post(f"{url}{path}", json=body) as response:
            response.raise_for_status()
            return await response.json()

    async def worker() -> None:
        for _ in left:
            if sessions:
                made = await post("/v1/sessions", {"agent": name, "ttl_s": _TTL_S})
                await post("/v1/prompts", {"prompt": "hello", "session": made["id"]})
            else:
                await post("/v1/prompts", {"prompt": "hello", "agent": name})

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(_CONNECTIONS)))
    return count / (time.perf_counter() - begun)


async def _until_idle(manager: ManagerClient) -> None:
    """Return when none of the agents is in memory any more."""
    while await manager.agents(Talker.agent_type.name, limit=1):  # noqa: ASYNC110 - it is elsewhere
        await asyncio.sleep(_LOOK_S)
