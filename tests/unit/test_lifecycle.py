"""The table of a run's states: where it may go from each, and that it surely ends."""

from __future__ import annotations

import itertools
import pickle
import re
from pathlib import Path

import pytest

from agentray.core.lifecycle import TERMINAL, TRANSITIONS, UNFINISHED, move
from agentray.errors import AgentrayError, IllegalTransition
from agentray.protocol.runs import RunStatus

PAIRS = list(itertools.product(RunStatus, RunStatus))


def reachable(start: RunStatus) -> set[RunStatus]:
    found: set[RunStatus] = set()
    border = {start}
    while border:
        border = {after for status in border for after in TRANSITIONS[status]} - found
        found |= border
    return found


def test_every_status_is_in_the_table_and_nothing_else() -> None:
    assert set(TRANSITIONS) == set(RunStatus)
    assert set(RunStatus) == TERMINAL | UNFINISHED
    assert not TERMINAL & UNFINISHED


def test_every_status_can_be_reached_from_the_first_one() -> None:
    assert reachable(RunStatus.QUEUED) | {RunStatus.QUEUED} == set(RunStatus)


def test_exactly_the_terminal_ones_have_no_exit() -> None:
    assert {status for status, after in TRANSITIONS.items() if not after} == TERMINAL


@pytest.mark.parametrize("status", sorted(UNFINISHED))
def test_from_every_unfinished_status_each_end_can_still_be_reached(status: RunStatus) -> None:
    assert reachable(status) >= TERMINAL


def test_success_is_reached_from_work_alone() -> None:
    before = {status for status, after in TRANSITIONS.items() if RunStatus.SUCCEEDED in after}
    assert before == {RunStatus.RUNNING}


def test_whoever_waits_or_runs_can_be_cancelled() -> None:
    assert all(RunStatus.CANCELLED in TRANSITIONS[status] for status in UNFINISHED)


@pytest.mark.parametrize(("start", "finish"), PAIRS)
def test_a_move_is_made_when_the_table_has_it_and_refused_otherwise(
    start: RunStatus, finish: RunStatus
) -> None:
    if finish in TRANSITIONS[start]:
        assert move("run_1", start, finish) is finish
    else:
        with pytest.raises(IllegalTransition) as caught:
            move("run_1", start, finish)
        assert (caught.value.start, caught.value.finish) == (start.value, finish.value)


def test_an_illegal_move_tells_the_story_of_the_run() -> None:
    story = ("queued", "running on host-1", "succeeded")
    with pytest.raises(IllegalTransition) as caught:
        move("run_7", RunStatus.SUCCEEDED, RunStatus.RUNNING, story)
    assert str(caught.value) == (
        "Run run_7 cannot go from succeeded to running. "
        "Story: queued → running on host-1 → succeeded."
    )
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, AgentrayError)
    assert copy.__dict__ == {
        "subject": "Run run_7",
        "start": "succeeded",
        "finish": "running",
        "story": story,
    }


def test_no_status_may_be_left_for_itself() -> None:
    assert [status for status, after in TRANSITIONS.items() if status in after] == []


def test_the_picture_in_the_guide_is_that_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/guide/lifecycle.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^    (\S+) --> (\S+)$", page, re.MULTILINE))
    moves = {(start.value, end.value) for start, ends in TRANSITIONS.items() for end in ends}
    ends = {(status.value, "[*]") for status in TERMINAL}
    assert drawn == moves | ends | {("[*]", "queued")}
    assert {status.value for status in RunStatus} == set(
        re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    )
