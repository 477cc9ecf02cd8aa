"""Rows of prompts over HTTP, against an endpoint that does nothing."""

# Ray's own annotations are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedClassDecorator=false

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

from agentray.client import AsyncAgentClient
from agentray.microbenchmark.agents import Echo
from agentray.microbenchmark.rows import (
    Row,
    at_least,
    at_most,
    in_turn,
    per_second,
    sequential_p50_ms,
)
from agentray.microbenchmark.scale import Scale

NOOP = "no-op FastAPI deployment on Ray Serve"
_PREFIX = "/agentray-microbenchmark"
_CONNECTIONS = 32

_api = FastAPI()


class Body(BaseModel):
    """The same fields as a prompt's."""

    prompt: str
    agent: str | None = None
    wait_s: float = 30.0


@_api.post("/noop")
async def noop(body: Body) -> dict[str, str]:
    """Read a body, do nothing, answer."""
    return {"result": body.prompt}


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
@serve.ingress(_api)
class Noop:
    """The baseline."""


async def measure_http(url: str, api_key: str, scale: Scale) -> list[Row]:
    """Measure prompts to an agent that answers at once, on one connection and on many."""
    await asyncio.to_thread(
        serve.run, Noop.bind(), name="agentray-microbenchmark", route_prefix=_PREFIX
    )
    try:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
        headers = {"Authorization": f"Bearer {api_key}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            rows = await _measure(session, url, scale)
            return [*rows, await _measure_client(session, url, api_key, scale)]
    finally:
        await asyncio.to_thread(serve.delete, "agentray-microbenchmark")


async def _measure(session: aiohttp.ClientSession, url: str, scale: Scale) -> list[Row]:
    body = {"prompt": "measure", "agent": Echo.agent_type.name}

    async def post(path: str) -> Any:
        async with session.post(f"{url}{path}", json=body) as response:
            response.raise_for_status()
            return await response.json()

    async def ours() -> Any:
        return await post("/v1/prompts")

    async def bare() -> Any:
        return await post(f"{_PREFIX}/noop")

    await asyncio.gather(*(ours() for _ in range(64)), *(bare() for _ in range(64)))
    p50, noop_p50 = await in_turn(
        lambda: sequential_p50_ms(ours, scale.sequential),
        lambda: sequential_p50_ms(bare, scale.sequential),
        scale.rounds,
    )
    per_s, noop_per_s = await in_turn(
        lambda: per_second(ours, _CONNECTIONS, scale.seconds),
        lambda: per_second(bare, _CONNECTIONS, scale.seconds),
        scale.rounds,
    )
    return [
        Row("prompt_http_p50_ms", p50, "ms", NOOP, noop_p50),
        Row("prompt_http_32_per_s", per_s, "prompts/s", NOOP, noop_per_s, at_least(0.6)),
    ]


async def _measure_client(
    session: aiohttp.ClientSession, url: str, api_key: str, scale: Scale
) -> Row:
    """Measure what `agentray.client` adds to a request: the look at a run, which does least."""
    async with AsyncAgentClient(url, api_key) as client:
        run = await client.prompt("measure", Echo.agent_type.name)

        async def ours() -> Any:
            return await client.run(run.id)

        async def bare() -> Any:
            async with session.get(f"{url}/v1/runs/{run.id}") as response:
                response.raise_for_status()
                return await response.json()

        await asyncio.gather(*(ours() for _ in range(16)), *(bare() for _ in range(16)))
        p50, bare_p50 = await in_turn(
            lambda: sequential_p50_ms(ours, scale.sequential),
            lambda: sequential_p50_ms(bare, scale.sequential),
            scale.rounds,
        )
    what = "the same request by bare aiohttp"
    return Row("client_added_p50_ms", p50 - bare_p50, "ms", what, bare_p50, at_most(1, "value"))
