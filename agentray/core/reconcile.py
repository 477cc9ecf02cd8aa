"""Reconciliation: from how the cluster is to what must be done next.

Level-triggered: the decision depends on the present facts only, not on how they came about. Called
again and again while its commands are carried out, it comes to return nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from agentray.core.placement import plan_slots


class HostStatus(StrEnum):
    """Where a host is in its life."""

    STARTING = "starting"  # its process is being made
    PENDING = "pending"  # its process cannot be made before there is room for it
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
    feasible: bool = True  # pending: some machine is large enough, once others have left it
    leaves: bool = False  # somebody wants it gone, or its machine


@dataclass(frozen=True, slots=True)
class PoolFact:
    """A pool as it is and as it shall be."""

    name: str
    wanted: int  # hosts
    generation: int  # of the code that its hosts shall run
    slots: tuple[str | None, ...]  # present holder of each slot
    pinned: Mapping[int, str] = field(default_factory=dict[int, str])  # holders chosen by hand
    trial: int | None = None  # most slots that hosts with new code may have; None: all of them


@dataclass(frozen=True, slots=True)
class StartHost:
    """Start a host for a pool."""

    pool: str


@dataclass(frozen=True, slots=True)
class StopHost:
    """Stop a host.

    It holds no slots, unless its successor waits for its room and there is nobody else to take
    them: then they are leased anew when the successor lives.
    """

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
    slots move over and the old hosts are stopped. Where there is no room for both, the old ones
    make room one by one. A host that somebody wants gone is replaced in the same way; it does not
    wait for a successor without room where others can take its slots. A pool that is no longer
    declared is stopped.
    """
    commands: list[Command] = []
    for pool in pools:
        commands.extend(_reconcile_pool(pool, [host for host in hosts if host.pool == pool.name]))
    known = {pool.name for pool in pools}
    commands.extend(
        StopHost(host.id)
        for host in hosts
        if host.pool not in known and host.status in (HostStatus.LIVE, HostStatus.PENDING)
    )
    return commands


def _reconcile_pool(pool: PoolFact, hosts: Sequence[HostFact]) -> list[Command]:
    current = [h for h in hosts if h.generation == pool.generation and not h.leaves]
    live = [host.id for host in current if host.status is HostStatus.LIVE]
    pending = [host for host in current if host.status is HostStatus.PENDING]
    coming = len(pending) + sum(host.status is HostStatus.STARTING for host in current)
    told = [h.id for h in hosts if h.leaves and h.status is HostStatus.LIVE]
    outdated = told + [
        h.id
        for h in hosts
        if h.generation != pool.generation and not h.leaves and h.status is HostStatus.LIVE
    ]
    missing = pool.wanted - len(live) - coming
    commands: list[Command] = [StartHost(pool.name)] * max(0, missing)
    commands.extend(StopHost(host) for host in _needless(pool, hosts, pending, -missing))
    enough = len(live) >= pool.wanted
    if pool.trial is not None and outdated and not pending:
        tried = _try_out(pool, live, outdated) if enough and live else _wait(pool, live, outdated)
        return [*commands, *tried]
    room_for = sum(host.feasible for host in pending)
    room_for -= sum(host.status is HostStatus.DRAINING for host in hosts)  # theirs comes free
    # Nor do more old ones stay than are wanted while a new one waits, perhaps for ever.
    surplus = len(live) + len(outdated) - pool.wanted if pending else 0
    replaceable = len(told) if pending and (live or len(outdated) > len(told)) else 0
    # Hosts beyond the wanted number leave, the last started first; those that hold least would
    # be better by a few slots, but then two decisions in a row could name different ones.
    leaving = [
        *(outdated if enough else outdated[: max(0, room_for, surplus, replaceable)]),
        *live[pool.wanted :],
    ]
    leasing = [host for host in [*live, *outdated] if host not in leaving]
    moves = plan_slots(pool.slots, leasing, pool.pinned)
    if moves:
        commands.append(MoveSlots(pool.name, moves, _releases(pool, moves, [*live, *outdated])))
    holders = {*pool.slots, *moves.values()} if leasing else set[str]()
    commands.extend(StopHost(host) for host in leaving if host not in holders)
    return commands


def _try_out(pool: PoolFact, new: Sequence[str], old: Sequence[str]) -> list[Command]:
    """Let hosts with new code have no more slots than they may; the old ones stay meanwhile."""
    moves = plan_slots(pool.slots, new, pool.pinned)
    alive = [*new, *old]
    planned = [slot for slot in moves if pool.slots[slot] in alive]
    room = max(0, (pool.trial or 0) - sum(holder in new for holder in pool.slots))
    moves = {s: host for s, host in moves.items() if s not in planned[room:]}
    return [MoveSlots(pool.name, moves, _releases(pool, moves, alive))] if moves else []


def _wait(pool: PoolFact, new: Sequence[str], old: Sequence[str]) -> list[Command]:
    """Let the old hosts have what no new one has already, until enough new ones are there."""
    slots = [slot for slot, holder in enumerate(pool.slots) if holder not in new]
    pinned = {n: pool.pinned[slot] for n, slot in enumerate(slots) if slot in pool.pinned}
    plan = plan_slots([pool.slots[slot] for slot in slots], old, pinned)
    moves = {slots[n]: host for n, host in plan.items()}
    return [MoveSlots(pool.name, moves, _releases(pool, moves, old))] if moves else []


def _needless(
    pool: PoolFact, hosts: Sequence[HostFact], pending: Sequence[HostFact], surplus: int
) -> list[str]:
    """Return hosts that wait for room and are not wanted any more."""
    old = [
        host.id
        for host in hosts
        if host.status is HostStatus.PENDING and (host.generation != pool.generation or host.leaves)
    ]
    return [*old, *(host.id for host in pending[max(0, len(pending) - max(0, surplus)) :])]


def _releases(
    pool: PoolFact, moves: Mapping[int, str], alive: Sequence[str]
) -> dict[str, list[int]]:
    releases: dict[str, list[int]] = {}
    for slot in moves:
        holder = pool.slots[slot]
        if holder in alive and holder is not None:
            releases.setdefault(holder, []).append(slot)
    return releases
