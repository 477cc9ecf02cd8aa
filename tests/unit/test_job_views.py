"""What is asked of the cluster: Ray is not asked for ids that none of its parts can have."""

from __future__ import annotations

import pytest

from agentray.jobs.views import Selection

NODE, TASK, ACTOR = "0a" * 28, "0a" * 24, "0a" * 16


@pytest.mark.parametrize("name", ["node_id", "task_id", "actor_id", "job_id"])
@pytest.mark.parametrize(
    "value", ["", "nope", "ff", "\n", NODE + "\n", "g" * 56, "\0", "é" * 32, " " + ACTOR]
)
def test_an_id_that_cannot_be_is_not_asked_for(name: str, value: str) -> None:
    assert not Selection(filters={"state": "ALIVE", name: value}).possible


def test_whatever_may_be_there_is_asked_for() -> None:
    for filters in (
        {},
        {"node_id": NODE, "state": "nope"},
        {"task_id": TASK, "name": ""},
        {"actor_id": ACTOR, "job_id": "01000000"},
    ):
        assert Selection(filters=filters).possible
