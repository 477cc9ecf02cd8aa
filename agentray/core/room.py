"""Room: why a host that needs resources cannot be placed on the machines of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_GIB = 1024**3
_SLACK = 1e-6  # amounts are sums of fractions


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has, by the name of the resource."""

    total: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a host cannot be started now.

    Attributes:
        reason: what is missing, in a few words.
        feasible: some machine is large enough, once others have left it.
    """

    reason: str
    feasible: bool


def shortage_of(demand: Mapping[str, float], machines: Sequence[Machine]) -> Shortage | None:
    """Return why no machine can take a host now; None: one can.

    Args:
        demand: what one host needs, by the name of the resource.
        machines: of the cluster.
    """
    if any(_fits(demand, machine.free) for machine in machines):
        return None
    needs = f"a host needs {amounts(demand)}"
    if any(_fits(demand, machine.total) for machine in machines):
        return Shortage(f"{needs}, and no machine has that free", feasible=True)
    most = {
        name: max((machine.total.get(name, 0.0) for machine in machines), default=0.0)
        for name in demand
    }
    lacking = {name: most[name] for name in demand if most[name] + _SLACK < demand[name]}
    if not machines:
        return Shortage(f"{needs}, and there is no machine", feasible=False)
    if not lacking:
        return Shortage(f"{needs}, and no machine has all of that", feasible=False)
    if not any(lacking.values()):
        return Shortage(f"{needs}, and no machine has {' or '.join(lacking)}", feasible=False)
    return Shortage(f"{needs}, and the largest machine has {amounts(lacking)}", feasible=False)


def _fits(demand: Mapping[str, float], room: Mapping[str, float]) -> bool:
    return all(amount <= room.get(name, 0.0) + _SLACK for name, amount in demand.items())


def amounts(resources: Mapping[str, float]) -> str:
    """Return resources as people say them: 1 CPU, 2 GPU and 3 GiB of memory."""
    told = [_amount(name, amount) for name, amount in resources.items()]
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / _GIB:.3g} GiB of memory"
    return f"{amount:g} {name}"
