"""How hosts end, and who is to blame: the decisions, by table and as a machine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentray.core.blame import PERIOD_S, Scene, Suspicion, blame, cleared
from agentray.core.deaths import HANG_NOTE, INNOCENT, DeathCause, Evidence, death_of
from agentray.ids import AgentId
from agentray.runtime.flight_record import (
    LOOP,
    START,
    FlightRecord,
    in_memory,
    mark_of,
    read_flight,
    size_of,
)

# What Ray 2.60 says, word for word where it matters.
LOST = (
    "The actor died unexpectedly before finishing this task. The actor is dead because its worker "
    "process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly "
    "exits with a connection error code 2. End of file. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was "
    "called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error."
)
RAY_KILL = "The actor is dead because it was killed by `ray.kill`."
NODE = "The actor died because its node has died. Node Id: 12. The node was terminated: drained"
MEMORY = (
    "Worker exit type: NODE_OUT_OF_MEMORY Task was killed due to the node running low on memory."
)
BY_ITSELF = "Worker exit type: INTENDED_USER_EXIT Worker exit detail: exit_actor was called"


@pytest.mark.parametrize(
    ("evidence", "cause", "detail"),
    [
        (Evidence(LOST, True), DeathCause.SIGKILL, "SIGKILL"),
        (Evidence(LOST, True, oom_kills=1), DeathCause.OUT_OF_MEMORY, "SIGKILL"),
        (Evidence(LOST, True, exit_code=3), DeathCause.EXITED, "3"),
        (Evidence(LOST, True, exit_code=0), DeathCause.EXITED, "0"),
        (
            Evidence(LOST, True, fatal="Fatal Python error: Segmentation fault"),
            DeathCause.CRASHED,
            "SIGSEGV",
        ),
        (Evidence(LOST, True, fatal="Fatal Python error: Aborted"), DeathCause.CRASHED, "SIGABRT"),
        (Evidence(LOST, True, fatal="Fatal Python error: Bus error"), DeathCause.CRASHED, "SIGBUS"),
        (
            Evidence(LOST, True, fatal="Fatal Python error: _Py_CheckRecursiveCall"),
            DeathCause.CRASHED,
            "",
        ),
        (Evidence(LOST, True, fatal=HANG_NOTE), DeathCause.HUNG, ""),
        (Evidence(RAY_KILL, True, fatal=HANG_NOTE), DeathCause.HUNG, ""),
        (Evidence(RAY_KILL), DeathCause.KILLED, ""),
        (Evidence(RAY_KILL, True), DeathCause.KILLED, ""),
        (Evidence(NODE), DeathCause.NODE_LOST, ""),
        (Evidence(NODE, True, oom_kills=2), DeathCause.NODE_LOST, ""),
        (Evidence(MEMORY), DeathCause.OUT_OF_MEMORY, ""),
        (Evidence(BY_ITSELF, True), DeathCause.EXITED, ""),
        (Evidence(LOST), DeathCause.UNKNOWN, ""),
        (Evidence(""), DeathCause.UNKNOWN, ""),
    ],
)
def test_each_way_to_die_is_told_from_what_is_left(evidence: Evidence, cause: str, detail: str):
    death = death_of(evidence)
    assert (death.cause, death.detail) == (cause, detail)
    assert death.reason
    assert len(death.reason) <= 300


# Blame

CRASH, KILL = DeathCause.CRASHED, DeathCause.SIGKILL


def test_who_crashes_alone_is_guilty_at_once():
    found = blame(Scene(CRASH, "a/1"), {}, 5.0)
    assert found == {"a/1": Suspicion((5.0,), 0, alone=True)}


def test_of_many_under_way_only_the_one_that_had_just_begun_is_suspected_of_a_crash():
    found = blame(Scene(CRASH, "a/1", ["a/2", "a/3"]), {}, 0.0)
    assert found == {"a/1": Suspicion((), 1, alone=True)}


def test_without_a_turn_that_had_just_begun_all_that_wait_are_suspected():
    found = blame(Scene(CRASH, None, ["a/2", "a/3"]), {}, 0.0)
    assert found == {agent: Suspicion(alone=True) for agent in ("a/2", "a/3")}


def test_who_was_suspected_before_is_to_blame_and_newcomers_are_not():
    known = {"a/2": Suspicion()}
    crashed = blame(Scene(CRASH, None, ["a/1", "a/2"]), known, 7.0)
    assert crashed == {"a/2": Suspicion((7.0,), 0, alone=True)}
    killed = blame(Scene(KILL, "a/1", ["a/2"]), known, 7.0)
    assert killed == {"a/2": Suspicion((), 1, alone=True)}


def test_a_sigkill_proves_nothing():
    found = blame(Scene(KILL, "a/1"), {}, 0.0)["a/1"]
    assert found == Suspicion((), 1)
    assert cleared(found, 1.0) is None
    assert cleared(Suspicion((0.0,), 2), 1.0) == Suspicion((0.0,), 0)
    assert cleared(Suspicion((0.0,), 2), PERIOD_S) is None


def test_loops_are_suspected_where_nothing_else_was_under_way():
    crashed = blame(Scene(CRASH, None, [], ["l/1"]), {}, 1.0)
    assert crashed == {"l/1": Suspicion((1.0,), 0, alone=True)}
    assert "l/1" not in blame(Scene(CRASH, None, ["a/1"], ["l/1"]), {}, 1.0)
    assert blame(Scene(KILL, None, [], ["l/1"]), {}, 1.0) == {}


def test_the_first_sigkill_lets_nobody_be_tried_alone_and_the_second_does():
    under_way = [f"a/{n}" for n in range(100)]
    first = blame(Scene(KILL, None, under_way), {}, 0.0)
    assert first == {agent: Suspicion() for agent in under_way}
    second = blame(Scene(KILL, None, ["a/7", "a/8", "b/1"]), first, 1.0)
    assert second == {agent: Suspicion(alone=True) for agent in ("a/7", "a/8")}


@pytest.mark.parametrize("cause", sorted(INNOCENT))
def test_nobody_is_blamed_for_what_was_done_to_the_host(cause: DeathCause):
    assert blame(Scene(cause, "a/1", ["a/2"], ["l/1"]), {}, 0.0) == {}


class QuarantineMachine(RuleBasedStateMachine):
    """One agent kills its host at every turn; the others only happen to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Suspicion] = {}
        self.now = 0.0
        self.kills = 0
        self.quarantined: set[str] = set()

    def judge(self, found: dict[str, Suspicion]) -> None:
        self.known |= found
        for agent in found:
            if self.known[agent].deaths(self.now) >= 3:
                self.quarantined.add(agent)

    @rule(others=st.sets(st.sampled_from(["a", "b", "c", "d"])), begun=st.booleans())
    def poison_runs(self, others: set[str], begun: bool) -> None:
        if "poison" in self.quarantined:
            return
        # Suspects are tried alone: the poison is the only one of them that is under way.
        fresh = {agent for agent in others if agent not in self.known or "poison" not in self.known}
        self.now += 1.0
        self.kills += 1
        now = "poison" if begun else None
        turns = fresh if begun else {*fresh, "poison"}
        self.judge(blame(Scene(CRASH, now, turns), self.known, self.now))

    @rule(agent=st.sampled_from(["a", "b", "c", "d"]))
    def another_finishes(self, agent: str) -> None:
        if agent in self.known:
            left = cleared(self.known.pop(agent), self.now)
            if left is not None:
                self.known[agent] = left

    @invariant()
    def nobody_else_is_quarantined(self) -> None:
        assert self.quarantined <= {"poison"}

    @invariant()
    def the_poison_is_after_three_deaths_that_count(self) -> None:
        # The first one does not where others were under way.
        assert "poison" in self.quarantined or self.kills < 4
        assert "poison" not in self.quarantined or self.kills >= 3


