"""Actors that are left over on a real cluster are found and ended; other people's are not."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import ray
from ray.util import list_named_actors

from agentray import ManagerClient
from agentray.core.orphans import actor_name
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async

pytestmark = pytest.mark.timeout(180)


async def _is_forgotten(name: str) -> bool:
    named: Any = list_named_actors(all_namespaces=True)
    return all(actor["name"] != name for actor in named)


def leftover() -> type:
    """Return the class of an actor as a host's is, of which nobody knows.

    Made here, so that it travels as it is: workers cannot import tests.
    """

    class Leftover:
        def alive(self) -> bool:
            return True

    return Leftover


async def test_gc_ends_the_actors_that_no_row_knows_and_leaves_those_of_others(
    cluster: Cluster, manager: ManagerClient
):
    before = await until_complete(manager)
    named: Any = list_named_actors(all_namespaces=True)
    mark = next(a["name"].partition("@")[2] for a in named if "-host_" in a["name"])
    names = [actor_name("host_lost", mark), actor_name("host_foreign", "cluster_other")]
    options = {"namespace": "agentray", "lifetime": "detached", "num_cpus": 0}
    made: list[Any] = [
        ray.remote(leftover()).options(name=name, **options).remote() for name in names
    ]
    try:
        for actor in made:
            assert await actor.alive.remote()
        looked = cluster.agentray("gc", "--dry-run")
        assert looked.exit_code == 0, looked
        assert f"actor {names[0]}: would be ended" in looked.stdout.replace("\n", " ")
        assert names[1] not in looked.stdout
        assert await made[0].alive.remote()
        told = await manager.gc()
        assert [(o["kind"], o["name"]) for o in told] == [("actor", names[0])]
        await eventually_async(lambda: _is_forgotten(names[0]), timeout_s=30)  # Ray forgets it soon
        assert await made[1].alive.remote()
        assert await until_complete(manager) == before
    finally:
        for actor in made:
            with contextlib.suppress(ValueError):
                ray.kill(actor)
