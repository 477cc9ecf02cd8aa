"""Reconciliation against a simulated cluster: whatever happens, it ends as it was wanted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentray.core.placement import plan_slots
from agentray.core.reconcile import (
    Command,
    HostFact,
    HostStatus,
    MoveSlots,
    PoolFact,
    StartHost,
    StopHost,
    reconcile,
)

SLOTS = 24
POOLS = ("default", "gpu")
ROUNDS = 40
"""Rounds in which the simulation settles, however far it is from what is wanted: start, move,
stop, and the rounds that a replacement of the code needs in between, for each host anew where there
is no room for an old and a new one at once."""


@dataclass
class World:
    """A cluster that does what it is told, when it is told that it did."""

    pools: dict[str, PoolFact]
    hosts: dict[str, HostFact]
    started: int = 0
    spare: int = 10  # hosts beyond the wanted ones that there is room for

    def find_room(self) -> None:
        """Let the hosts that are being made live as far as there is room, the others wait."""
        room = sum(pool.wanted for pool in self.pools.values()) + self.spare
        room -= sum(h.status in (HostStatus.LIVE, HostStatus.DRAINING) for h in self.hosts.values())
        for host in self.hosts.values():
            if host.status in (HostStatus.STARTING, HostStatus.PENDING):
                self.set_status(host.id, HostStatus.LIVE if room > 0 else HostStatus.PENDING)
                room -= 1

    def live(self, pool: str) -> list[HostFact]:
        return [h for h in self.of(pool) if h.status is HostStatus.LIVE]

    def of(self, pool: str) -> list[HostFact]:
        return [h for h in self.hosts.values() if h.pool == pool]

    def with_status(self, status: HostStatus) -> list[str]:
        return [h.id for h in self.hosts.values() if h.status is status]

    def set_status(self, host: str, status: HostStatus) -> None:
        self.hosts[host] = replace(self.hosts[host], status=status)

    def set_pool(self, name: str, **changes: Any) -> None:
        old = self.pools.get(name, PoolFact(name, 1, 1, (None,) * SLOTS))
        self.pools[name] = replace(old, **changes)

    def decide(self) -> list[Command]:
        return reconcile(list(self.pools.values()), list(self.hosts.values()))

    def carry_out(self, command: Command) -> None:
        match command:
            case StartHost(pool):
                self.started += 1
                name = f"host-{self.started}"
                generation = self.pools[pool].generation
                self.hosts[name] = HostFact(name, pool, HostStatus.STARTING, generation)
            case StopHost(host):
                if self.hosts[host].status is HostStatus.PENDING:
                    del self.hosts[host]
                    return
                assert self.hosts[host].status is HostStatus.LIVE
                if self.holds_slots(host):
                    self.check_that_it_makes_room(host)
                self.set_status(host, HostStatus.DRAINING)
            case MoveSlots(pool, to, release):
                self.move(pool, dict(to), {host: list(slots) for host, slots in release.items()})

    def check_that_it_makes_room(self, host: str) -> None:
        pool = self.pools[self.hosts[host].pool]
        assert self.hosts[host].generation != pool.generation or self.hosts[host].leaves
        assert any(
            h.status is HostStatus.PENDING and h.feasible and h.generation == pool.generation
            for h in self.of(pool.name)
        ), f"{host} is stopped and still leases slots"

    def move(self, pool: str, to: dict[int, str], release: dict[str, list[int]]) -> None:
        assert to
        before = self.pools[pool].slots
        live = {h.id for h in self.live(pool)}
        assert set(to.values()) <= live, "slots are leased to hosts that do not live"
        expected: dict[str, list[int]] = {}
        for slot, new in to.items():
            holder = before[slot]
            assert holder != new, "a slot is moved to where it is"
            if holder is not None and holder in live:
                expected.setdefault(holder, []).append(slot)
        assert {h: sorted(s) for h, s in release.items()} == {
            h: sorted(s) for h, s in expected.items()
        }, "a living holder must let go first, and only of what it loses"
        if expected and (trial := self.trial_of(pool)) is not None:
            new = {h.id for h in self.live(pool) if self.is_current(h)}
            after = [to.get(slot, host) for slot, host in enumerate(before)]
            assert not new & set(to.values()) or sum(h in new for h in after) <= max(
                trial, sum(h in new for h in before)
            ), "hosts with new code get no more slots than they may"
        self.set_pool(pool, slots=tuple(to.get(slot, host) for slot, host in enumerate(before)))

    def is_current(self, host: HostFact) -> bool:
        return host.generation == self.pools[host.pool].generation and not host.leaves

    def trial_of(self, pool: str) -> int | None:
        """Return how many slots new code may have, where that is looked at."""
        orphans = set(self.pools[pool].slots) - {h.id for h in self.live(pool)}
        waits = any(h.status is HostStatus.PENDING and self.is_current(h) for h in self.of(pool))
        old = any(not self.is_current(h) for h in self.live(pool))
        return self.pools[pool].trial if old and not waits and not orphans else None

    def holds_slots(self, host: str) -> bool:
        return any(host in pool.slots for pool in self.pools.values())


class ReconcileMachine(RuleBasedStateMachine):
    """Random misfortunes; after each, the decisions are carried out or are not."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World({}, {})

    @initialize(wanted=st.integers(1, 4))
    def begin(self, wanted: int) -> None:
        self.world.set_pool("default", wanted=wanted)

    # What happens to the cluster

    def _pick(self, data: st.DataObject, status: HostStatus) -> str:
        return data.draw(st.sampled_from(self.world.with_status(status)))

    @precondition(lambda self: self.world.with_status(HostStatus.STARTING))
    @rule(data=st.data(), succeeds=st.booleans())
    def a_start_ends(self, data: st.DataObject, succeeds: bool) -> None:
        host = self._pick(data, HostStatus.STARTING)
        self.world.set_status(host, HostStatus.LIVE if succeeds else HostStatus.DEAD)

    @precondition(lambda self: self.world.with_status(HostStatus.STARTING))
    @rule(data=st.data(), feasible=st.booleans())
    def there_is_no_room(self, data: st.DataObject, feasible: bool) -> None:
        host = self._pick(data, HostStatus.STARTING)
        self.world.hosts[host] = replace(
            self.world.hosts[host], status=HostStatus.PENDING, feasible=feasible
        )

    @precondition(lambda self: self.world.with_status(HostStatus.PENDING))
    @rule(data=st.data())
    def there_is_room(self, data: st.DataObject) -> None:
        self.world.set_status(self._pick(data, HostStatus.PENDING), HostStatus.STARTING)

    @rule(spare=st.integers(0, 3))
    def the_cluster_has_another_size(self, spare: int) -> None:
        self.world.spare = spare

    @precondition(lambda self: self.world.with_status(HostStatus.LIVE))
    @rule(data=st.data())
    def a_host_dies(self, data: st.DataObject) -> None:
        self.world.set_status(self._pick(data, HostStatus.LIVE), HostStatus.DEAD)

    @precondition(lambda self: self.world.with_status(HostStatus.DRAINING))
    @rule(data=st.data())
    def a_stop_ends(self, data: st.DataObject) -> None:
        del self.world.hosts[self._pick(data, HostStatus.DRAINING)]

    @precondition(lambda self: self.world.with_status(HostStatus.DEAD))
    @rule(data=st.data())
    def a_dead_host_is_forgotten(self, data: st.DataObject) -> None:
        del self.world.hosts[self._pick(data, HostStatus.DEAD)]

    @rule(pool=st.sampled_from(POOLS), wanted=st.integers(1, 5))
    def another_number_is_wanted(self, pool: str, wanted: int) -> None:
        self.world.set_pool(pool, wanted=wanted)

    @precondition(lambda self: self.world.pools)
    @rule(data=st.data())
    def the_code_is_replaced(self, data: st.DataObject) -> None:
        pool = data.draw(st.sampled_from(sorted(self.world.pools)))
        self.world.set_pool(pool, generation=self.world.pools[pool].generation + 1)

    @precondition(lambda self: self.world.pools)
    @rule(data=st.data(), trial=st.sampled_from([0, 3, SLOTS, None]), back=st.booleans())
    def new_code_is_tried_out(self, data: st.DataObject, trial: int | None, back: bool) -> None:
        pool = data.draw(st.sampled_from(sorted(self.world.pools)))
        generation = self.world.pools[pool].generation
        if back:
            self.world.set_pool(pool, trial=None, generation=max(1, generation - 1))
        else:
            self.world.set_pool(pool, trial=trial)

    @precondition(lambda self: self.world.hosts)
    @rule(data=st.data())
    def a_host_is_told_to_leave(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.world.hosts)))
        self.world.hosts[host] = replace(self.world.hosts[host], leaves=True)

    @precondition(lambda self: self.world.with_status(HostStatus.LIVE))
    @rule(data=st.data(), slots=st.sets(st.integers(0, SLOTS - 1)))
    def slots_are_moved_by_hand(self, data: st.DataObject, slots: set[int]) -> None:
        host = self._pick(data, HostStatus.LIVE)
        pool = self.world.hosts[host].pool
        if pool in self.world.pools:
            pinned = {**self.world.pools[pool].pinned, **dict.fromkeys(slots, host)}
            self.world.set_pool(pool, pinned=pinned)

    @rule(pool=st.sampled_from(POOLS))
    def a_pool_is_removed(self, pool: str) -> None:
        self.world.pools.pop(pool, None)

    # What is done about it

    @rule()
    def decisions_are_carried_out(self) -> None:
        commands = self.world.decide()
        starts = Counter(c.pool for c in commands if isinstance(c, StartHost))
        for name, pool in self.world.pools.items():
            there = [
                host
                for host in self.world.of(name)
                if self.world.is_current(host)
                and host.status in (HostStatus.LIVE, HostStatus.STARTING, HostStatus.PENDING)
            ]
            assert starts[name] == max(0, pool.wanted - len(there)), "it starts what is missing"
        assert set(starts) <= set(self.world.pools)
        for command in commands:
            self.world.carry_out(command)
        for name, pool in self.world.pools.items():
            live = {host.id for host in self.world.live(name)}
            assert not live or set(pool.slots) <= live, "a slot is left to a host that is not live"

    @rule()
    def it_settles(self) -> None:
        """Nothing more happens: in a few rounds all is as wanted, and stays so."""
        world = self.world
        for pool in world.pools:
            world.set_pool(pool, trial=None)
        for _ in range(ROUNDS):
            for host in world.with_status(HostStatus.DRAINING):
                del world.hosts[host]
            for host in world.with_status(HostStatus.PENDING):
                world.hosts[host] = replace(world.hosts[host], feasible=True)
            world.find_room()
            if not world.decide() and not world.with_status(HostStatus.PENDING):
                break
            self.decisions_are_carried_out()
        assert world.decide() == []
        for name, pool in world.pools.items():
            there = world.live(name)
            assert [host.generation for host in there] == [pool.generation] * pool.wanted
            assert not any(host.leaves for host in there), "who was told to leave is gone"
            names = [host.id for host in there]
            assert set(pool.slots) <= set(names)
            assert plan_slots(pool.slots, names, pool.pinned) == {}
            loads = Counter(pool.slots)
            if not set(pool.pinned.values()) & set(names):
                assert set(loads) == set(names)
                assert max(loads.values()) - min(loads.values()) <= 1
        assert {h.pool for h in world.hosts.values() if h.status is not HostStatus.DEAD} == set(
            world.pools
        )

    @invariant()
    def the_same_facts_give_the_same_decision(self) -> None:
        assert self.world.decide() == self.world.decide()

    def teardown(self) -> None:
        self.it_settles()


ReconcileMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None
)
TestReconcileInASimulation: Any = ReconcileMachine.TestCase


def facts(wanted: int, *holders: str | None, generation: int = 1) -> PoolFact:
    return PoolFact("default", wanted, generation, holders)


def host(name: str, status: HostStatus = HostStatus.LIVE, generation: int = 1) -> HostFact:
    return HostFact(name, "default", status, generation)


def test_a_new_pool_starts_all_its_hosts_and_leases_nothing_yet() -> None:
    assert reconcile([facts(3, None, None)], []) == [StartHost("default")] * 3


def test_a_lost_hosts_slots_move_at_once_and_its_replacement_starts_behind() -> None:
    commands = reconcile([facts(2, "a", "b", "a", "b")], [host("a", HostStatus.DEAD), host("b")])
    assert commands == [
        StartHost("default"),
        MoveSlots("default", {0: "b", 2: "b"}, {}),
    ]


def test_old_code_serves_until_enough_hosts_run_the_new_one() -> None:
    pool = facts(2, "old-1", "old-2", "old-1", "old-2", generation=2)
    old = [host("old-1"), host("old-2")]
    assert reconcile([pool], old) == [StartHost("default")] * 2

    coming = [host(f"new-{n}", HostStatus.STARTING, 2) for n in (1, 2)]
    assert reconcile([pool], [*old, *coming]) == []

    there = [host(f"new-{n}", HostStatus.LIVE, 2) for n in (1, 2)]
    (move,) = reconcile([pool], [*old, *there])
    assert isinstance(move, MoveSlots)
    assert set(move.to) == {0, 1, 2, 3}
    assert Counter(move.to.values()) == {"new-1": 2, "new-2": 2}
    assert move.release == {"old-1": [0, 2], "old-2": [1, 3]}

    moved = facts(2, *(move.to[slot] for slot in range(4)), generation=2)
    assert reconcile([moved], [*old, *there]) == [StopHost("old-1"), StopHost("old-2")]


