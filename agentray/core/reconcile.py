"""Reconciliation: from how the cluster is to what must be done next.

Level-triggered: the decision depends on the present facts only, not on how they came about. Called
again and again while its commands are carried out, it comes to return nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agentray.core.placement import plan_slots


class HostStatus(StrEnum):
    """Where a host is in its life."""

    STARTING = "starting"  # its process is being made
    LIVE = "live"  # it can lease slots
    DRAINING = "draining"  # it gets no more slots and is being stopped
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class HostFact:
    """A host as it is."""

    id: str
    pool: str
    status: HostStatus
    generation: int  # of the code that it was started with


@dataclass(frozen=True, slots=True)
class PoolFact:
    """A pool as it is and as it shall be."""

    name: str
    wanted: int  # hosts
    generation: int  # of the code that its hosts shall run
    slots: tuple[str | None, ...]  # present holder of each slot


@dataclass(frozen=True, slots=True)
class StartHost:
    """Start a host for a pool."""

    pool: str


@dataclass(frozen=True, slots=True)
class StopHost:
    """Stop a host that holds no slots."""

    host: str


@dataclass(frozen=True, slots=True)
class MoveSlots:
    """Lease slots to other hosts.

    Attributes:
        pool: theirs.
        to: new host by slot.
        release: living hosts that must let go first, with the slots; the others are dead.
    """

    pool: str
    to: Mapping[int, str]
    release: Mapping[str, Sequence[int]]


Command = StartHost | StopHost | MoveSlots


def reconcile(pools: Sequence[PoolFact], hosts: Sequence[HostFact]) -> list[Command]:
    """Return what must be done next, in this order.

    A pool whose code is replaced keeps its old hosts until enough new ones are live; then the
    slots move over and the old hosts are stopped. A pool that is no longer declared is stopped.
    """
    commands: list[Command] = []
    for pool in pools:
        commands.extend(_reconcile_pool(pool, [host for host in hosts if host.pool == pool.name]))
    known = {pool.name for pool in pools}
    commands.extend(
        StopHost(host.id)
        for host in hosts
        if host.pool not in known and host.status is HostStatus.LIVE
    )
    return commands


def _reconcile_pool(pool: PoolFact, hosts: Sequence[HostFact]) -> list[Command]:
    current = [host for host in hosts if host.generation == pool.generation]
    live = [host.id for host in current if host.status is HostStatus.LIVE]
    coming = sum(host.status is HostStatus.STARTING for host in current)
    outdated = [
        host.id
        for host in hosts
        if host.generation != pool.generation and host.status is HostStatus.LIVE
    ]
    commands: list[Command] = [StartHost(pool.name)] * max(0, pool.wanted - len(live) - coming)
    enough = len(live) >= pool.wanted
    # Hosts beyond the wanted number leave, the last started first; those that hold least would
    # be better by a few slots, but then two decisions in a row could name different ones.
    leaving = [*(outdated if enough else []), *live[pool.wanted :]]
    leasing = [host for host in [*live, *outdated] if host not in leaving]
    moves = plan_slots(pool.slots, leasing)
    if moves:
        commands.append(MoveSlots(pool.name, moves, _releases(pool, moves, [*live, *outdated])))
    holders = set(pool.slots) if not moves else {*pool.slots, *moves.values()}
    commands.extend(StopHost(host) for host in leaving if host not in holders)
    return commands


def _releases(
    pool: PoolFact, moves: Mapping[int, str], alive: Sequence[str]
) -> dict[str, list[int]]:
    releases: dict[str, list[int]] = {}
    for slot in moves:
        holder = pool.slots[slot]
        if holder in alive and holder is not None:
            releases.setdefault(holder, []).append(slot)
    return releases
