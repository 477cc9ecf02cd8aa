"""What a driver does with a cluster: deploy apps, launch and find agents, prompt them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from agentray.agent import Agent
from agentray.app import App, load_app
from agentray.handle import DEFAULT_TIMEOUT_S, Handle
from agentray.ids import AgentId, check_key, check_type_name, new_id
from agentray.protocol.codec import encode, encode_arguments
from agentray.protocol.envelope import Kind
from agentray.protocol.runs import Run
from agentray.protocol.states import StateRecord
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.packing import pack_app
from agentray.runtime.state_client import StateClient
from agentray.runtime.watcher import ManagerPort
from agentray.store.base import NewRun

A = TypeVar("A", bound=Agent)


class ManagerClient:
    """A driver's connection to the manager and to all agents of a cluster."""

    def __init__(self, manager: ManagerPort, channel: Channel) -> None:
        """Made by `connect`.

        Args:
            manager: the manager.
            channel: whose snapshot is kept new by a watcher.
        """
        self._manager = manager
        self._channel = channel
        self._dispatcher = ChannelDispatcher(channel)
        self._states = StateClient(manager, channel)

    # Apps

    async def deploy(self, app: App | str) -> str:
        """Deploy an app, and return when its agents can be called.

        Args:
            app: the app, or its import string `module:attribute`. Deployed before with the same
                source code, nothing happens; with other code, its hosts are replaced one by one
                while the old ones go on.

        Returns:
            `added`, `replaced`, `started` (it was stopped) or `unchanged`.

        Raises:
            ConfigurationError: the app is wrong, clashes with another, or cannot be imported there.
            StartFailed: hosts with its code do not come up; what ran before goes on.
        """
        spec = pack_app(load_app(app), app) if isinstance(app, str) else pack_app(app)
        done, snapshot = await self._manager.call("deploy", spec)
        self._channel.update(snapshot)
        return done

    async def stop(self, app_name: str) -> None:
        """Stop an app: its agents take no messages from outside until it is deployed again.

        Raises:
            ConfigurationError: there is no app of this name.
        """
        self._channel.update(await self._manager.call("stop_app", app_name))

    # Agents

    def handle(self, agent: AgentId | type[A] | str, key: str | None = None) -> Handle[A]:
        """Return a handle to an agent; the agent starts with its first message.

        Args:
            agent: its id, or its class or type name together with `key`.
            key: its key.
        """
        if isinstance(agent, AgentId):
            return Handle(agent, self._channel)
        name = agent if isinstance(agent, str) else agent.agent_type.name
        if key is None:
            return Handle(AgentId.parse(name), self._channel)
        return Handle(AgentId(check_type_name(name), check_key(key)), self._channel)

    async def launch(
        self,
        agent: type[A],
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Handle[A]:
        """Start an agent with constructor arguments, and return when it has started.

        The arguments are kept: when the agent moves or comes back after having been idle, it is
        made with them again. A class that no deployed app has is deployed first, as an app of its
        own.

        Args:
            agent: its class.
            args: for its constructor.
            kwargs: for its constructor.
            name: its key; None: a new unique one.

        Raises:
            ConfigurationError: an agent of this name was launched with other arguments.
            AgentFailed: it could not be started.
        """
        agent_type = agent.agent_type
        if agent_type.name not in self._channel.snapshot.types:
            await self.deploy(App(agent_type.name, [agent]))
        target = AgentId(agent_type.name, check_key(name or new_id(agent_type.name)))
        arguments = encode_arguments(tuple(args), dict(kwargs or {}), agent.__name__)
        await self._channel.request(Kind.LAUNCH, target, "", arguments, timeout=120.0)
        return Handle(target, self._channel)

    async def agents(self, agent_type: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return agents that are in memory, those of one type or all, at most `limit`.

        Each with `agent`, `type`, `host`, `status` (starting, idle, running, failed), `queued`,
        `active_s`, `idle_s` and `last_error`.
        """
        return await self._manager.call("agents", agent_type, limit)

    async def status(self) -> dict[str, Any]:
        """Return apps, pools and hosts as the manager sees them."""
        return await self._manager.call("status")

    # State

    async def save_state(self, agent: AgentId | str) -> StateRecord:
        """Return what is kept of an agent: its state after the last handler that ended.

        Raises:
            UnknownState: nothing is kept of it.
        """
        return await self._states.save(_agent_id(agent))

    async def load_state(
        self,
        agent: AgentId | str,
        data: StateRecord | Mapping[str, Any],
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Replace the state of an agent; the next message that it handles sees the new one.

        What the agent does is finished first. It then leaves memory, and starts with its next
        message; messages that come meanwhile wait. A failed agent starts anew, too.

        Args:
            agent: its id, or `type/key`.
            data: the state; a record of an older version is migrated when the agent starts.
            timeout: seconds to wait for what the agent does; then nothing is changed.

        Raises:
            StateInvalid, StateTooNew, StateRefused: its code cannot read it; nothing was changed.
            ConfigurationError: its type keeps no state.
            DeadlineExceeded: it is busy for too long.
            HostDied: its host did; whether the state was replaced is unknown.
        """
        await self._states.load(_agent_id(agent), data, timeout)

    async def delete_state(
        self, agent: AgentId | str, *, timeout: float | None = DEFAULT_TIMEOUT_S
    ) -> None:
        """Forget the state of an agent, as `load_state` replaces it; it begins with a new one.

        Raises:
            ConfigurationError, DeadlineExceeded, HostDied: as for `load_state`.
        """
        await self._states.delete(_agent_id(agent), timeout)

    def export_state(
        self, app: str, agent_type: str | None = None
    ) -> AsyncGenerator[StateRecord, None]:
        """Go through the kept states of an app's agents, page by page.

        Each is as it was committed when its page was read; for one moment of the whole app, stop
        the app first.

        Args:
            app: name of a deployed app.
            agent_type: only of this type.

        Raises:
            ConfigurationError: there is no such app, or it has no such type.
        """
        return self._states.export(app, agent_type)

    async def import_state(self, app: str, records: Iterable[StateRecord]) -> int:
        """Keep the states of many agents, all of them or none; earlier ones are replaced.

        All are checked before anything is written. Agents in memory leave it, and start with their
        new state; a handler that is under way is repeated when it had changed the state.
        States of other agents stay. A state that the code cannot read fails its agent when that
        starts.

        Args:
            app: name of the deployed app that the agents belong to.
            records: as `export_state` gives them; held in memory at once.

        Returns:
            How many.

        Raises:
            ConfigurationError: there is no such app, an agent is not one of its, or is there twice.
            PayloadError: a state is not JSON.
        """
        return await self._states.take_in(app, records)

    # Runs

    async def prompt(
        self,
        text: str,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Give an agent a prompt and return the run when it has ended.

        The run is accepted before it begins: when this call is cancelled or the driver ends, the
        run goes on.

        Args:
            text: the prompt.
            agent: a type, a `type/key`, or None for the entry of the deployed app. Without a key,
                an instance of its own takes the run.
            timeout: seconds to wait for the end; None: as long as it takes.
            idempotency_key: the same key and text find the same run again, for 24 hours.

        Raises:
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take it.
            IdempotencyConflict: the key was used with another text.
            DeadlineExceeded: it has not ended yet; it goes on.
        """
        run_id = new_id("run")
        type_name, key = _prompt_target(agent)
        place = self._dispatcher.place(type_name, key, run_id)
        new = NewRun(
            run_id,
            place.agent,
            place.pool,
            place.slot,
            {"prompt": text},
            run_id,
            datetime.now(UTC),
            owner="driver",
            idempotency_key=idempotency_key,
            digest=hashlib.sha256(f"{type_name}/{key}:{text}".encode()).hexdigest(),
        )
        ended = await self._channel.request(
            Kind.ADMIT, place.agent, "", encode(new), timeout=timeout
        )
        return Run.model_validate_json(ended)


def _agent_id(agent: AgentId | str) -> AgentId:
    return agent if isinstance(agent, AgentId) else AgentId.parse(agent)


def _prompt_target(agent: AgentId | type[Agent] | str | None) -> tuple[str | None, str | None]:
    match agent:
        case None:
            return None, None
        case AgentId(type_name, key):
            return type_name, key
        case str() if "/" in agent:
            return AgentId.parse(agent)
        case str():
            return agent, None
        case _:
            return agent.agent_type.name, None
