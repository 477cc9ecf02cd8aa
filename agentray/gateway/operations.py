"""`/v1/operations`: what operators ask of the cluster, as `ManagerClient` does it.

It asks for an admin's key that belongs to no tenant: hosts and machines are nobody's in particular.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from agentray.errors import (
    AddressError,
    AgentrayError,
    ConfigurationError,
    DeadlineExceeded,
    ManagerSuperseded,
    ManagerUnavailable,
)
from agentray.gateway.auth import ADMIN, KeyRing, caller
from agentray.gateway.problems import FORBIDDEN, UNAVAILABLE, UNKNOWN, HttpProblem, retry_after
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.ids import AgentId
from agentray.protocol.operations import Drained, FailedAgent, Left, LeftOver, RunningGroup
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.supervision_client import GROUP_LABEL

_RETRY_S = 2.0
_RESET_S = 30.0

T = TypeVar("T")


class Patience(BaseModel):
    """How long to wait for the end."""

    model_config = ConfigDict(extra="forbid")

    wait_s: float = Field(
        default=30.0,
        ge=0,
        le=300,
        allow_inf_nan=False,
        description="Seconds to wait until it has left; it goes on after that.",
    )


class Which(BaseModel):
    """Which failed agents to list."""

    model_config = ConfigDict(extra="forbid")

    type: str | None = Field(default=None, max_length=200, description="Only of this type.")
    limit: int = Field(default=100, ge=1, le=1000, description="Most of them.")


class DryRun(BaseModel):
    """Whether to look only."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Only look; nothing is ended.")


class Status(BaseModel):
    """The cluster as its manager sees it."""

    model_config = ConfigDict(extra="allow")

    apps: list[dict[str, Any]] = Field(description="Deployed apps.")
    pools: list[dict[str, Any]] = Field(description="Pools, with what they wait for.")
    hosts: list[dict[str, Any]] = Field(description="Hosts, and whether they are to leave.")
    upgrades: list[dict[str, Any]] = Field(
        description="Apps whose code is being replaced: `app`, its `pools`, and of each pool how "
        "many `slots` hosts with the new code have, `of` how many that they may have now."
    )


class FailedAgents(BaseModel):
    """Failed agents, newest first."""

    agents: list[FailedAgent]


class Groups(BaseModel):
    """Groups that started with apps."""

    groups: list[RunningGroup]


class Reset(BaseModel):
    """What a reset came to."""

    agent: str
    reset: bool = Field(description="It had failed, and may start again; false: it had not.")


def _nobodys(request: Request) -> None:
    if caller(request).tenant:
        raise HttpProblem(FORBIDDEN, "A key of a tenant does not operate the cluster.")


