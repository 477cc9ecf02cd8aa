"""Seats: the places of isolated agents, each of which has a host of its own.

A pool with `isolation="actor"` has no hosts by itself. For each of its agents that has something to
do, one of its seats is taken; a seat is a pool of one host, so all that is true of pools holds for
it: its lease, its fencing, its restart. Seats are numbered and used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from agentray.errors import Overloaded
from agentray.ids import AgentId
from agentray.protocol.deployment import PoolSpec

IDLE_S = 5.0
"""How long a seat's host must have had no agent in memory before it is stopped."""

_MARK = "#"  # in no name of a pool


def pool_of(name: str) -> str:
    """Return the pool to which a seat belongs; a pool belongs to itself."""
    return name.partition(_MARK)[0]


def is_seat(name: str) -> bool:
    """Whether a pool is a seat of another one."""
    return _MARK in name


class Seats:
    """Who has which seat; kept by the manager, and found again at its hosts after a restart."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentId] = {}
        self._quiet_since: dict[str, float] = {}

    def by_agent(self) -> dict[AgentId, str]:
        """Return the seats by the agents who have them."""
        return {agent: seat for seat, agent in self._agents.items()}

    def of(self, pool: str) -> list[str]:
        """Return the taken seats of a pool."""
        return [seat for seat in self._agents if pool_of(seat) == pool]

    def take(self, agent: AgentId, spec: PoolSpec, in_use: AbstractSet[str]) -> None:
        """Give an agent a seat, unless it has one.

        Args:
            agent: that has something to do.
            spec: of its pool.
            in_use: pools and seats that still have a host, perhaps of the seat's last agent.

        Raises:
            Overloaded: all seats are taken.
        """
        if agent in self._agents.values():
            return
        for number in range(spec.most):
            seat = f"{spec.name}{_MARK}{number}"
            if seat not in self._agents and seat not in in_use:
                self._agents[seat] = agent
                return
        raise Overloaded(f"The pool {spec.name!r}, with a host for each of {spec.most} agents,")

    def found(self, seat: str, agent: AgentId) -> None:
        """Note a seat that a host of an earlier manager has."""
        self._agents[seat] = agent

    def quiet(self, seat: str, now: float, *, empty: bool) -> bool:
        """Note whether a seat's host is empty; True when it has been for long enough."""
        if not empty:
            self._quiet_since.pop(seat, None)
            return False
        return now - self._quiet_since.setdefault(seat, now) >= IDLE_S

    def free(self, seat: str) -> None:
        """Take a seat back."""
        self._agents.pop(seat, None)
        self._quiet_since.pop(seat, None)

    def specs(self, pools: Mapping[str, PoolSpec]) -> dict[str, PoolSpec]:
        """Return the taken seats of these pools as pools of one host."""
        return {
            seat: replace(
                pools[pool_of(seat)], name=seat, hosts=1, max_hosts=None, isolation="shared"
            )
            for seat in self._agents
            if pool_of(seat) in pools
        }
