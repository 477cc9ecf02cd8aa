"""The manager actor as seen from other processes."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import (
    RayActorError,
    RayTaskError,
)

from agentray.errors import (
    ClusterNotRunning,
    ManagerUnavailable,
    StoreUnavailable,
)
from agentray.protocol.codec import encode
from agentray.runtime.ray_adapter.setup import MAX_CONCURRENCY, NAMESPACE, Setup, reason_of

MANAGER_NAME = "agentray-manager"

_LOOKS = frozenset(
    {"agents", "cancel_run", "dead_letters", "pools", "status", "subscriptions", "trace", "traces"}
)
_LOOK_ATTEMPTS, _LOOK_PAUSE_S = 20, 0.5
"""Methods of the manager that change nothing, or nothing more when they are repeated; its restart
takes a few seconds."""


class RayManager:
    """The manager actor as seen from another process."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def find(cls) -> RayManager:
        """Return the manager of the connected cluster.

        Raises:
            ClusterNotRunning: the Ray cluster runs no agentray.
        """
        try:
            return cls(ray.get_actor(MANAGER_NAME, NAMESPACE))
        except ValueError:
            raise ClusterNotRunning(
                "The Ray cluster is there, but agentray is not running on it. Start it with "
                "`agentray up MODULE:APP`."
            ) from None

    @classmethod
    def create(cls, setup: Setup) -> RayManager:
        """Begin to start the manager."""
        # Here, because the manager's own process needs this module's way to the manager, too.
        from agentray.runtime.ray_adapter.manager_actor import ManagerActor

        actor = ray.remote(ManagerActor).options(
            name=MANAGER_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,  # a caller that was in doubt asks again by itself
            max_concurrency=MAX_CONCURRENCY,
        )
        return cls(actor.remote(encode(setup)))

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the manager; what only looks is repeated while it restarts.

        Raises:
            ManagerUnavailable: it does not answer just now.
            AgentrayError: what it raised.
        """
        attempts = _LOOK_ATTEMPTS if method in _LOOKS else 1
        for _ in range(attempts - 1):
            try:
                return await self._call(method, *args)
            except ManagerUnavailable:
                await asyncio.sleep(_LOOK_PAUSE_S)
        return await self._call(method, *args)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*args)
        except RayTaskError as error:
            if isinstance(error.cause, StoreUnavailable):
                raise ManagerUnavailable(f"The manager waits: {error.cause}") from error
            raise error.cause from error
        except RayActorError as error:
            raise ManagerUnavailable(f"The manager does not answer: {reason_of(error)}") from error

    async def wait_ready(self) -> None:
        """Return when it supervises."""
        await self.call("ready")

    async def shutdown(self, grace_s: float) -> None:
        """Stop the hosts and the manager itself."""
        await self.call("shutdown", grace_s)
        ray.kill(self._handle)
