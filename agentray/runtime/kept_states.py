"""What a driver does with kept states: read, replace, forget, export, import."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from agentray.errors import ConfigurationError, UnknownState
from agentray.ids import AgentId
from agentray.protocol.codec import as_json, encode
from agentray.protocol.envelope import Kind
from agentray.protocol.states import StateRecord
from agentray.runtime.channel import Channel
from agentray.runtime.state_changes import CHECK, DELETE, LOAD
from agentray.runtime.watcher import ManagerPort
from agentray.store.base import StateWrite

_CHECKED_AT_ONCE = 200
_CHECK_TIMEOUT_S = 60.0


class KeptStates:
    """The part of `ManagerClient` that is about states; its methods are documented there."""

    def __init__(self, manager: ManagerPort, channel: Channel) -> None:
        self._manager = manager
        self._channel = channel

    async def save(self, agent: AgentId) -> StateRecord:
        """See `ManagerClient.save_state`."""
        found: StateWrite | None = await self._manager.call("get_state", agent)
        if found is None:
            raise UnknownState(str(agent))
        return _record(found)

    async def load(
        self, agent: AgentId, data: StateRecord | Mapping[str, Any], timeout: float | None
    ) -> None:
        """See `ManagerClient.load_state`."""
        if isinstance(data, StateRecord):
            payload = (dict(data.state), data.schema_version)
        else:
            payload = (dict(data), None)
        packed = encode(payload, f"state of {agent}")
        await self._channel.request(Kind.STATE, agent, LOAD, packed, timeout=timeout)

    async def delete(self, agent: AgentId, timeout: float | None) -> None:
        """See `ManagerClient.delete_state`."""
        await self._channel.request(Kind.STATE, agent, DELETE, None, timeout=timeout)

    async def export(self, app: str, agent_type: str | None) -> AsyncGenerator[StateRecord, None]:
        """See `ManagerClient.export_state`."""
        types = self._types_of(app)
        if agent_type is not None and agent_type not in types:
            raise ConfigurationError(
                f"The app {app!r} has no agent type {agent_type!r}. Its types: {', '.join(types)}."
            )
        for name in types if agent_type is None else [agent_type]:
            after = ""
            while page := await self._manager.call("list_states", name, after):
                for found in page:
                    yield _record(found)
                after = page[-1].agent.key

    async def take_in(self, app: str, records: Iterable[StateRecord]) -> int:
        """See `ManagerClient.import_state`."""
        types = self._types_of(app)
        states: dict[AgentId, StateWrite] = {}
        for record in records:
            agent = record.agent
            if agent.type not in types:
                raise ConfigurationError(
                    f"{agent} is not of the app {app!r}, whose types are {', '.join(types)}."
                )
            if agent in states:
                raise ConfigurationError(f"{agent} is there twice.")
            plain = as_json(dict(record.state), f"state of {agent}")
            states[agent] = StateWrite(agent, plain, record.schema_version)
        await self._check(states.values())
        if states:
            await self._manager.call("import_states", list(states.values()))
        return len(states)

    async def _check(self, states: Iterable[StateWrite]) -> None:
        """Let hosts that have the agents' code look whether it can read their states.

        Raises:
            StateError: it cannot read one of them.
        """
        by_type: dict[str, list[StateWrite]] = {}
        for state in states:
            by_type.setdefault(state.agent.type, []).append(state)
        for of_type in by_type.values():
            for start in range(0, len(of_type), _CHECKED_AT_ONCE):
                some = of_type[start : start + _CHECKED_AT_ONCE]
                packed = encode(some, "states")
                # Any host of the type has its code; that of the first agent is one.
                await self._channel.request(
                    Kind.STATE, some[0].agent, CHECK, packed, timeout=_CHECK_TIMEOUT_S
                )

    def _types_of(self, app: str) -> list[str]:
        types = self._channel.snapshot.types.values()
        found = sorted(view.name for view in types if view.app == app)
        if not found:
            names = ", ".join(sorted({view.app for view in types})) or "none"
            raise ConfigurationError(f"There is no app {app!r}. Deployed: {names}.")
        return found


def _record(found: StateWrite) -> StateRecord:
    return StateRecord(found.agent, found.state, found.schema_version)
