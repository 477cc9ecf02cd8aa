"""What the interfaces have in common that give work to agents in another form than a prompt's.

Each makes a run of its request: accepted once, kept, and ended whatever becomes of the connection.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from fastapi import Request

from agentray import telemetry
from agentray.core.lifecycle import is_settled
from agentray.errors import IdempotencyConflict, UnknownRun, UnknownState
from agentray.event_loop import time_of_day
from agentray.gateway.admission import Admissions, Admitted
from agentray.gateway.auth import Caller, caller
from agentray.gateway.bodies import check_idempotency_key
from agentray.gateway.run_actions import RunEnds
from agentray.gateway.runs import RunReader
from agentray.gateway.services import Services
from agentray.gateway.streaming import RunStreams
from agentray.ids import AgentId, check_traceparent, new_id, slot_of
from agentray.protocol.runs import Run
from agentray.protocol.sessions import ACCESS, SESSION
from agentray.runtime.newest import up_to_date
from agentray.runtime.session_book import SessionBook, refusal
from agentray.store.base import NewRun, StoredRun, run_input
from agentray.store.continuations import Continuation
from agentray.store.sessions import Refusal


@dataclass(frozen=True, slots=True)
class Order:
    """Work for an agent.

    Attributes:
        agent_type: whose it is; None: the entry of the deployed app.
        key: of the agent; None: a fresh instance.
        prompt: what it is asked, in words; "" where it is asked otherwise.
        more: what else the run is given: see `agentray.protocol.requests`.
        asked: JSON by which a repetition under the same key is known.
        options: how the run is treated: see `run_input`.
        prompted: it is a prompt; else a request that the agent type is known to take.
        session: in which it is given, instead of to an agent; None: in none.
        goes_on: the run of the agent that it goes on with; None: with none.
        may_branch: where another run has gone on with that one, an agent of its own with the state
            from then takes it; else the agent as it is now.
    """

    agent_type: str | None
    key: str | None
    prompt: str
    more: Mapping[str, Any]
    asked: str
    options: Mapping[str, Any]
    prompted: bool = True
    session: str | None = None
    goes_on: str | None = None
    may_branch: bool = True


class FrontDesk:
    """Takes orders in, and looks after what becomes of them."""

    def __init__(
        self,
        services: Services,
        admissions: Admissions,
        reader: RunReader,
        streams: RunStreams,
        ends: RunEnds,
        sessions: SessionBook,
    ) -> None:
        self.services = services
        self.settings = services.settings
        self.reader = reader
        self.streams = streams
        self.ends = ends
        self.sessions = sessions
        self._admissions = admissions

    async def admit(self, order: Order, request: Request) -> Admitted:
        """Admit a run and begin it; a repetition under the same key finds the first one.

        Raises:
            HttpProblem: the key is malformed.
            UnknownAgentType, NoHandler: nobody takes it.
            UnknownSession: there is no such session.
            UnknownRun: what it goes on with is not kept any more.
            UnknownState: what its branch would begin with is not kept any more.
            IdempotencyConflict: its key was used for something else.
            DeploymentStopped, StoreUnavailable, Overloaded, ChannelClosed: not now.
        """
        key = check_idempotency_key(request.headers.get("idempotency-key"))
        traceparent = check_traceparent(request.headers.get("traceparent"))
        asks = caller(request)
        run_id = new_id("run")
        address, own = (order.agent_type, order.key), {}
        if order.session is not None:
            session = await self.sessions.get(order.session, asks.tenant or None)
            address = AgentId.parse(session.agent)
            own = {SESSION: session.id, ACCESS: session.access_level.value}
        dispatcher = self.services.dispatcher
        place = await up_to_date(
            dispatcher,
            lambda: dispatcher.place(*address, fresh_key=run_id, prompted=order.prompted),
        )
        if asks.tenant and order.key and order.session is None:
            await self.sessions.check_agent(place.agent, asks.tenant)
        given = run_input(
            order.prompt,
            telemetry.current_traceparent() or traceparent,
            user=asks.user,
            **order.options,
        )
        new = NewRun(
            id=run_id,
            agent=place.agent,
            pool=place.pool,
            slot=place.slot,
            input={**given, **order.more, **own},
            correlation_id=run_id,
            created_at=time_of_day(),
            owner=asks.owner,
            idempotency_key=key,
            digest="" if key is None else hashlib.sha256(order.asked.encode()).hexdigest(),
            goes_on=self._continuation(order, place.agent, run_id),
        )
        admitted = await self._admissions.admit(new)
        refused = admitted.admission.refused
        if refused is Refusal.CHANGED:
            return await self.admit(order, request)  # the session says something else by now
        if refused is Refusal.GONE:
            raise UnknownRun(order.goes_on or "")
        if refused is Refusal.DROPPED:
            raise UnknownState(str(place.agent))
        if refused is not None:
            raise refusal(order.session or "", admitted.admission)
        if admitted.admission.conflict:
            raise IdempotencyConflict(key or "", admitted.admission.run.id)
        return admitted

    def _continuation(self, order: Order, agent: AgentId, run_id: str) -> Continuation | None:
        if order.goes_on is None:
            return None
        branch = AgentId(agent.type, run_id)
        return Continuation(
            of=order.goes_on,
            branch=branch if order.may_branch else None,
            branch_slot=slot_of(branch),
            max_bytes=self.settings.max_noted_bytes,
        )

    async def wait(self, admitted: Admitted, wait_s: float) -> Run:
        """Return a run when it has ended or waits for an answer, or as it is after `wait_s`."""
        deadline = time.monotonic() + wait_s
        run = await admitted.ended(wait_s) or admitted.admission.run
        if is_settled(run):
            return run
        return await self.reader.wait(run, max(0.0, deadline - time.monotonic()))

    async def find(self, run_id: str | None, asks: Caller) -> StoredRun:
        """Return a run with what it was given.

        Raises:
            UnknownRun: there is none of this id that the caller may see.
        """
        known = run_id is not None and run_id.isascii() and "\0" not in run_id
        stored = await self.services.store.get_run(run_id) if known and run_id else None
        if stored is None or not asks.sees(stored.owner):
            raise UnknownRun(run_id or "")
        return stored


def has_nul(told: Any) -> bool:
    """Whether there is a NUL character somewhere in JSON: the database keeps none."""
    if isinstance(told, str):
        return "\0" in told
    if isinstance(told, dict):
        return any(map(has_nul, chain.from_iterable(cast("dict[str, Any]", told).items())))
    return isinstance(told, list) and any(map(has_nul, cast("list[Any]", told)))