class Operations:
    """What operators ask for."""

    def __init__(self, services: Services, keys: KeyRing) -> None:
        self._services = services
        self.router = self._routes(keys)

    @property
    def _manager(self) -> ManagerClient:
        if self._services.manager is None:
            raise HttpProblem(UNAVAILABLE, "This gateway has no cluster.")
        return self._services.manager

    def _routes(self, keys: KeyRing) -> APIRouter:
        routes = Routes("/v1/operations", "operations", keys)

        def add(
            method: str,
            path: str,
            endpoint: Any,
            name: str,
            answer: type[BaseModel] | None,
            *errors: int,
        ) -> None:
            answers: dict[int | str, dict[str, Any]] = {200: {"model": answer}}
            if answer is None:
                answers = {204: {"description": "Done."}}
            routes.add(
                [method], path, endpoint, name, ADMIN, answers, *errors,
                then=[Depends(_nobodys)], status_code=204 if answer is None else 200,
            )  # fmt: skip

        add("GET", "/status", self.status, "getClusterStatus", Status)
        add("POST", "/hosts/{host}/drain", self.drain_host, "drainHost", Drained, 404)
        add("POST", "/nodes/{node}/drain", self.drain_node, "drainNode", Drained, 404)
        add("POST", "/nodes/{node}/undrain", self.undrain_node, "undrainNode", None, 404)
        add("GET", "/groups", self.groups, "listGroups", Groups)
        add("GET", "/failed-agents", self.failed_agents, "listFailedAgents", FailedAgents)
        path = "/agents/{agent_type}/{key:path}/reset"
        add("POST", path, self.reset, "resetAgent", Reset, 404)
        add("POST", "/gc", self.gc, "collectLeftOvers", LeftOver)
        return routes.router

    async def status(self) -> Response:
        """Look at apps, pools, hosts, and upgrades that are under way."""
        return _json(await _asked(self._manager.status()))

    async def drain_host(self, host: str, patience: Annotated[Patience, Query()]) -> Response:
        """Let a host leave; a fresh one takes its place. What is under way there is not lost."""
        return _json(await _asked(self._manager.drain_host(host, timeout=patience.wait_s)))

    async def drain_node(self, node: str, patience: Annotated[Patience, Query()]) -> Response:
        """Let all hosts leave a machine, and start none there, until it is undrained."""
        return _json(await _asked(self._manager.drain_node(node, timeout=patience.wait_s)))

    async def undrain_node(self, node: str) -> Response:
        """Let hosts be started on a machine again."""
        await _asked(self._manager.undrain_node(node))
        return Response(status_code=204)

    async def groups(self) -> Response:
        """List the groups that started with apps, and whether they run."""
        manager = self._manager
        apps = (await _asked(manager.status()))["apps"]
        found: list[RunningGroup] = []
        for app in apps:
            for record in await _asked(manager.find(labels={GROUP_LABEL: app["name"]})):
                error = record.last_error or None
                status = record.status.value
                found.append(
                    RunningGroup(
                        group=str(record.id), app=app["name"], status=status, last_error=error
                    )
                )
        return _json(Groups(groups=found).model_dump(mode="json"))

    async def failed_agents(self, which: Annotated[Which, Query()]) -> Response:
        """List agents that have failed or are quarantined, newest first."""
        failures = await _asked(self._manager.failed_agents(which.type, limit=which.limit))
        shown = [
            FailedAgent(
                agent=str(failure.agent),
                kind=failure.kind.value,
                error=failure.error,
                traceback=failure.traceback,
                at=failure.at,
                deaths=failure.deaths,
            )
            for failure in failures
        ]
        return _json(FailedAgents(agents=shown).model_dump(mode="json"))

    async def reset(self, agent_type: str, key: str) -> Response:
        """Let a failed agent start again, or one leave its quarantine."""
        try:
            agent = AgentId.parse(f"{agent_type}/{key}")
        except (ConfigurationError, ValueError) as error:
            raise HttpProblem(UNKNOWN, str(error)) from error
        reset = await _asked(self._manager.reset_agent(agent, timeout=_RESET_S))
        return _json({"agent": str(agent), "reset": reset})

    async def gc(self, only: Annotated[DryRun, Query()]) -> Response:
        """End what is left over of hosts: actors and rows that nobody looks after."""
        found = await _asked(self._manager.gc(dry_run=only.dry_run))
        left = LeftOver(found=[Left(**each) for each in found], ended=not only.dry_run)
        return _json(left.model_dump(mode="json"))


async def _asked(work: Awaitable[T]) -> T:
    """Return what the manager says; what is wrong with the question is the caller's business."""
    try:
        return await work
    except AddressError:
        raise
    except ConfigurationError as error:
        raise HttpProblem(UNKNOWN, str(error)) from error
    except (ManagerUnavailable, ManagerSuperseded, DeadlineExceeded) as error:
        raise HttpProblem(UNAVAILABLE, str(error), headers=retry_after(_RETRY_S)) from error
    except AgentrayError:
        raise


def _json(answer: Any) -> Response:
    return Response(json.dumps(answer), media_type="application/json")
