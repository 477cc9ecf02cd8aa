"""One command at a time puts up or takes down what a home has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentray.cli.home_claim import Plan, claimed, look_for_plan
from agentray.errors import CommandUnderWay, ConfigurationError

KILLED = """
import os, signal, sys
from pathlib import Path
from agentray.cli.home_claim import Plan, claimed
with claimed(Path(sys.argv[1]), "up") as claim:
    claim.write(Plan(command="up", pid=os.getpid(), mark="m", embedded_database=True))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_second_is_told_who_has_the_home(tmp_path: Path):
    with (
        claimed(tmp_path, "up"),
        pytest.raises(CommandUnderWay) as refused,
        claimed(tmp_path, "down"),
    ):
        pass
    assert refused.value.command == "up"
    assert refused.value.pid == os.getpid()
    assert str(os.getpid()) in str(refused.value)


def test_a_claim_that_is_given_up_leaves_nothing_behind(tmp_path: Path):
    home = tmp_path / "made"
    with claimed(home, "up") as claim:
        assert claim.left is None
    assert list(home.iterdir()) == []
    with claimed(home, "down") as claim:
        assert claim.left is None


def test_what_a_killed_command_had_planned_is_found_until_it_is_settled(tmp_path: Path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    for _ in range(2):
        with claimed(tmp_path, "down") as claim:
            left = claim.left
        assert left is not None
        assert (left.mark, left.embedded_database) == ("m", True)
        assert look_for_plan(tmp_path) == left
    with claimed(tmp_path, "up") as claim:
        claim.settle()
    assert look_for_plan(tmp_path) is None


def test_a_plan_that_is_not_settled_stays(tmp_path: Path):
    plan = Plan(command="up", pid=os.getpid(), mark="m")
    with claimed(tmp_path, "up") as claim:
        claim.write(plan)
    with claimed(tmp_path, "up") as claim:
        assert claim.left == plan


@pytest.mark.parametrize("home", ["/proc/nope", "/sys/nope"])
def test_a_home_that_cannot_be_made_is_named_with_its_setting(home: str):
    told = f"{home} cannot be used.*AGENTRAY_HOME"
    with pytest.raises(ConfigurationError, match=told), claimed(Path(home), "up"):
        pass
