"""Machines: on which one a host is started.

Ray looks at a placement only where something is reserved: what reserves nothing goes to any
machine. So it is decided here, and Ray is only asked to follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SLACK = 1e-6  # amounts are sums of fractions


@dataclass(frozen=True, slots=True)
class MachineFact:
    """A machine on which hosts may be.

    Attributes:
        id: of it.
        total: what it has, by Ray's names.
        free: what Ray says is free of it, which may be a moment old.
    """

    id: str
    total: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Resident:
    """A host that is on a machine, or on its way there, and is going to stay.

    Attributes:
        machine: where.
        pool: its pool.
        demand: what is reserved for it, by Ray's names.
    """

    machine: str
    pool: str
    demand: Mapping[str, float] = field(default_factory=dict[str, float])


def choose_machine(
    pool: str,
    placement: str,
    demand: Mapping[str, float],
    machines: Sequence[MachineFact],
    residents: Sequence[Resident],
) -> str | None:
    """Return the id of the machine on which a host is to be started.

    A host may keep one CPU busy, also where none is reserved for it. `pack` fills machines up to
    their number of CPUs, first those where the pool is already; when all are full, the one goes on
    that has most CPUs for its hosts. `spread` takes the machine with the fewest hosts of the pool.
    A machine without CPUs, as heads of clusters may be, is the last choice.

    Args:
        pool: of the host.
        placement: `pack` or `spread`.
        demand: what is to be reserved for the host.
        machines: on which it may be.
        residents: all hosts on these machines but those that are about to leave.

    Returns:
        None: there is nothing to choose, or no room anywhere now: it waits where Ray lets it.
    """
    if len(machines) < 2:
        return None
    views = [_View.of(machine, pool, residents) for machine in machines]
    fitting = [view for view in views if view.fits(demand)]
    key = _spread if placement == "spread" else _pack
    weight = _weight(demand)
    return min(fitting, key=lambda view: key(view, weight)).id if fitting else None


@dataclass(frozen=True, slots=True)
class _View:
    """A machine as one pool sees it."""

    id: str
    cpus: float
    load: float  # CPUs that its hosts may keep busy
    same: int  # hosts of the pool
    room: Mapping[str, float]

    @classmethod
    def of(cls, machine: MachineFact, pool: str, residents: Sequence[Resident]) -> _View:
        there = [resident for resident in residents if resident.machine == machine.id]
        room: dict[str, float] = {}
        for name, total in machine.total.items():
            # What was placed a moment ago is not in Ray's figures yet.
            ours = sum(resident.demand.get(name, 0.0) for resident in there)
            room[name] = min(machine.free.get(name, 0.0), total - ours)
        return cls(
            machine.id,
            machine.total.get("CPU", 0.0),
            sum(_weight(resident.demand) for resident in there),
            sum(resident.pool == pool for resident in there),
            room,
        )

    def fits(self, demand: Mapping[str, float]) -> bool:
        return all(self.room.get(name, 0.0) + _SLACK >= much for name, much in demand.items())

    @property
    def crowd(self) -> float:
        return self.load / self.cpus if self.cpus else float("inf")


def _weight(demand: Mapping[str, float]) -> float:
    return demand.get("CPU", 0.0) or 1.0


def _spread(view: _View, weight: float) -> tuple[object, ...]:
    del weight
    return (not view.cpus, view.same, view.crowd, view.load, view.id)


def _pack(view: _View, weight: float) -> tuple[object, ...]:
    full = view.load + weight > view.cpus + _SLACK
    if full:
        return (True, view.crowd, -view.same, view.load, view.id)
    return (False, -view.same, -view.load, 0.0, view.id)
