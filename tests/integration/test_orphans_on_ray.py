"""Actors that are left over on a real cluster are found and ended; other people's are not."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util import list_named_actors

from agentray import ManagerClient
from agentray.core.orphans import actor_name
from agentray.ids import new_id
from tests.support.cluster import Cluster, until_complete
from tests.support.eventually import eventually_async

pytestmark = pytest.mark.timeout(300)


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
    for number in range(3):
        lost = actor_name(f"host_lost{number}", mark)
        foreign = actor_name("host_foreign", new_id("other"))
        if await looked_at_and_ended(cluster, manager, lost, foreign):
            break
        # The manager itself looks once a minute, and was there first; it has time until then.
        ended = [line["orphan"] for line in cluster.logged("orphan_reaped")]
        assert ended.count(lost) == 1
        assert foreign not in ended
    else:
        pytest.fail("The manager looks more often than once a minute.")
    assert await until_complete(manager) == before


async def looked_at_and_ended(
    cluster: Cluster, manager: ManagerClient, lost: str, foreign: str
) -> bool:
    """Return False when somebody else has ended what was left over in the midst of it."""
    options = {"namespace": "agentray", "lifetime": "detached", "num_cpus": 0}
    made: list[Any] = [
        ray.remote(leftover()).options(name=name, **options).remote() for name in (lost, foreign)
    ]
    try:
        assert await made[1].alive.remote()
        if not await lives(made[0]):
            return False
        looked = await asyncio.to_thread(cluster.agentray, "gc", "--dry-run")
        assert looked.exit_code == 0, looked
        assert foreign not in looked.stdout
        would_end = f"actor {lost}: would be ended" in looked.stdout.replace("\n", " ")
        if not await lives(made[0]):
            return False
        assert would_end, looked
        told = [(orphan["kind"], orphan["name"]) for orphan in await manager.gc()]
        if not told:
            return False
        assert told == [("actor", lost)]
        await eventually_async(lambda: _is_forgotten(lost), timeout_s=60)  # Ray forgets it soon
        assert await made[1].alive.remote()
    finally:
        for actor in made:
            with contextlib.suppress(ValueError):
                ray.kill(actor)
    return True


async def lives(actor: Any) -> bool:
    try:
        return await actor.alive.remote()
    except RayActorError:
        return False
