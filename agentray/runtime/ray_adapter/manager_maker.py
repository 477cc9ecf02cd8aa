"""Bringing the manager back: its process when it hangs, the actor when it is gone for good."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import RayError

from agentray.core.leadership import Lead, Standing
from agentray.errors import AgentrayError
from agentray.runtime.ray_adapter.ray_manager import MANAGER_NAME, RayManager, place_of
from agentray.runtime.ray_adapter.setup import NAMESPACE, Setup

logger = logging.getLogger(__name__)

_SERVES = ("RAY_SERVE_", "SERVE_")


class RayManagerMaker:
    """A `ManagerMaker` for hosts and gateway replicas."""

    def __init__(self, setup: Setup) -> None:
        """Know what a manager needs to begin."""
        self._setup = setup

    async def standing(self, lead: Lead) -> Standing:
        """See `ManagerMaker`."""
        try:
            actor = await asyncio.to_thread(ray.get_actor, MANAGER_NAME, NAMESPACE)
        except ValueError:
            return Standing.NOBODY
        except RayError:
            return Standing.ITSELF
        return Standing.ITSELF if _place_of(actor) == lead.place else Standing.ANOTHER

    async def restart(self, lead: Lead) -> None:
        """See `ManagerMaker`; a process that does not react to Ray is killed by its node in 5 s."""
        try:
            actor = await asyncio.to_thread(ray.get_actor, MANAGER_NAME, NAMESPACE)
            if _place_of(actor) == lead.place:
                await asyncio.to_thread(ray.kill, actor, no_restart=False)
                return
            told = "another manager has its name"
        except (ValueError, RayError) as error:
            told = str(error)
        extra = {"action": "manager_not_restarted"}
        logger.error("the manager cannot be restarted: %s", told, extra=extra)

    async def make(self) -> None:
        """See `ManagerMaker`.

        It would inherit the runtime_env of this process, and its hosts that of it: a host whose
        pool has one leaves it to others. That of gateway replicas has only variables of Serve's.
        """
        env = dict(ray.get_runtime_context().runtime_env)
        names = set(env.pop("env_vars", {}))
        if env or any(not name.startswith(_SERVES) for name in names):
            told = ", ".join(sorted({*env, *names}))
            extra = {"action": "manager_left_to_others"}
            logger.info("left to others: it would inherit %s", told, extra=extra)
            return
        try:
            manager = await asyncio.to_thread(RayManager.create, self._setup)
            await manager.wait_ready()  # it begins with its first request
        except (AgentrayError, RayError) as error:
            extra = {"action": "manager_not_made"}
            logger.warning("the manager was not made here: %s", error, extra=extra)


def _place_of(actor: Any) -> str:
    # Ray tells nobody else by a public name which actor a handle is of.
    return place_of(actor._actor_id.hex())  # noqa: SLF001 - Ray shows it nowhere else