def test_with_fewer_wanted_a_host_gives_its_slots_away_before_it_is_stopped() -> None:
    hosts = [host("a"), host("b")]
    assert reconcile([facts(1, "a", "b")], hosts) == [
        MoveSlots("default", {1: "a"}, {"b": [1]}),
    ]
    assert reconcile([facts(1, "a", "a")], hosts) == [StopHost("b")]


def test_the_hosts_of_a_pool_that_is_not_declared_any_more_are_stopped() -> None:
    assert reconcile([], [host("a"), host("b", HostStatus.STARTING)]) == [StopHost("a")]


def test_where_there_is_no_room_for_both_an_old_host_makes_room_for_its_successor() -> None:
    pool = facts(2, "old-1", "old-2", "old-1", "old-2", generation=2)
    old = [host("old-1"), host("old-2")]
    new = [host("new-1", HostStatus.PENDING, 2), host("new-2", HostStatus.STARTING, 2)]
    assert reconcile([pool], [*old, *new]) == [
        MoveSlots("default", {0: "old-2", 2: "old-2"}, {"old-1": [0, 2]})
    ]
    moved = facts(2, "old-2", "old-2", "old-2", "old-2", generation=2)
    assert reconcile([moved], [*old, *new]) == [StopHost("old-1")]


def test_the_last_old_host_makes_room_although_nobody_takes_its_slots() -> None:
    pool = facts(1, "old", "old", generation=2)
    waits = host("new", HostStatus.PENDING, 2)
    assert reconcile([pool], [host("old"), waits]) == [StopHost("old")]
    assert reconcile([pool], [host("old", HostStatus.DRAINING), waits]) == []


