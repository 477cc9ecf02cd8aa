"""What a driver does with kept states, as `ManagerClient` offers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from agentray.handle import DEFAULT_TIMEOUT_S
from agentray.ids import AgentId
from agentray.protocol.states import StateRecord
from agentray.runtime.kept_states import KeptStates


class StateClient:
    """Kept states: a part of `ManagerClient`."""

    _states: KeptStates

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
        States of other agents stay.

        Args:
            app: name of the deployed app that the agents belong to.
            records: as `export_state` gives them; held in memory at once.

        Returns:
            How many.

        Raises:
            ConfigurationError: there is no such app, an agent is not one of its, or is there twice.
            PayloadError: a state is not JSON.
            StateError: the code that is deployed cannot read a state, or it is too large.
            PoolPending: no host runs that can tell.
        """
        return await self._states.take_in(app, records)


def _agent_id(agent: AgentId | str) -> AgentId:
    return agent if isinstance(agent, AgentId) else AgentId.parse(agent)
