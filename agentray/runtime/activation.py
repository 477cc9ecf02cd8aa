"""Activation: bringing an agent into memory, once, whatever it takes.

Most agents need nothing but their constructor and are there at once. Those with a state, with kept
constructor arguments or with an `on_start` take a task; messages wait for them meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from agentray import context as contexts
from agentray.agent import Agent, RestartPolicy
from agentray.core.supervision import Backoff
from agentray.errors import (
    AgentQuarantined,
    ConfigurationError,
    Fenced,
    StartCycle,
    StateError,
    StoreUnavailable,
)
from agentray.ids import AgentId
from agentray.protocol.codec import decode, text_of
from agentray.runtime.flight_record import START, mark_of
from agentray.runtime.group_commit import GroupCommit
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.permanents import is_permanent
from agentray.runtime.start_chains import StartChains
from agentray.runtime.tasks import being_cancelled
from agentray.store.base import LaunchedAgent, StateWrite

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_MAX_LOADS = 512
_STORE_RETRY_S = 0.5

_AGAIN_S = 1.0
"""How often a start that will not be cancelled is cancelled again."""


class Activator:
    """Starts the agents of a host."""

    def __init__(self, host: Host, chains: StartChains) -> None:
        self._host = host
        self._chains = chains

        async def load_states(batch: Sequence[AgentId]) -> Sequence[StateWrite | None]:
            states = await host.store.load_states(batch)
            return [states.get(agent) for agent in batch]

        # Agents that start together are looked up together.
        self._states = GroupCommit(load_states, max_batch=_MAX_LOADS, name="state loads")
        self._starts: dict[Incarnation, asyncio.Task[None]] = {}

    def start(self, agent: Incarnation) -> None:
        """Start an agent; it takes messages when it is ready, and refuses them when that fails."""
        kind = agent.type
        quarantined = self._host.channel.snapshot.quarantined
        if agent.id in quarantined:
            agent.refuse(AgentQuarantined(str(agent.id), quarantined[agent.id]))
            return
        needs_task = (
            kind.takes_arguments
            or kind.factory is not None
            or kind.keeps_state
            or kind.cls.on_start is not Agent.on_start
            or is_permanent(kind.options)
            or not self._host.launching.is_plain(kind.name)
            or not self._host.failures.is_plain(kind.name)
        )
        if needs_task:
            self._spawn(agent, self._start(agent))
            return
        try:
            before = self._host.turns.record.begin_within(agent.mark)
            try:
                instance = kind.cls()
            finally:
                self._host.turns.record.begin(before)
            agent.begin(instance, None)
        except BaseException as error:  # noqa: BLE001 - user code
            self._spawn(agent, self._retry(agent, error))
        else:
            agent.ready()

    def _spawn(self, agent: Incarnation, work: Coroutine[Any, Any, None]) -> None:
        task = self._host.tasks.spawn(work, name=f"start {agent.id}")
        self._starts[agent] = task
        task.add_done_callback(lambda _: self._starts.pop(agent, None))

    def cancel(self, agent: Incarnation) -> None:
        """Give up a start that is under way."""
        task = self._starts.get(agent)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def until_started(self, agent: Incarnation, patience_s: float) -> None:
        """Wait until a start that is under way has ended, at most for so long."""
        if (task := self._starts.get(agent)) is not None:
            await asyncio.wait((task,), timeout=patience_s)

    async def abort(self, agent: Incarnation) -> None:
        """Give up a start that is under way, and return when it has ended."""
        task = self._starts.get(agent)
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=_AGAIN_S)
        if task is not None and task.cancelled():
            agent.abort()

    async def _start(self, agent: Incarnation) -> None:
        try:
            await self._begin(agent)
        except BaseException as error:
            if being_cancelled():
                raise
            await self._retry(agent, error)

    async def restart(self, agent: Incarnation, error: BaseException, backoff: Backoff) -> None:
        """Start an agent anew after an error of its own loops or timers, or give it up."""
        if isinstance(error, StoreUnavailable):
            wait_s: float | None = _STORE_RETRY_S
        else:
            wait_s = backoff.failed(self._host.now(), random.random())  # noqa: S311 - jitter
        if wait_s is None:
            await self._give_up(agent, error)
            return
        agent.stats.restarts += 1
        if self._host.meters is not None:
            self._host.meters[agent.id.type].restarts += 1
        self._spawn(agent, self._start_after(agent, wait_s))

    async def _start_after(self, agent: Incarnation, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self._start(agent)

    async def _retry(self, agent: Incarnation, error: BaseException) -> None:
        """Try again as the restart policy allows, then give up."""
        backoff: Backoff | None = None
        while True:
            if isinstance(error, Fenced) and not self._host.leases(agent.id):
                self._host.residents.let_go(agent)  # its next host starts it
                return
            self._log(agent, error)
            # Its own policy, once its record is known.
            backoff = backoff or backoff_of(agent.type.options.restart)
            if isinstance(error, StoreUnavailable):
                wait_s: float | None = _STORE_RETRY_S  # not the agent's fault
            elif isinstance(error, ConfigurationError | StateError | StartCycle):
                wait_s = None  # no attempt will go better
            else:
                wait_s = backoff.failed(self._host.now(), random.random())  # noqa: S311 - jitter
            if wait_s is None:
                await self._give_up(agent, error)
                return
            await asyncio.sleep(wait_s)
            try:
                await self._begin(agent)
            except BaseException as again:
                if being_cancelled():
                    raise
                error = again
            else:
                return

    async def _give_up(self, agent: Incarnation, error: BaseException) -> None:
        """Let an agent be failed, until it is reset."""
        reason = f"{type(error).__name__}: {text_of(error)}"
        try:
            await self._host.failures.keep(agent.id, error)
        except Exception as lost:  # noqa: BLE001 - whatever it is, the agent has failed
            # It is failed in memory; its next activation finds out anew.
            extra = {"action": "failure_not_recorded", "agent": str(agent.id)}
            logger.warning("%s: failure not recorded: %s", agent.id, lost, extra=extra)
        await self._host.launching.failed(agent.id, reason)
        agent.fail(reason)

    async def _begin(self, agent: Incarnation) -> None:
        launched = await self._host.launching.record_of(agent.id)
        if launched is not None and not self._host.launching.prepare(agent, launched):
            return
        if (failure := await self._host.failures.of(agent.id)) is not None:
            agent.fail(failure.error)
            return
        await self._host.permanents.note(agent.id, agent.type.options)
        with self._host.turns.record.under_way(mark_of(agent.id, START)):
            await self._begin_with(agent, launched)

    async def _begin_with(self, agent: Incarnation, launched: LaunchedAgent | None) -> None:
        instance = await self._construct(agent, launched)
        state = None
        if agent.type.keeps_state:
            state = await self._states.submit(agent.id) or _state_of(instance, agent)
        agent.begin(instance, state)
        token = contexts.current.set(self._chains.enter(agent))
        try:
            await instance.on_start()
            agent.begun()
        finally:
            self._chains.leave(agent)
            contexts.current.reset(token)
        agent.ready()
        if agent.id in self._host.turns.suspects:
            self._host.turns.proved.add(agent.id)

    async def _construct(self, agent: Incarnation, launched: LaunchedAgent | None) -> Agent:
        kind = agent.type
        given: Any = ((), {}) if launched is None else decode(launched.arguments)
        if isinstance(given, Agent):
            return _checked(given, agent)
        args, kwargs = given
        if kind.factory is not None:
            made: Any = kind.factory(agent.id, *args, **kwargs)
            return _checked(await made if inspect.isawaitable(made) else made, agent)
        try:
            return kind.cls(*args, **kwargs)
        except TypeError as error:
            if launched is not None or not kind.takes_arguments:
                raise
            raise ConfigurationError(
                f"{agent.id} was never launched, and {error}. Launch it with its arguments first."
            ) from error

    def _log(self, agent: Incarnation, error: BaseException) -> None:
        if self._host.meters is not None:
            self._host.meters[agent.id.type].start_failures += 1
        logger.warning(
            "%s could not be started: %s: %s",
            agent.id,
            type(error).__name__,
            text_of(error),
            extra={"action": "start_failed", "agent": str(agent.id)},
        )


def backoff_of(policy: RestartPolicy) -> Backoff:
    """Return what counts an agent's restarts."""
    most = 0 if policy.restart == "temporary" else policy.max_restarts
    return Backoff(most, policy.period_s, policy.backoff_s, policy.max_backoff_s)


def _checked(made: Any, agent: Incarnation) -> Agent:
    """Return what a factory made, or what was carried over, when it is what it should be."""
    if type(made).__qualname__ == agent.type.cls.__qualname__ and isinstance(made, Agent):
        return made
    if isinstance(made, agent.type.cls):
        return made
    raise ConfigurationError(
        f"The factory of {agent.type.name} must return {agent.type.cls.__name__}, not "
        f"{type(made).__name__}."
    )


def _state_of(instance: Agent, agent: Incarnation) -> StateWrite | None:
    """Return the state that an instance brings with it, until the Store has one."""
    state = vars(instance).get("state")
    if state is None:
        return None
    return StateWrite(agent.id, state.model_dump(mode="json"), agent.type.state_version)
