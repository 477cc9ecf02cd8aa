"""Placement: slots are spread evenly, move as little as that needs, and are the same for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray.core.placement import plan_slots
from agentray.ids import SLOTS, AgentId, slot_of

NAMES = [f"host-{n}" for n in range(8)]

hosts_strategy = st.lists(st.sampled_from(NAMES), unique=True, max_size=8)
slots_strategy = st.lists(st.none() | st.sampled_from(NAMES), max_size=64)


def carried_out(slots: list[str | None], moves: dict[int, str]) -> list[str | None]:
    return [moves.get(slot, host) for slot, host in enumerate(slots)]


def least_moves(slots: list[str | None], hosts: list[str]) -> int:
    """Count the slots that cannot stay, whoever plans: those beyond each host's largest share."""
    held = Counter(host for host in slots if host in hosts)
    quota, extra = divmod(len(slots), len(hosts))
    above = sum(held[host] > quota for host in hosts)
    stay = sum(min(held[host], quota) for host in hosts) + min(extra, above)
    return len(slots) - stay


@settings(deadline=None, max_examples=300)
@given(slots=slots_strategy, hosts=hosts_strategy.filter(bool))
def test_slots_are_balanced_afterwards_with_as_few_moves_as_possible(
    slots: list[str | None], hosts: list[str]
) -> None:
    moves = plan_slots(slots, hosts)
    after = carried_out(slots, moves)
    loads = Counter(dict.fromkeys(hosts, 0))
    loads.update(host for host in after if host is not None)
    assert set(loads) == set(hosts)
    assert sum(loads.values()) == len(slots)
    assert max(loads.values()) - min(loads.values()) <= 1
    assert len(moves) == least_moves(slots, hosts)
    assert all(slots[slot] != host for slot, host in moves.items())
    assert plan_slots(after, hosts) == {}


@settings(deadline=None)
@given(slots=slots_strategy)
def test_without_hosts_every_lease_stays_as_it_is(slots: list[str | None]) -> None:
    assert plan_slots(slots, []) == {}


def test_the_first_host_gets_everything_and_a_second_one_takes_half() -> None:
    first = plan_slots([None] * SLOTS, ["a"])
    assert first == dict.fromkeys(range(SLOTS), "a")
    second = plan_slots(["a"] * SLOTS, ["a", "b"])
    assert len(second) == SLOTS // 2
    assert set(second.values()) == {"b"}


def test_only_the_slots_of_a_lost_host_move() -> None:
    slots = [NAMES[slot % 4] for slot in range(SLOTS)]
    moves = plan_slots(slots, [NAMES[0], NAMES[1], NAMES[3]])
    assert set(moves) == {slot for slot, host in enumerate(slots) if host == NAMES[2]}
    assert max(Counter(moves.values()).values()) == 22


# Leases of running clusters and rows of old databases are by slot: these numbers never change.
FIXED_SLOTS = {
    "greeter/ada": 170,
    "greeter/grace": 168,
    "text_analyser/run_0191f2c4a1b2": 80,
    "aggregator/ключ/with/slashes": 131,
    "a/0": 196,
    "a/1": 82,
    "Order-Desk.v2/北京": 229,
}


@pytest.mark.parametrize(("agent", "slot"), FIXED_SLOTS.items())
def test_an_agents_slot_is_the_same_in_every_version(agent: str, slot: int) -> None:
    assert slot_of(AgentId.parse(agent)) == slot


@pytest.mark.parametrize("pattern", ["{}", "user-{:06}", "run_{:012x}", "北京-{}"])
def test_keys_are_spread_evenly_over_all_slots(pattern: str) -> None:
    per_slot = 100
    counts = Counter(
        slot_of(AgentId("greeter", pattern.format(n))) for n in range(per_slot * SLOTS)
    )
    assert set(counts) == set(range(SLOTS))
    # Chance alone gives a standard deviation of 10.
    assert max(counts.values()) < per_slot + 60
    assert min(counts.values()) > per_slot - 60


def test_the_type_counts_for_the_slot_as_the_key_does() -> None:
    slots = {slot_of(AgentId(f"type_{n}", "same")) for n in range(100)}
    assert len(slots) > 60
