"""The placement snapshot: all that a sender needs to reach any agent without asking anyone.

The manager makes it, numbers it and pushes it; everybody else only reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentray.ids import SLOTS, AgentId, slot_of


@dataclass(frozen=True, slots=True)
class Subscription:
    """Events of this type go to agents of that type.

    Attributes:
        event_type: registered name of the event's class.
        agent_type: who handles it.
        key: how the instance is chosen: `correlation`, `field:NAME`, `any:N` or `key:KEY`.
    """

    event_type: str
    agent_type: str
    key: str = "correlation"


@dataclass(frozen=True, slots=True)
class TypeView:
    """What others need to know of an agent type."""

    name: str
    app: str
    pool: str
    prompts: bool  # it handles Prompt events
    idempotent: frozenset[str] = frozenset()  # actions that may be sent again after a host's death
    stopped: bool = False  # its app is stopped
    streams: frozenset[str] = frozenset()  # actions that yield
    actions: frozenset[str] = frozenset()  # all that can be called


@dataclass(frozen=True, slots=True)
class HostRef:
    """How to reach a host."""

    id: str
    actor_name: str


@dataclass(frozen=True, slots=True)
class PoolView:
    """Who leases the slots of a pool: per slot the host's id, None when nobody does."""

    name: str
    slots: tuple[str | None, ...] = (None,) * SLOTS


@dataclass(frozen=True)
class Snapshot:
    """The state of the cluster as senders see it. A higher version is newer."""

    version: int = 0
    types: Mapping[str, TypeView] = field(default_factory=dict[str, TypeView])
    pools: Mapping[str, PoolView] = field(default_factory=dict[str, PoolView])
    hosts: Mapping[str, HostRef] = field(default_factory=dict[str, HostRef])
    subscriptions: Mapping[str, tuple[Subscription, ...]] = field(
        default_factory=dict[str, tuple[Subscription, ...]]
    )
    entries: tuple[str, ...] = ()  # agent types that take prompts addressed to no type, by app

    def host_of(self, agent: AgentId) -> HostRef | None:
        """Return the host that leases an agent's slot, None when nobody does.

        Raises:
            KeyError: the agent type is unknown in this version.
        """
        pool = self.pools.get(self.types[agent.type].pool)
        host = pool.slots[slot_of(agent)] if pool else None
        return self.hosts.get(host) if host else None
