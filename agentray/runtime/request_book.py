"""Typed requests as the manager starts them for drivers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from agentray.errors import (
    ConfigurationError,
    IdempotencyConflict,
    UnknownRequestType,
    UnknownRun,
)
from agentray.event_loop import time_of_day
from agentray.event_run import OnErrorName
from agentray.ids import new_id
from agentray.protocol.async_jobs import JobStatus
from agentray.protocol.event_runs import OnError
from agentray.protocol.requests import FRONT, REQUEST, TYPED
from agentray.protocol.runs import Run
from agentray.runtime.handing_over import hand_over
from agentray.runtime.ports import RunDispatcher
from agentray.runtime.tasks import TaskSet
from agentray.runtime.typed_jobs import read_job, types_of_requests
from agentray.store.base import NewRun, Store, run_input


class RequestBook:
    """Starts the jobs of typed requests, and looks at them."""

    def __init__(self, store: Store, dispatcher: RunDispatcher) -> None:
        """Make it.

        Args:
            store: where their runs are.
            dispatcher: hands these to their hosts.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._tasks = TaskSet("typed requests")

    async def start(
        self,
        name: str,
        asked: Mapping[str, Any],
        agent: tuple[str, str | None] | None,
        timeout_s: float | None,
        on_error: OnErrorName,
        idempotency_key: str | None,
    ) -> Run:
        """Keep a request, begin it, and return its run as it is then.

        Args:
            name: of its type.
            asked: it as JSON.
            agent: type and key, None for a fresh one, of whom is asked; None: the only type that
                answers such requests.
            timeout_s: from its acceptance, after which it is ended; None: never.
            on_error: what an error in a part of it means.
            idempotency_key: the same key finds the same run for 24 hours.

        Raises:
            UnknownRequestType: nobody answers such requests, or not who is asked.
            ConfigurationError: several agent types do.
            DeploymentStopped: not now.
            IdempotencyConflict: the key was used for another one.
        """
        run_id, now = new_id("run"), time_of_day()
        agent_type, key = self._whom(name, agent)
        place = self._dispatcher.place(agent_type, key, run_id, prompted=False)
        given: dict[str, Any] = run_input("", None, timeout_s=timeout_s)
        given |= {REQUEST: dict(asked), FRONT: {"api": TYPED, "type": name}}
        if on_error != OnError.FAIL:
            given["on_error"] = on_error
        whole = json.dumps([agent, given], sort_keys=True)
        new = NewRun(
            run_id,
            place.agent,
            place.pool,
            place.slot,
            given,
            run_id,
            now,
            owner="driver",
            idempotency_key=idempotency_key,
            digest=hashlib.sha256(whole.encode()).hexdigest(),
        )
        (admission,) = await self._store.admit([new])
        if admission.conflict:
            raise IdempotencyConflict(idempotency_key or "", admission.run.id)
        if admission.created:
            self._tasks.spawn(hand_over(self._dispatcher, new), name=f"begin {run_id}")
        return admission.run

    def _whom(self, name: str, agent: tuple[str, str | None] | None) -> tuple[str, str | None]:
        types = types_of_requests(self._dispatcher.agent_types().values())
        found = types.get(name)
        if found is None or (agent is not None and agent[0] not in found.agents):
            raise UnknownRequestType(name, tuple(sorted(types)))
        if agent is not None:
            return agent
        if len(found.agents) > 1:
            answering = " or ".join(sorted(found.agents))
            raise ConfigurationError(f"Several agent types answer {name!r}: ask {answering}.")
        return next(iter(found.agents)), None

    async def get(self, token: str) -> tuple[Run, JobStatus]:
        """Return a request's run, and it as a job.

        Raises:
            UnknownRun: there is none of this token.
        """
        found = await self._store.get_run(token) if "\0" not in token else None
        front: Mapping[str, Any] = {} if found is None else found.input.get(FRONT) or {}
        if found is None or front.get("api") != TYPED:
            raise UnknownRun(token)
        return found.run, await read_job(self._store, found)

    async def close(self) -> None:
        """Let go of what is under way: its hosts go on."""
        await self._tasks.close()
