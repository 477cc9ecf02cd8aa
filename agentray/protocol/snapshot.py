"""The placement snapshot: all that a sender needs to reach any agent without asking anyone.

The manager makes it, numbers it and pushes it; everybody else only reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentray.errors import PoolPending
from agentray.ids import SLOTS, AgentId, slot_of
from agentray.protocol.requests import RequestView

CALLABLE = "callable"
"""The `key` of a subscription whose instances a function of the user's chooses."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """Events of this type go to agents of that type.

    Attributes:
        event_type: registered name of the event's class.
        agent_type: who handles it.
        key: how the instance is chosen: `correlation`, `topic`, `field:NAME`, `any:N`, `key:KEY`,
            or `callable`.
        topic: only events on topics of this type, or that begin so where it ends with `*`; None:
            whatever their topic, also without one.
        subclasses: also events of subclasses of this type.
        own: also events that the agent published itself.
        where: pickled: only events for which this function says so.
        key_function: pickled: returns the instance's key, for `callable`.
        id: of one that was made at run time; "": it stands in the agent's class.
    """

    event_type: str
    agent_type: str
    key: str = "correlation"
    topic: str | None = None
    subclasses: bool = False
    own: bool = False
    where: bytes | None = None
    key_function: bytes | None = None
    id: str = ""


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
    isolated: bool = False  # each of its agents has a host of its own, see `Snapshot.seats`
    digest: str = ""  # of the source of its class; "": unknown
    accepts: frozenset[str] = frozenset()  # what its prompts may bring beside text
    requests: tuple[RequestView, ...] = ()  # that it answers beside prompts
    since: float = 0.0  # when its app was deployed, in seconds since 1970


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
    pending: str = ""  # why it has no host at all; "": it has one, or will have one soon


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
    # Of isolated agents that have something to do, the pool of one host that each has.
    seats: Mapping[AgentId, str] = field(default_factory=dict[AgentId, str])
    # The built-in types of the roots of event runs, one for each pool.
    roots: Mapping[str, TypeView] = field(default_factory=dict[str, TypeView])
    # Agents that have killed too many hosts, and why they take no messages.
    quarantined: Mapping[AgentId, str] = field(default_factory=dict[AgentId, str])
    # Agents that may have killed a host, and whether a host runs them one at a time.
    suspects: Mapping[AgentId, bool] = field(default_factory=dict[AgentId, bool])
    # Hosts that died of late, and why.
    deaths: Mapping[str, str] = field(default_factory=dict[str, str])

    def view(self, type_name: str) -> TypeView | None:
        """Return what is known of an agent type, or of a type of roots."""
        return self.types.get(type_name) or self.roots.get(type_name)

    def pool_of(self, agent: AgentId) -> str | None:
        """Return the pool in which an agent lives; None: an isolated one that lives nowhere now.

        Raises:
            KeyError: the agent type is unknown in this version.
        """
        view = self.types.get(agent.type) or self.roots[agent.type]
        return self.seats.get(agent) if view.isolated else view.pool

    def host_of(self, agent: AgentId) -> HostRef | None:
        """Return the host that leases an agent's slot, None when nobody does.

        Raises:
            KeyError: the agent type is unknown in this version.
        """
        pool = self.pools.get(self.pool_of(agent) or "")
        host = pool.slots[slot_of(agent)] if pool else None
        return self.hosts.get(host) if host else None

    def pending(self, agent: AgentId) -> PoolPending | None:
        """Return the error of an agent whose pool waits for room; None: it does not."""
        pool = self.pools.get(self.pool_of(agent) or "")
        return PoolPending(str(agent), pool.name, pool.pending) if pool and pool.pending else None
