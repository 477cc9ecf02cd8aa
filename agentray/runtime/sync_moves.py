"""What a driver without `await` asks of hosts and machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentray.ids import AgentId
from agentray.runtime.moves_client import WAIT_S
from agentray.runtime.sync_part import SyncPart


class SyncMoves(SyncPart):
    """A `MovesClient` whose methods block; see there for what each one does and raises."""

    def drain_host(self, host: str, *, timeout: float = WAIT_S) -> dict[str, Any]:
        """Let a host leave; a fresh one takes its place."""
        return self._wait(self._manager.drain_host(host, timeout=timeout))

    def scale_pool(
        self, name: str, hosts: int | None, *, timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """Let a pool have so many hosts, whatever its limits are, until something else is said."""
        return self._wait(self._manager.scale_pool(name, hosts, timeout=timeout))

    def move_slots(
        self, slots: Iterable[int], host: str, *, pool: str = "default", timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """Give slots of a pool to one of its hosts, for as long as that lives."""
        return self._wait(self._manager.move_slots(slots, host, pool=pool, timeout=timeout))

    def move_agent(
        self, agent: AgentId | str, host: str, *, timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """Give the slot of an agent to a host of its pool: see `move_slots`."""
        return self._wait(self._manager.move_agent(agent, host, timeout=timeout))

    def balance_pool(self, name: str) -> int:
        """Spread the slots of a pool evenly again; return how many had been moved by hand."""
        return self._wait(self._manager.balance_pool(name))

    def nodes(self) -> list[dict[str, Any]]:
        """Return the machines of the cluster."""
        return self._wait(self._manager.nodes())

    def drain_node(self, node: str, *, timeout: float = WAIT_S) -> dict[str, Any]:
        """Let all hosts of a machine leave; none is placed there until `undrain_node`."""
        return self._wait(self._manager.drain_node(node, timeout=timeout))

    def undrain_node(self, node: str) -> None:
        """Let hosts be placed on a machine again."""
        return self._wait(self._manager.undrain_node(node))