def test_no_old_host_leaves_for_one_that_no_machine_could_hold() -> None:
    pool = facts(1, "old", "old", generation=2)
    waits = replace(host("new", HostStatus.PENDING, 2), feasible=False)
    assert reconcile([pool], [host("old"), waits]) == []


def test_while_new_hosts_wait_for_room_there_are_no_more_hosts_than_wanted() -> None:
    waits = replace(host("new-2", HostStatus.PENDING, 2), feasible=False)
    old = [host("old-1"), host("old-2")]
    pool = facts(1, "old-1", "old-2", generation=2)
    assert reconcile([pool], [*old, waits]) == [MoveSlots("default", {0: "old-2"}, {"old-1": [0]})]
    there = host("new-1", HostStatus.LIVE, 2)
    pool = facts(2, "old-2", "new-1", generation=2)
    assert reconcile([pool], [*old, there, waits]) == [StopHost("old-1")]


def test_hosts_that_wait_for_room_are_given_up_when_they_are_not_wanted_any_more() -> None:
    waiting = [host(name, HostStatus.PENDING) for name in ("b", "c")]
    assert reconcile([facts(2, "a", "a")], [host("a"), *waiting]) == [StopHost("c")]
    assert reconcile([facts(2, "a", "a", generation=2)], waiting) == [
        *[StartHost("default")] * 2,
        *map(StopHost, ("b", "c")),
    ]
    assert reconcile([], waiting) == [StopHost("b"), StopHost("c")]


def test_hosts_that_are_too_few_to_be_tried_out_keep_what_they_have() -> None:
    pool = replace(facts(2, "stays", "stays", "leaves", None), trial=0)
    hosts = [host("stays"), replace(host("leaves"), leaves=True)]
    assert reconcile([pool], hosts) == [
        StartHost("default"),
        MoveSlots("default", {3: "leaves"}, {}),
    ]
