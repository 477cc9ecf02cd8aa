"""Anything is killed at any time: what was promised is kept."""

from __future__ import annotations

import pytest

from agentray import ManagerClient
from tests.chaos.run import on_cluster
from tests.support.cluster import Cluster

pytestmark = pytest.mark.timeout(400)


async def test_promises_are_kept_whatever_is_killed(cluster: Cluster, manager: ManagerClient):
    verdict = await on_cluster(cluster, manager, seed=7, seconds=25)
    assert verdict.found == [], verdict.table()
