"""`/v1/nodes`, `tasks`, `actors`, `serve_applications`, `resources`: the cluster below the agents.

Where a cluster serves several tenants, its machines and whatever else runs on them are nobody's: a
key that belongs to a tenant does not see them.
"""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentray.core.jobs import NodeLoad, refusals, shortages
from agentray.errors import UnknownPart
from agentray.gateway.auth import ADMIN, READ, KeyRing, caller
from agentray.gateway.bodies import openapi_body, read_body
from agentray.gateway.cluster_parts import ClusterParts
from agentray.gateway.problems import FORBIDDEN, IN_USE, NOT_HERE, HttpProblem, from_validation
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.jobs.views import Selection
from agentray.protocol.jobs import JobPolicy, JobStatus, PolicyChange
from agentray.store.jobs import JobQuery

_ENGINES = ("docker", "podman")
_CAUSE = "gpu_unavailable"


class PartFilter(BaseModel):
    """Which of many to list; further parameters are fields and the values that they must have."""

    model_config = ConfigDict(extra="allow")

    limit: int = Field(default=100, ge=1, le=10_000, description="Most to return.")


class CacheChoice(BaseModel):
    """Whether what was known a moment ago is good enough."""

    use_cache: bool = True


class Feasibility(BaseModel):
    """What is to be placed."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"kind": "job", "num_cpus": 2, "num_gpus": 1}]},
    )

    kind: Literal["job", "serve", "container", "task"] = "job"
    num_cpus: float = Field(default=0, ge=0, allow_inf_nan=False)
    num_gpus: float = Field(default=0, ge=0, allow_inf_nan=False)
    memory_bytes: int | None = Field(default=None, ge=0)
    resources: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict[str, float], description="Others, by Ray's names."
    )
    replicas: int = Field(default=1, ge=1, le=100_000)
    metadata: dict[str, Any] | None = None

    @property
    def demand(self) -> dict[str, float]:
        """What one replica needs, in Ray's names."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory_bytes or 0}
        wanted |= self.resources
        return {name: float(amount) for name, amount in wanted.items() if amount}


class Verdict(BaseModel):
    """Whether something has room."""

    allowed: bool = Field(description="It can begin now.")
    reasons: list[str] = Field(description="Why not, in sentences.")
    possible: bool = Field(description="Waiting can help, or it is allowed.")


def _nobodys(request: Request) -> None:
    if caller(request).tenant:
        raise HttpProblem(FORBIDDEN, "What a key of a tenant sees is the tenant's own.")


