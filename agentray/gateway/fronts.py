"""What the interfaces have in common that give work to agents in another form than a prompt's.

Each makes a run of its request: accepted once, kept, and ended whatever becomes of the connection.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from agentray import telemetry
from agentray.core.lifecycle import is_settled
from agentray.errors import IdempotencyConflict, UnknownRun
from agentray.event_loop import time_of_day
from agentray.gateway.admission import Admissions, Admitted
from agentray.gateway.auth import Caller, caller
from agentray.gateway.bodies import check_idempotency_key
from agentray.gateway.run_actions import RunEnds
from agentray.gateway.runs import RunReader
from agentray.gateway.services import Services
from agentray.gateway.streaming import RunStreams
from agentray.ids import check_traceparent, new_id
from agentray.protocol.runs import Run
from agentray.store.base import NewRun, StoredRun, run_input


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
    """

    agent_type: str | None
    key: str | None
    prompt: str
    more: Mapping[str, Any]
    asked: str
    options: Mapping[str, Any]


class FrontDesk:
    """Takes orders in, and looks after what becomes of them."""

    def __init__(
        self,
        services: Services,
        admissions: Admissions,
        reader: RunReader,
        streams: RunStreams,
        ends: RunEnds,
    ) -> None:
        self.services = services
        self.settings = services.settings
        self.reader = reader
        self.streams = streams
        self.ends = ends
        self._admissions = admissions

    async def admit(self, order: Order, request: Request) -> Admitted:
        """Admit a run and begin it; a repetition under the same key finds the first one.

        Raises:
            HttpProblem: the key is malformed.
            UnknownAgentType, NoHandler: nobody takes it.
            IdempotencyConflict: its key was used for something else.
            DeploymentStopped, StoreUnavailable, Overloaded, ChannelClosed: not now.
        """
        key = check_idempotency_key(request.headers.get("idempotency-key"))
        traceparent = check_traceparent(request.headers.get("traceparent"))
        asks = caller(request)
        run_id = new_id("run")
        place = self.services.dispatcher.place(order.agent_type, order.key, fresh_key=run_id)
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
            input={**given, **order.more},
            correlation_id=run_id,
            created_at=time_of_day(),
            owner=asks.owner,
            idempotency_key=key,
            digest="" if key is None else hashlib.sha256(order.asked.encode()).hexdigest(),
        )
        admitted = await self._admissions.admit(new)
        if admitted.admission.conflict:
            raise IdempotencyConflict(key or "", admitted.admission.run.id)
        return admitted

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