TestQuarantineMachine = QuarantineMachine.TestCase
TestQuarantineMachine.settings = settings(deadline=None, max_examples=60)


# The flight record

ADA, BOB = AgentId("greeter", "ada"), AgentId("greeter", "b/ö")


def test_a_record_names_who_runs_and_who_waits():
    record, buffer = in_memory()
    assert read_flight(buffer) == read_flight(bytearray(buffer))
    record.begin(mark_of(ADA))
    cell = record.keep(mark_of(BOB))
    loop = record.keep(mark_of(ADA, LOOP))
    with record.under_way(mark_of(AgentId("x", "start"), START)):
        found = read_flight(buffer)
    assert found is not None
    assert (found.now, found.turns, found.loops) == (ADA, {BOB, AgentId("x", "start")}, {ADA})
    assert found.exit_code is None
    record.rest()
    record.release(cell)
    record.release(loop)
    record.exits(3)
    record.saw_oom_kills(7)
    found = read_flight(buffer)
    assert found is not None
    assert (found.now, found.turns, found.loops) == (None, set(), set())
    assert (found.exit_code, found.oom_kills) == (3, 7)


def test_code_of_another_agent_within_a_turn_is_noted_and_then_the_first_again():
    record, buffer = in_memory()
    record.begin(mark_of(ADA))
    before = record.begin_within(mark_of(BOB))
    inner = read_flight(buffer)
    record.begin(before)
    outer = read_flight(buffer)
    assert inner is not None
    assert outer is not None
    assert (inner.now, outer.now) == (BOB, ADA)


def test_a_full_record_names_no_more_and_names_again_when_there_is_room():
    record, buffer = in_memory(2)
    cells = [record.keep(mark_of(AgentId("a", str(n)))) for n in range(3)]
    assert cells[2] == 0
    record.release(cells[2])
    record.release(cells[0])
    assert record.keep(mark_of(BOB)) == cells[0]
    found = read_flight(buffer)
    assert found is not None
    assert found.turns == {AgentId("a", "1"), BOB}


def test_what_has_a_too_long_name_is_not_noted():
    record, buffer = in_memory()
    long = mark_of(AgentId("a", "ö" * 512))
    record.begin(long)
    assert record.keep(long) == 0
    found = read_flight(buffer)
    assert found is not None
    assert (found.now, found.turns) == (None, set())


@settings(deadline=None)
@given(data=st.binary(max_size=4096))
def test_anything_else_is_no_record_or_names_nobody_wrongly(data: bytes):
    found = read_flight(data)
    assert found is None or not (found.turns or found.now)
    buffer = bytearray(size_of(2))
    FlightRecord(buffer, 2)
    buffer[1024 : 1024 + len(data)] = data
    read_flight(buffer)  # torn cells are left out
