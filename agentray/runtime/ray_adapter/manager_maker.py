"""Bringing the manager back: its process when it hangs, the actor when it is gone for good."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging

import ray
from ray.exceptions import RayError

from agentray.core.leadership import Lead
from agentray.errors import AgentrayError
from agentray.runtime.ray_adapter.ray_manager import MANAGER_NAME, RayManager, place_of
from agentray.runtime.ray_adapter.setup import NAMESPACE, Setup

logger = logging.getLogger(__name__)


class RayManagerMaker:
    """A `ManagerMaker` for hosts and gateway replicas."""

    def __init__(self, setup: Setup) -> None:
        """Know what a manager needs to begin."""
        self._setup = setup

    async def exists(self) -> bool:
        """See `ManagerMaker`."""
        try:
            await asyncio.to_thread(ray.get_actor, MANAGER_NAME, NAMESPACE)
        except ValueError:
            return False
        except RayError:
            return True
        return True

    async def restart(self, lead: Lead) -> None:
        """See `ManagerMaker`."""
        await asyncio.to_thread(_kill_process, lead.place)

    async def make(self) -> None:
        """See `ManagerMaker`; where a runtime_env is in force, the manager would inherit it."""
        if ray.get_runtime_context().runtime_env:
            logger.info("left to others", extra={"action": "manager_left_to_others"})
            return
        try:
            manager = await asyncio.to_thread(RayManager.create, self._setup)
            await manager.wait_ready()  # it begins with its first request
        except (AgentrayError, RayError) as error:
            extra = {"action": "manager_not_made"}
            logger.warning("the manager was not made here: %s", error, extra=extra)


def _kill_process(place: str) -> None:
    """Kill the manager's process. One that does not react to Ray is killed by its node in 5 s."""
    try:
        actor = ray.get_actor(MANAGER_NAME, NAMESPACE)
        # Ray tells nobody else by a public name which actor a handle is of.
        actor_id = actor._actor_id.hex()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if place == place_of(actor_id):
            ray.kill(actor, no_restart=False)
            return
        told = "another manager has its name"
    except (ValueError, RayError) as error:
        told = str(error)
    extra = {"action": "manager_not_restarted"}
    logger.error("the manager cannot be restarted: %s", told, extra=extra)
