"""Chaos in one process and in virtual time: what was promised is kept, whatever the seed."""

from __future__ import annotations

import pytest

from agentray.testing import run
from tests.chaos.blows import CLUSTER, LOCAL, plan
from tests.chaos.run import locally


@pytest.mark.parametrize("seed", [1, 2])
def test_promises_are_kept_whatever_happens(seed: int) -> None:
    verdict = run(locally(seed, 12.0))
    assert verdict.found == [], verdict.table()


def test_what_happens_is_decided_by_the_seed_and_each_kind_comes() -> None:
    blows = plan(7, 60, CLUSTER)
    assert blows == plan(7, 60, CLUSTER)
    assert blows != plan(8, 60, CLUSTER)
    assert {blow.what for blow in blows} == set(CLUSTER)
    assert [blow.at_s for blow in blows] == sorted(blow.at_s for blow in blows)
    assert all(0 < blow.at_s < 60 for blow in blows)
    assert {blow.what for blow in plan(7, 60, LOCAL)} == set(LOCAL)
