"""Room: what is missing is said, and only what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray.core.room import Machine, Shortage, shortage_of

SMALL = Machine({"CPU": 2.0}, {"CPU": 2.0})
BUSY = Machine({"CPU": 8.0, "GPU": 1.0}, {"CPU": 0.5, "GPU": 0.0})


@pytest.mark.parametrize(
    ("demand", "machines", "reason", "feasible"),
    [
        ({"CPU": 9.5}, [SMALL], "a host needs 9.5 CPU, and the largest machine has 2 CPU", False),
        ({"GPU": 0.5}, [SMALL], "a host needs 0.5 GPU, and no machine has GPU", False),
        (
            {"CPU": 1.0, "licence": 1.0},
            [BUSY, SMALL],
            "a host needs 1 CPU and 1 licence, and no machine has licence",
            False,
        ),
        ({"GPU": 1.0}, [BUSY, SMALL], "a host needs 1 GPU, and no machine has that free", True),
        (
            {"CPU": 4.0, "memory": 3 * 2**30},
            [BUSY, Machine({"memory": 2.0**33}, {"memory": 2.0**33})],
            "a host needs 4 CPU and 3 GiB of memory, and no machine has all of that",
            False,
        ),
        ({"CPU": 1.0}, [], "a host needs 1 CPU, and there is no machine", False),
    ],
)
def test_what_is_missing_is_said(
    demand: dict[str, float], machines: list[Machine], reason: str, feasible: bool
) -> None:
    assert shortage_of(demand, machines) == Shortage(reason, feasible)


amounts = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "x"]), st.floats(0.1, 16))


@given(demand=amounts, total=st.lists(amounts, max_size=4), used=st.floats(0, 1))
def test_there_is_a_shortage_exactly_where_no_machine_fits(
    demand: dict[str, float], total: list[dict[str, float]], used: float
) -> None:
    machines = [Machine(t, {name: a * (1 - used) for name, a in t.items()}) for t in total]
    found = shortage_of(demand, machines)
    fits = [all(m.free.get(n, 0) >= a - 1e-6 for n, a in demand.items()) for m in machines]
    assert (found is None) is any(fits)
    if found is not None:
        could = [all(m.total.get(n, 0) >= a - 1e-6 for n, a in demand.items()) for m in machines]
        assert found.feasible is any(could)
