"""Activation: bringing an agent into memory, once, whatever it takes.

Most agents need nothing but their constructor and are there at once. Those with a state, with kept
constructor arguments or with an `on_start` take a task; messages wait for them meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentray import context as contexts
from agentray.agent import Agent
from agentray.context import Context
from agentray.core.supervision import Backoff
from agentray.errors import ConfigurationError, StateError, StoreUnavailable
from agentray.ids import AgentId
from agentray.protocol.codec import decode, text_of
from agentray.runtime.group_commit import GroupCommit
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.tasks import being_cancelled
from agentray.store.base import LaunchedAgent, StateWrite

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_MAX_LOADS = 512
_STORE_RETRY_S = 0.5


class Activator:
    """Starts the agents of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host

        async def load_states(batch: Sequence[AgentId]) -> Sequence[StateWrite | None]:
            states = await host.store.load_states(batch)
            return [states.get(agent) for agent in batch]

        async def load_launched(batch: Sequence[AgentId]) -> Sequence[LaunchedAgent | None]:
            launched = await host.store.load_launched(batch)
            return [launched.get(agent) for agent in batch]

        # Agents that start together are looked up together.
        self._states = GroupCommit(load_states, max_batch=_MAX_LOADS, name="state loads")
        self._launched = GroupCommit(load_launched, max_batch=_MAX_LOADS, name="argument loads")

    def start(self, agent: Incarnation) -> None:
        """Start an agent; it takes messages when it is ready, and refuses them when that fails."""
        kind = agent.type
        needs_task = (
            kind.takes_arguments or kind.keeps_state or kind.cls.on_start is not Agent.on_start
        )
        if needs_task:
            self._host.tasks.spawn(self._start(agent), name=f"start {agent.id}")
            return
        try:
            agent.begin(kind.cls(), None)
        except BaseException as error:  # noqa: BLE001 - user code
            self._host.tasks.spawn(self._retry(agent, error), name=f"start {agent.id}")
        else:
            agent.ready()

    async def _start(self, agent: Incarnation) -> None:
        try:
            await self._begin(agent)
        except BaseException as error:
            if being_cancelled():
                raise
            await self._retry(agent, error)
        else:
            agent.ready()

    async def restart(self, agent: Incarnation, error: BaseException, backoff: Backoff) -> None:
        """Start an agent anew after an error of its own loops or timers, or give it up."""
        if isinstance(error, StoreUnavailable):
            wait_s: float | None = _STORE_RETRY_S
        else:
            wait_s = backoff.failed(self._host.now(), random.random())  # noqa: S311 - jitter
        if wait_s is None:
            agent.fail(f"{type(error).__name__}: {text_of(error)}")
            return
        agent.stats.restarts += 1
        await asyncio.sleep(wait_s)
        await self._start(agent)

    async def _retry(self, agent: Incarnation, error: BaseException) -> None:
        """Try again as the restart policy allows, then give up."""
        policy = agent.type.options.restart
        backoff = Backoff(
            policy.max_restarts, policy.period_s, policy.backoff_s, policy.max_backoff_s
        )
        while True:
            self._log(agent, error)
            if isinstance(error, StoreUnavailable):
                wait_s: float | None = _STORE_RETRY_S  # not the agent's fault
            elif isinstance(error, ConfigurationError | StateError):
                wait_s = None  # no attempt will go better
            else:
                wait_s = backoff.failed(self._host.now(), random.random())  # noqa: S311 - jitter
            if wait_s is None:
                agent.fail(f"{type(error).__name__}: {text_of(error)}")
                return
            await asyncio.sleep(wait_s)
            try:
                await self._begin(agent)
            except BaseException as again:
                if being_cancelled():
                    raise
                error = again
            else:
                agent.ready()
                return

    async def _begin(self, agent: Incarnation) -> None:
        instance = await self._construct(agent)
        state = None
        if agent.type.keeps_state:
            state = await self._states.submit(agent.id)
        agent.begin(instance, state)
        token = contexts.current.set(Context(agent.id, self._host))
        try:
            await instance.on_start()
            agent.begun()
        finally:
            contexts.current.reset(token)

    async def _construct(self, agent: Incarnation) -> Agent:
        if not agent.type.takes_arguments:
            return agent.type.cls()
        launched = await self._launched.submit(agent.id)
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if launched is not None:
            args, kwargs = decode(launched.arguments)
        try:
            return agent.type.cls(*args, **kwargs)
        except TypeError as error:
            if launched is not None:
                raise
            raise ConfigurationError(
                f"{agent.id} was never launched, and {error}. Launch it with its arguments first."
            ) from error

    def _log(self, agent: Incarnation, error: BaseException) -> None:
        logger.warning(
            "%s could not be started: %s: %s",
            agent.id,
            type(error).__name__,
            text_of(error),
            extra={"action": "start_failed", "agent": str(agent.id)},
        )