class ClusterRoutes:
    """Views of the cluster, and the policy of jobs."""

    def __init__(self, services: Services, parts: ClusterParts, keys: KeyRing) -> None:
        self._store = services.store
        self._views = parts.views
        self._application = parts.application
        self._max_bytes = services.settings.max_body_bytes
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> Any:
        routes = Routes("/v1", "cluster", keys)
        many: dict[int | str, dict[str, Any]] = {200: {"model": list[dict[str, Any]]}}
        one: dict[int | str, dict[str, Any]] = {200: {"model": dict[str, Any]}}
        gone: dict[int | str, dict[str, Any]] = {204: {"description": "It is taken down."}}
        policy: dict[int | str, dict[str, Any]] = {200: {"model": JobPolicy}}
        verdict: dict[int | str, dict[str, Any]] = {200: {"model": Verdict}}
        nobodys: dict[str, Any] = {"then": [Depends(_nobodys)]}
        add = routes.add
        add(["GET"], "/health", self.health, "getHealth", READ, one)
        for kind in ("node", "task", "actor"):
            add(
                ["GET"], f"/{kind}s", self._lister(kind), f"list{kind.title()}s", READ, many,
                **nobodys,
            )  # fmt: skip
            add(
                ["GET"], f"/{kind}s/{{part_id}}", self._getter(kind), f"get{kind.title()}", READ,
                one, 404, **nobodys,
            )  # fmt: skip
        apps, at = "/serve_applications", "/serve_applications/{name}"
        add(["GET"], apps, self.list_apps, "listServeApplications", READ, many, **nobodys)
        add(["GET"], at, self.get_app, "getServeApplication", READ, one, 404, **nobodys)
        add(["DELETE"], at, self.delete_app, "deleteServeApplication", ADMIN, gone, 409, **nobodys)
        add(["GET"], "/gpu_status", self.gpu_status, "getGpuStatus", READ, one)
        resources = "/resources/cluster"
        add(["GET"], resources, self.resources, "getClusterResources", READ, one)
        body: dict[str, Any] = {"openapi_extra": openapi_body(Feasibility)}
        path = "/resources/feasibility"
        add(["POST"], path, self.feasibility, "checkFeasibility", READ, verdict, 400, 413, **body)
        path = "/resources/policy"
        add(["GET"], path, self.get_policy, "getJobPolicy", READ, policy)
        body = {"openapi_extra": openapi_body(PolicyChange)}
        changing = (400, 413)
        add(
            ["PATCH"], path, self.change_policy, "changeJobPolicy", ADMIN, policy, *changing,
            **nobodys, **body,
        )  # fmt: skip
        for prefix in ("/builds", "/containers"):
            for path in (prefix, f"{prefix}/{{rest:path}}"):
                methods = ["GET", "POST", "PATCH", "DELETE"]
                routes.add(methods, path, self.no_containers, "", READ, {}, hidden=True)
        return routes.router

    async def health(self) -> Response:
        """Answer, when the gateway and its database do."""
        await self._store.ping()
        return JSONResponse({"status": "ok"})

    # Machines, tasks, actors

    def _lister(self, kind: str) -> Any:
        views = self._views

        async def list_parts(wanted: Annotated[PartFilter, Query()]) -> Response:
            extra: dict[str, Any] = wanted.model_extra or {}
            selection = Selection(wanted.limit, {name: str(v) for name, v in extra.items()})
            return JSONResponse(await getattr(views, f"{kind}s")(selection))

        list_parts.__doc__ = f"List the {kind}s of the cluster, as Ray tells of them."
        return list_parts

    def _getter(self, kind: str) -> Any:
        views = self._views

        async def get_part(part_id: str) -> Response:
            found = await getattr(views, f"{kind}s")(Selection(2, {f"{kind}_id": part_id}))
            if not found:
                raise UnknownPart(kind, part_id)
            return JSONResponse(found[-1])  # of a task the last attempt

        get_part.__doc__ = f"Look at one {kind}."
        return get_part

    # Serve

    async def list_apps(self) -> Response:
        """List the applications that Ray Serve runs; the gateway is one of them."""
        return JSONResponse(await self._views.serve_applications())

    async def get_app(self, name: str) -> Response:
        """Look at an application of Ray Serve."""
        return JSONResponse(await self._app(name))

    async def _app(self, name: str) -> dict[str, Any]:
        found = [app for app in await self._views.serve_applications() if app["name"] == name]
        if not found:
            raise UnknownPart("Serve application", name)
        return found[0]

    async def delete_app(self, name: str) -> Response:
        """Take an application of Ray Serve down."""
        if name == self._application:
            raise HttpProblem(IN_USE, f"{name!r} is this gateway: `agentray down` ends it.")
        await self._app(name)
        await self._views.delete_serve_application(name)
        return Response(status_code=204)

    # Resources

    async def resources(self, wanted: Annotated[CacheChoice, Query()]) -> Response:
        """Return what the cluster has, and what of it is in use."""
        policy = await self._store.job_policy()
        age_s = policy.resource_cache_ttl_seconds if wanted.use_cache else 0
        machines = await self._views.machines(age_s)
        collected_at = await self._views.collected_at()
        running = await self._store.list_jobs(JobQuery(JobStatus.RUNNING), limit=10_000)
        apps = await self._views.serve_applications()
        replicas = [
            replica
            for app in apps
            for deployment in app.get("deployments", {}).values()
            for replica in deployment.get("replicas", [])
        ]
        return JSONResponse(
            {
                "collected_at": datetime.fromtimestamp(collected_at, tz=UTC).isoformat(),
                "stale": False,
                **{name: _sum(machines, name) for name in ("cpu", "memory", "object_store")},
                "gpu": _gpus(machines),
                "running_jobs": len(running),
                "total_serve_replicas": len(replicas),
                "node_counts": {"total": len(machines), "alive": len(machines), "dead": 0},
                "nodes": machines,
            }
        )

    async def gpu_status(self) -> Response:
        """Return the GPUs of the cluster, by machine."""
        policy = await self._store.job_policy()
        machines = await self._views.machines(policy.resource_cache_ttl_seconds)
        nodes = [
            {name: machine[name] for name in ("node_id", "host_name", "ip", "gpus")}
            for machine in machines
        ]
        return JSONResponse({**_gpus(machines), "nodes": nodes})

    async def feasibility(self, request: Request) -> Response:
        """Ask whether something has room now, by the machines and by the policy."""
        wanted = await _read(request, self._max_bytes, Feasibility)
        policy = await self._store.job_policy()
        loads = await self._views.loads(policy.resource_cache_ttl_seconds)
        told, possible = shortages(wanted.demand, loads, wanted.replicas)
        told += await self._refusals(policy, wanted, loads)
        verdict = Verdict(allowed=not told, reasons=told, possible=possible)
        answer = verdict.model_dump()
        if any("GPU" in reason for reason in told):
            answer["error_type"] = _CAUSE
        return JSONResponse(answer)

    async def _refusals(
        self, policy: JobPolicy, wanted: Feasibility, loads: list[NodeLoad]
    ) -> list[str]:
        told = refusals(policy, wanted.demand, loads)
        most = policy.max_concurrent_jobs if policy.gatekeeping_enabled else 0
        if wanted.kind == "job" and most:
            found = [
                await self._store.list_jobs(JobQuery(status), limit=most)
                for status in (JobStatus.PENDING, JobStatus.RUNNING)
            ]
            if sum(map(len, found)) >= most:
                told.append(f"The policy allows {most} jobs at once.")
        return told

    async def get_policy(self) -> Response:
        """Return what lets jobs in."""
        return JSONResponse((await self._store.job_policy()).model_dump())

    async def change_policy(self, request: Request) -> Response:
        """Change what lets jobs in; what is left out stays. It holds for the next submission."""
        change = await _read(request, self._max_bytes, PolicyChange)
        changes = change.model_dump(exclude_none=True)
        policy = await (
            self._store.change_job_policy(changes) if changes else self._store.job_policy()
        )
        return JSONResponse(policy.model_dump())

    # What is not here

    async def no_containers(self) -> Response:
        """Say what is missing."""
        found = await asyncio.to_thread(lambda: next(filter(shutil.which, _ENGINES), None))
        missing = (
            "the gateway's machine has no container engine (docker or podman)"
            if found is None
            else f"{found} is on the gateway's machine, and agentray does not build or run with it"
        )
        detail = f"Containers cannot be built or run here: {missing}."
        raise HttpProblem(NOT_HERE, detail, missing=[missing])


