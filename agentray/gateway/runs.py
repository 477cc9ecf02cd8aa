"""`/v1/runs`: what became of the work, its events and its trace."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from agentray.core.lifecycle import is_settled
from agentray.errors import AddressError, CallError, UnknownRun
from agentray.gateway.auth import READ, Caller, KeyRing, caller
from agentray.gateway.openapi import EVENTS_CONTENT, run_content
from agentray.gateway.routes import Routes
from agentray.gateway.services import Services
from agentray.gateway.streaming import RunStreams, parse_last_event_id
from agentray.ids import AgentId, check_type_name
from agentray.protocol.moments import Moment
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.trace_reader import TracedSpan, read_spans

_PAUSE_S = 0.5  # between two attempts to join a run whose host cannot be asked
_run_json = TypeAdapter(Run).dump_json


class RunPage(BaseModel):
    """Some runs, newest first."""

    runs: list[Run]
    next: str | None = Field(description="Give it as `before` for the next page; null: the last.")


class Trace(BaseModel):
    """What a run did."""

    spans: list[TracedSpan] = Field(
        description="In the order in which they were told. Of a run without `enable_trace` there "
        "are none until it has ended."
    )
    next: datetime | None = Field(
        description="Give it as `newer_than` for what comes next; null: nothing was told yet."
    )
    more: bool = Field(description="There are further spans already.")
    complete: bool = Field(description="The run has ended, and no further span comes.")


class TraceFilter(BaseModel):
    """Which part of a trace to return."""

    model_config = ConfigDict(extra="forbid")

    newer_than: Moment | None = Field(
        default=None,
        description="Only what was told after this time: ISO 8601 with its offset, or seconds or "
        "milliseconds since 1970.",
    )
    limit: int = Field(
        default=1000,
        ge=1,
        le=1000,
        description="Most spans to return; those of the same instant stay together.",
    )


class RunFilter(BaseModel):
    """Which runs to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200, description="Most runs to return.")
    before: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^run_\w+$",
        description="Id of the last run already seen.",
    )
    status: RunStatus | None = None
    agent: str | None = Field(
        default=None, max_length=1024, description="An agent type, or an agent: type/key."
    )

    @field_validator("agent")
    @classmethod
    def _well_formed(cls, agent: str | None) -> str | None:
        if agent is not None:
            _parts(agent)
        return agent


def _parts(agent: str | None) -> tuple[str | None, str | None]:
    """Return the type and the key of which runs are wanted; None: of any."""
    if agent is None or "/" not in agent:
        return agent and check_type_name(agent), None
    wanted = AgentId.parse(agent)
    return wanted.type, wanted.key


class RunWait(BaseModel):
    """How to look at one run."""

    model_config = ConfigDict(extra="forbid")

    wait_s: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait until the run has ended, or waits for an answer; the gateway "
        "cuts what it finds too long.",
    )


