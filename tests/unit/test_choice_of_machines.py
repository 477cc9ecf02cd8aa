"""On which machine a host is started: packed or spread, and only where there is room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from agentray.core.machines import MachineFact, Resident, choose_machine


def machine(name: str, free: Mapping[str, float] | None = None, **total: float) -> MachineFact:
    return MachineFact(name, total, total if free is None else free)


def fill(
    placement: str,
    machines: Sequence[MachineFact],
    hosts: int,
    demand: Mapping[str, float] | None = None,
    residents: Sequence[Resident] = (),
) -> list[str | None]:
    """Start hosts one after the other; return where each goes."""
    there, chosen = list(residents), list[str | None]()
    for _ in range(hosts):
        at = choose_machine("p", placement, demand or {}, machines, there)
        chosen.append(at)
        if at is not None:
            there.append(Resident(at, "p", demand or {}))
    return chosen


TWO = [machine("a", CPU=2.0), machine("b", CPU=2.0)]


def test_packed_hosts_fill_one_machine_before_the_next() -> None:
    assert fill("pack", TWO, 4) == ["a", "a", "b", "b"]
    assert fill("pack", TWO, 3, residents=[Resident("b", "p")]) == ["b", "a", "a"]


def test_beyond_all_cpus_packed_hosts_share_them_evenly() -> None:
    big = [machine("a", CPU=1.0), machine("b", CPU=3.0)]
    assert Counter(fill("pack", big, 16)) == {"a": 4, "b": 12}


def test_packed_hosts_come_to_where_their_pool_is_rather_than_to_where_others_are() -> None:
    others = [Resident("a", "q"), Resident("b", "p")]
    assert fill("pack", TWO, 1, residents=others) == ["b"]
    assert fill("pack", TWO, 1, residents=others[:1]) == ["a"]


def test_spread_hosts_go_where_fewest_of_their_pool_are() -> None:
    assert fill("spread", TWO, 4) == ["a", "b", "a", "b"]
    assert fill("spread", TWO, 2, residents=[Resident("a", "p")]) == ["b", "a"]
    assert fill("spread", TWO, 1, residents=[Resident("a", "q")]) == ["b"]


def test_what_is_reserved_must_be_free_also_before_ray_has_noted_it() -> None:
    gpu = [machine("a", CPU=8.0, GPU=1.0), machine("b", CPU=8.0, GPU=2.0)]
    assert fill("spread", gpu, 4, {"GPU": 1.0}) == ["a", "b", "b", None]
    taken = [machine("a", {"CPU": 0.5}, CPU=2.0), machine("b", CPU=2.0)]
    assert fill("pack", taken, 3, {"CPU": 1.0}) == ["b", "b", None]


def test_a_machine_without_cpus_is_the_last_choice() -> None:
    head = [machine("a"), machine("b", CPU=1.0), machine("c", CPU=1.0)]
    assert Counter(fill("spread", head, 4)) == {"b": 2, "c": 2}
    assert "a" not in fill("pack", head, 4)
    assert fill("pack", [machine("a", licence=1.0), *TWO[1:]], 1, {"licence": 1.0}) == ["a"]


def test_where_there_is_nothing_to_choose_ray_decides() -> None:
    assert choose_machine("p", "spread", {}, [], []) is None
    assert choose_machine("p", "pack", {}, TWO[:1], []) is None


cpus = st.sampled_from([1.0, 2.0, 4.0])


@given(
    placement=st.sampled_from(["pack", "spread"]),
    sizes=st.lists(cpus, min_size=2, max_size=4),
    hosts=st.integers(1, 12),
    demand=st.sampled_from([{}, {"CPU": 0.5}, {"CPU": 1.0}]),
    others=st.lists(st.integers(0, 3), max_size=3),
)
def test_placements_hold_whatever_the_machines_are(
    placement: str,
    sizes: list[float],
    hosts: int,
    demand: dict[str, float],
    others: list[int],
) -> None:
    machines = [machine(f"m{n}", CPU=size) for n, size in enumerate(sizes)]
    there = [Resident(f"m{n % len(sizes)}", "q", demand) for n in others]
    chosen = fill(placement, machines, hosts, demand, there)
    taken = Counter(chosen) + Counter(resident.machine for resident in there)
    for each in machines:
        if demand and taken[each.id] > Counter(r.machine for r in there)[each.id]:
            assert taken[each.id] * demand["CPU"] <= each.total["CPU"], "no more than there is"
    if None in chosen:
        assert demand, "what reserves nothing always finds a machine"
        assert set(chosen[chosen.index(None) :]) == {None}
        return
    own = [chosen.count(each.id) for each in machines]
    if placement == "spread" and not demand:
        assert max(own) - min(own) <= 1
    if placement == "pack" and not others and hosts <= max(sizes):
        assert max(own) == hosts or any(size < hosts for size in sizes)
