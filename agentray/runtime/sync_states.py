"""What a driver without `await` does with kept states."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

from agentray.blocking import read
from agentray.handle import DEFAULT_TIMEOUT_S
from agentray.ids import AgentId
from agentray.protocol.states import StateRecord
from agentray.runtime.sync_part import SyncPart


class SyncStates(SyncPart):
    """A `StateClient` whose methods block; see there for what each one does and raises."""

    def save_state(self, agent: AgentId | str) -> StateRecord:
        """Return what is kept of an agent: its state after the last handler that ended."""
        return self._wait(self._manager.save_state(agent))

    def load_state(
        self,
        agent: AgentId | str,
        data: StateRecord | Mapping[str, Any],
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Replace the state of an agent; the next message that it handles sees the new one."""
        self._wait(self._manager.load_state(agent, data, timeout=timeout))

    def delete_state(
        self, agent: AgentId | str, *, timeout: float | None = DEFAULT_TIMEOUT_S
    ) -> None:
        """Forget the state of an agent, as `load_state` replaces it; it begins with a new one."""
        self._wait(self._manager.delete_state(agent, timeout=timeout))

    def export_state(
        self, app: str, agent_type: str | None = None
    ) -> Generator[StateRecord, None, None]:
        """Go through the kept states of an app's agents, page by page."""
        return read(self._manager.export_state(app, agent_type), self._loop)

    def import_state(self, app: str, records: Iterable[StateRecord]) -> int:
        """Keep the states of many agents, all of them or none; earlier ones are replaced."""
        # Read here: what gives them, such as `export_state` of another manager, may block.
        return self._wait(self._manager.import_state(app, list(records)))
