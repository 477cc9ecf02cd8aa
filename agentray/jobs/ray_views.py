"""What a cluster consists of, asked of Ray's dashboard."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from agentray.core.jobs import NodeLoad
from agentray.errors import RayUnavailable
from agentray.jobs.machines import id_of, load_of, machine, rejection, shown
from agentray.jobs.views import Selection
from agentray.runtime.ray_adapter.dashboard import Dashboard, in_thread

_TIMEOUT_S = 15


class RayViews:
    """`ClusterViews` of the cluster that this process is connected to."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._machines: list[dict[str, Any]] = []
        self._loads: list[NodeLoad] = []
        self._collected_at = 0.0  # of time.time()
        self._collecting = asyncio.Lock()

    async def nodes(self, wanted: Selection) -> list[dict[str, Any]]:
        """Return machines."""
        found = await self._state("nodes", wanted)
        return [{**node, "alive": node.get("state") == "ALIVE"} for node in found]

    async def tasks(self, wanted: Selection) -> list[dict[str, Any]]:
        """Return tasks."""
        found = await self._state("tasks", wanted)
        return [{**task, "status": task.get("state")} for task in found]

    async def actors(self, wanted: Selection) -> list[dict[str, Any]]:
        """Return actors."""
        found = await self._state("actors", wanted)
        return [
            {**actor, "status": actor.get("state"), "alive": actor.get("state") == "ALIVE"}
            for actor in found
        ]

    async def _state(self, what: str, wanted: Selection) -> list[dict[str, Any]]:
        filters = wanted.filters
        if not wanted.possible:
            return []
        params: list[tuple[str, str]] = [
            ("limit", str(wanted.limit)),
            ("timeout", str(_TIMEOUT_S)),
            ("detail", "1"),
            *(("filter_keys", name) for name in filters),
            *(("filter_predicates", "=") for _ in filters),
            *(("filter_values", value) for value in filters.values()),
        ]
        answer = await self._dashboard.ask("GET", f"/api/v0/{what}", params=params)
        said = answer.json()
        if answer.status != 200 or not said.get("result"):
            why = str(said.get("msg"))
            raise rejection(why, filters) or RayUnavailable(
                f"Ray does not tell its {what}: {why[:300]}"
            )
        return [shown(part) for part in said["data"]["result"]["result"]]

    async def serve_applications(self) -> list[dict[str, Any]]:
        """Return the applications that Ray Serve runs."""
        answer = await self._dashboard.ask("GET", "/api/serve/applications/")
        if answer.status != 200:
            raise RayUnavailable(f"Ray Serve does not answer: HTTP {answer.status}")
        found: dict[str, dict[str, Any]] = answer.json().get("applications", {})
        return [{"name": name, **app} for name, app in sorted(found.items())]

    async def delete_serve_application(self, name: str) -> None:
        """Take an application down."""
        try:
            await in_thread(serve.delete, name)
        except RayServeException as error:
            raise RayUnavailable(f"Ray Serve does not answer: {error}") from error

    async def machines(self, max_age_s: float) -> list[dict[str, Any]]:
        """Return living machines with what is in use of each."""
        await self._collect(max_age_s)
        return self._machines

    async def loads(self, max_age_s: float) -> list[NodeLoad]:
        """Return living machines as the policy looks at them."""
        await self._collect(max_age_s)
        return self._loads

    async def collected_at(self) -> float:
        """Return when Ray was last asked."""
        return self._collected_at

    async def _collect(self, max_age_s: float) -> None:
        async with self._collecting:
            if time.time() - self._collected_at <= max_age_s:
                return
            answer = await self._dashboard.ask("GET", "/nodes", params={"view": "summary"})
            if answer.status != 200:
                raise RayUnavailable(f"Ray does not tell of its nodes: HTTP {answer.status}")
            known = {id_of(node): node for node in answer.json()["data"]["summary"]}
            free: Any = await in_thread(ray.state.available_resources_per_node)
            living = [node for node in await in_thread(ray.nodes) if node["Alive"]]
            self._machines = [
                machine(node, known.get(node["NodeID"], {}), free.get(node["NodeID"], {}))
                for node in living
            ]
            self._loads = [load_of(machine) for machine in self._machines]
            self._collected_at = time.time()
