"""Typed requests as a driver has them: `manager.requests`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentray.agent import Agent
from agentray.core.lifecycle import is_settled
from agentray.errors import ConfigurationError, DeadlineExceeded
from agentray.event_run import OnErrorName, settle_run
from agentray.events import Prompt, Request
from agentray.ids import AgentId
from agentray.protocol.async_jobs import JobStatus, JobType
from agentray.protocol.event_runs import OnError
from agentray.protocol.runs import Run
from agentray.runtime.channel import Channel
from agentray.runtime.dispatching import check_timeout
from agentray.runtime.typed_jobs import job_types, types_of_requests
from agentray.runtime.watcher import ManagerPort


class RequestClient:
    """Starts typed requests, and looks after their jobs; each is a run, whose id is its token."""

    def __init__(
        self,
        manager: ManagerPort,
        channel: Channel,
        target_of: Callable[[AgentId | type[Agent] | str | None], tuple[str | None, str | None]],
    ) -> None:
        """Made by the manager's client.

        Args:
            manager: starts them.
            channel: the way to the hosts that work on them.
            target_of: returns the type and key of whom is asked.
        """
        self._manager = manager
        self._channel = channel
        self._target_of = target_of

    def types(self) -> list[JobType]:
        """Return the types of requests that agents answer now, with their schemas."""
        return job_types(types_of_requests(self._channel.snapshot.types.values()))

    async def start(
        self,
        asked: Request,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        run_timeout_s: float | None = None,
        on_error: OnErrorName = "fail",
        idempotency_key: str | None = None,
    ) -> str:
        """Start the job of a request, and return its token: it is kept, and ends exactly once.

        Args:
            asked: the request.
            agent: who is asked: an agent type, of which a fresh instance answers, or a `type/key`;
                None: the only agent type that answers such requests.
            run_timeout_s: seconds from its acceptance after which it is ended; None: never.
            on_error: `fail`: an error in a part of it fails it. `collect`: it completes, and tells
                them as `failures`.
            idempotency_key: the same key finds the same job for 24 hours.

        Raises:
            UnknownRequestType: nobody answers such requests, or not who is asked.
            ConfigurationError: several agent types do, an option is wrong, or it is a prompt.
            DeploymentStopped: not now.
            IdempotencyConflict: the key was used for another one.
        """
        return (await self._start(asked, agent, run_timeout_s, on_error, idempotency_key)).id

    async def send(
        self,
        asked: Request,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        timeout: float | None = None,
        run_timeout_s: float | None = None,
        on_error: OnErrorName = "fail",
        idempotency_key: str | None = None,
    ) -> JobStatus:
        """Start the job of a request, and return it when it has ended, or waits for an answer.

        Args:
            asked: the request.
            agent: see `start`.
            timeout: seconds to wait; None: as long as it takes. It goes on after that.
            run_timeout_s: see `start`.
            on_error: see `start`.
            idempotency_key: see `start`.

        Raises:
            DeadlineExceeded: it has not ended yet.
            AgentrayError: it was not started; see `start`.
        """
        run = await self._start(asked, agent, run_timeout_s, on_error, idempotency_key)
        if not await self._settled(run, timeout):
            raise DeadlineExceeded(f"The job {run.id}", timeout)
        return await self.get(run.id)

    async def get(self, token: str, *, wait_s: float = 0.0) -> JobStatus:
        """Return a job as it is: when it has ended, or after `wait_s`.

        Raises:
            UnknownRun: there is none of this token.
        """
        run, job = await self._manager.call("requests", "get", token)
        if wait_s <= 0 or is_settled(run):
            return job
        await self._settled(run, wait_s)
        return (await self._manager.call("requests", "get", token))[1]

    async def cancel(self, token: str) -> JobStatus:
        """End a job, and return it when it has ended; one that has ended is returned as it is.

        Raises:
            UnknownRun: there is none of this token.
        """
        await self.get(token)
        await self._manager.call("cancel_run", token)
        return await self.get(token)

    async def _start(
        self,
        asked: Request,
        agent: AgentId | type[Agent] | str | None,
        run_timeout_s: float | None,
        on_error: OnErrorName,
        idempotency_key: str | None,
    ) -> Run:
        if isinstance(asked, Prompt):
            raise ConfigurationError("A prompt is given with manager.prompt(TEXT).")
        if on_error not in set(OnError):
            raise ConfigurationError(f"on_error={on_error!r}: write fail or collect.")
        check_timeout("run_timeout_s", run_timeout_s)
        fields: dict[str, Any] = asked.model_dump(mode="json", exclude=set(Request.model_fields))
        told = {"event_type": asked.event_type, **fields}
        agent_type, key = self._target_of(agent)
        whom = None if agent_type is None else (agent_type, key)
        name = asked.request_type
        return await self._manager.call(
            "requests", "start", name, told, whom, run_timeout_s, on_error, idempotency_key
        )

    async def _settled(self, run: Run, timeout: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await settle_run(self._channel, run)
        except TimeoutError:
            return False
        return True