def run_response(
    run: Run, *, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a run. It is valid by its making: nothing is checked again on the way out."""
    return Response(
        _run_json(run), status_code=status_code, headers=headers, media_type="application/json"
    )


class RunReader:
    """Looks at runs: at their host while they run, in the Store when they have ended."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._dispatcher = services.dispatcher

    async def get(self, run_id: str, asks: Caller) -> Run:
        """Return a run as it is now.

        Raises:
            UnknownRun: there is none of this id that the caller may see.
            StoreUnavailable: it cannot be read now.
        """
        stored = await self._store.get_run(run_id) if "\0" not in run_id else None
        if stored is None or not asks.sees(stored.owner):
            raise UnknownRun(run_id)
        return stored.run

    async def check(self, run_id: str, asks: Caller) -> None:
        """Let the caller go on to do something with a run. Free of charge for who sees all.

        Raises:
            UnknownRun: there is none of this id that the caller may see.
            StoreUnavailable: it cannot be read now.
        """
        if asks.tenant or "\0" in run_id:
            await self.get(run_id, asks)

    async def wait(self, run: Run, wait_s: float) -> Run:
        """Return a run when it has ended or waits for an answer, or as it is after `wait_s`.

        Raises:
            StoreUnavailable: it cannot be read now.
        """
        deadline = time.monotonic() + wait_s
        while not is_settled(run) and (left_s := deadline - time.monotonic()) > 0:
            run = await self._join(run, left_s)
        return run

    async def _join(self, run: Run, wait_s: float) -> Run:
        deadline = time.monotonic() + wait_s
        try:
            async with asyncio.timeout(wait_s):
                joined = await self._dispatcher.join(AgentId.parse(run.agent), run.id)
                if is_settled(joined):
                    return joined
        except (CallError, AddressError, TimeoutError):
            pass  # what it is now, the Store knows
        # Its host is being replaced, or does not have the run yet; or the time is up.
        await asyncio.sleep(min(_PAUSE_S, max(0, deadline - time.monotonic())))
        stored = await self._store.get_run(run.id)
        if stored is None:
            raise UnknownRun(run.id)
        return stored.run


class Runs:
    """The runs resource."""

    def __init__(
        self, services: Services, keys: KeyRing, reader: RunReader, streams: RunStreams
    ) -> None:
        self._store = services.store
        self._max_wait_s = services.settings.max_wait_s
        self._reader = reader
        self._streams = streams
        self.router = self._routes(keys)

    def _routes(self, keys: KeyRing) -> APIRouter:
        routes = Routes("/v1/runs", "runs", keys)

        def get(path: str, endpoint: Any, name: str, answer: dict[str, Any], *errors: int) -> None:
            routes.add(["GET"], path, endpoint, name, READ, {200: answer}, *errors)

        one = {"description": "The run as it is now.", "content": run_content("succeeded")}
        events = {"description": "The events, to the terminal one.", "content": EVENTS_CONTENT}
        get("", self.list_runs, "listRuns", {"model": RunPage})
        get("/{run_id}", self.get_run, "getRun", one, 404)
        get("/{run_id}/events", self.get_events, "getRunEvents", events, 400, 404)
        get("/{run_id}/trace", self.get_trace, "getRunTrace", {"model": Trace}, 404)
        return routes.router

    async def list_runs(self, request: Request, wanted: Annotated[RunFilter, Query()]) -> Response:
        """List runs, newest first."""
        agent_type, agent_key = _parts(wanted.agent)
        found = await self._store.list_runs(
            limit=wanted.limit + 1,  # one more tells whether there is a next page
            before=wanted.before,
            status=wanted.status,
            agent_type=agent_type,
            agent_key=agent_key,
            tenant=caller(request).tenant or None,
        )
        runs = found[: wanted.limit]
        page = RunPage(runs=runs, next=runs[-1].id if len(found) > wanted.limit else None)
        return Response(page.model_dump_json(), media_type="application/json")

    async def get_run(
        self, request: Request, run_id: str, wanted: Annotated[RunWait, Query()]
    ) -> Response:
        """Look at a run; with `wait_s`, wait that long for its end."""
        run = await self._reader.get(run_id, caller(request))
        return run_response(await self._reader.wait(run, min(wanted.wait_s, self._max_wait_s)))

    async def get_events(
        self,
        request: Request,
        run_id: str,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Follow a run's events as Server-Sent Events, from the beginning or after an offset.

        `id:` tells how far the stream is, `event:` the event's kind, `data:` the event as JSON.
        Send the last id as `Last-Event-ID` to go on after it. The stream ends with the run; until
        then a comment comes every 10 seconds when nothing else does.

        An event that is shown before it is kept says which `attempt` it belongs to. Should that be
        lost meanwhile, the stream goes back: the next attempt's events have these offsets.
        """
        cursor = parse_last_event_id(last_event_id)
        run = await self._reader.get(run_id, caller(request))
        return self._streams.response(run, cursor, {})

    async def get_trace(
        self, request: Request, run_id: str, wanted: Annotated[TraceFilter, Query()]
    ) -> Response:
        """Return a run's spans: which agent handled what, where, and for how long.

        In pages, with `newer_than` and `limit`. With `enable_trace` also while the run goes on.
        """
        await self._reader.check(run_id, caller(request))
        page = await read_spans(
            self._store, run_id, newer_than=wanted.newer_than, limit=wanted.limit
        )
        following = page.spans[-1].time if page.spans else wanted.newer_than
        trace = Trace(spans=page.spans, next=following, more=page.more, complete=page.complete)
        return Response(trace.model_dump_json(), media_type="application/json")