async def _read(request: Request, max_bytes: int, model: type[Any]) -> Any:
    """Read a body; one that is empty or `null` says nothing."""
    body = (await read_body(request, max_bytes)).strip()
    try:
        return model.model_validate_json(b"{}" if body in {b"", b"null"} else body)
    except ValidationError as error:
        raise from_validation(error.errors(), "body") from error


def _sum(machines: list[dict[str, Any]], name: str) -> dict[str, float]:
    return {
        part: sum(machine[name][part] or 0 for machine in machines)
        for part in ("total", "used", "available")
    }


def _gpus(machines: list[dict[str, Any]]) -> dict[str, Any]:
    gpus = [gpu for machine in machines for gpu in machine["gpus"]]
    used = [gpu["utilization_gpu"] for gpu in gpus if gpu["utilization_gpu"] is not None]
    mb = 1024 * 1024
    total = sum(gpu["memory_total"] for gpu in gpus) * mb
    there, free = (
        sum(machine[name].get("GPU", 0) for machine in machines)
        for name in ("resources_total", "resources_available")
    )
    return {
        "total_gpus": int(there),
        "available_gpus": int(free),  # whole ones: clients of other systems read a whole number
        "total_memory_bytes": total,
        "available_memory_bytes": total - sum(gpu["memory_used"] for gpu in gpus) * mb,
        "max_utilization": max(used, default=0.0),
        "avg_utilization": sum(used) / len(used) if used else 0.0,
    }
