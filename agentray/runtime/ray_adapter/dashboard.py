"""Ray's HTTP: its dashboard, which has the job and state APIs, and the agent of each machine."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import ray
from ray._private import ray_constants
from ray._private.authentication.http_token_authentication import (
    get_auth_headers_if_auth_enabled,
)
from ray._private.worker import global_worker
from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX
from ray.exceptions import RayError

from agentray.errors import RayUnavailable

_TIMEOUT_S = 20.0
_GCS_TIMEOUT_S = 5.0

UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP's.
        body: as it came.
        headers: of the response.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        """Return what the body says.

        Raises:
            RayUnavailable: it is no JSON, so it does not come from what was asked.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise RayUnavailable(f"Ray answers no JSON: {self.body[:200]!r}") from error


class Dashboard:
    """Asks Ray's HTTP servers. Made inside of a process that is connected to the cluster."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._base = ""
        self._agents: dict[str, str] = {}

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        """Ask the dashboard.

        Args:
            method: HTTP's.
            path: with its slash.
            more: as aiohttp has it: `json`, `data`, `params`.

        Raises:
            RayUnavailable: it does not answer, or not for this process.
        """
        if not self._base:
            self._base = await self._dashboard()
        try:
            answer = await self._request(method, self._base + path, more)
        except UNREACHABLE as error:
            self._base = ""  # another head has another address
            told = str(error) or type(error).__name__
            raise RayUnavailable(f"Ray's dashboard does not answer: {told}") from error
        if answer.status in {401, 403}:
            raise RayUnavailable("Ray's dashboard does not know this process: its token is wrong.")
        return answer

    async def ask_agent(self, node: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Ask the agent of a machine.

        Raises:
            RayUnavailable: it does not answer.
        """
        base = self._agents.get(node) or await self._agent(node)
        try:
            answer = await self._request("GET", base + path, {"headers": headers})
        except UNREACHABLE as error:
            self._agents.pop(node, None)
            told = str(error) or type(error).__name__
            raise RayUnavailable(f"the agent of the node {node} does not answer: {told}") from error
        return answer

    async def _request(self, method: str, url: str, more: Mapping[str, Any]) -> Answer:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            # Not the proxies of the environment: Ray's servers are of this cluster.
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        headers = {**get_auth_headers_if_auth_enabled({}), **more.get("headers", {})}
        rest = {name: value for name, value in more.items() if name != "headers"}
        async with self._session.request(method, url, headers=headers, **rest) as response:
            return Answer(response.status, await response.read(), response.headers)

    async def _dashboard(self) -> str:
        value = await gcs_value(
            ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
        )
        if not value:
            raise RayUnavailable("Ray has no dashboard: jobs and views of the cluster need it.")
        return f"http://{value.decode()}"

    async def _agent(self, node: str) -> str:
        key = f"{DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX}{node}".encode()
        value = await gcs_value(key, ray_constants.KV_NAMESPACE_DASHBOARD)
        if not value:
            raise RayUnavailable(f"the node {node} has no agent")
        ip, port, _ = json.loads(value)
        base = f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"
        self._agents[node] = base
        return base


def gcs() -> Any:
    """Return this process's client of the GCS."""
    worker: Any = global_worker
    return worker.gcs_client


async def in_thread(call: Any, *args: Any, **more: Any) -> Any:
    """Call something of Ray's that blocks.

    Raises:
        RayUnavailable: Ray does not answer.
    """
    try:
        return await asyncio.to_thread(call, *args, **more)
    except RayError as error:
        raise RayUnavailable(f"Ray does not answer: {error}") from error


async def gcs_value(key: bytes, namespace: bytes) -> bytes | None:
    """Return a value that the GCS keeps; None: there is none."""
    client = gcs()
    return await in_thread(client.internal_kv_get, key, namespace, timeout=_GCS_TIMEOUT_S)


async def gcs_keys(prefix: bytes, namespace: bytes) -> list[bytes]:
    """Return the keys that begin with a prefix."""
    client = gcs()
    return await in_thread(client.internal_kv_keys, prefix, namespace, timeout=_GCS_TIMEOUT_S)


async def gcs_values(keys: list[bytes], namespace: bytes) -> dict[bytes, bytes]:
    """Return the values of keys; those that have none are left out."""
    client = gcs()
    return await in_thread(client.internal_kv_multi_get, keys, namespace, timeout=_GCS_TIMEOUT_S)


def own_node() -> str:
    """Return the id of the machine that this process is on."""
    return ray.get_runtime_context().get_node_id()
