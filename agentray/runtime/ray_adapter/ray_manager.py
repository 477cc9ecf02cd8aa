"""The manager actor as seen from other processes."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from agentray.errors import (
    ClusterAlreadyRunning,
    ClusterNotRunning,
    ManagerSuperseded,
    ManagerUnavailable,
    StoreUnavailable,
)
from agentray.protocol.codec import encode
from agentray.runtime.ray_adapter.setup import (
    HEAD,
    MAX_CONCURRENCY,
    NAMESPACE,
    Setup,
    reason_of,
)

logger = logging.getLogger(__name__)

MANAGER_NAME = "agentray-manager"

_REPEATED = frozenset(
    {
        *(
            "agent_of_run",
            "agents",
            "answer_run",
            "cancel_run",
            "dead_letter",
            "dead_letters",
            "find_launched",
            "get_state",
            "list_states",
            "purge_dead_letters",
            "retry_dead_letter",
        ),
        *("pools", "status", "subscriptions", "trace", "traces", "until_placed"),
        *("about", "seat", "renew_driver", "end_driver", "subscribe", "stop_app"),
        "check_removable",
        *("gc", "add_pool", "update_pool", "set_default_pool", "end_runs"),
    }
)
"""Methods of the manager that change nothing, or nothing more when they are called again: asked
again while it restarts, which takes a few seconds. Of others the caller must decide."""

_ATTEMPTS, _PAUSE_S = 40, 0.5
_ALIVE_EVERY_S, _ALIVE_TIMEOUT_S = 10.0, 10.0


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
                "`agentray up MODULE:APP`. If it ran a moment ago, its manager is being made anew: "
                "try again in half a minute."
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
            # The head has this, which lives as long as the cluster does: a manager on another
            # machine would be missing for long when that is lost, and where its agents are.
            resources={HEAD: 0.001},
            max_restarts=-1,
            max_task_retries=0,  # a caller that was in doubt asks again by itself
            max_concurrency=MAX_CONCURRENCY,
        )
        try:
            return cls(actor.remote(encode(setup)))
        except ValueError as error:  # Ray's word for a name that is taken
            raise ClusterAlreadyRunning(
                "A manager of agentray runs on this Ray cluster already. Take it down where it was "
                "started, with `agentray down`, or use another Ray cluster."
            ) from error

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the manager; what bears it is repeated while it restarts.

        Raises:
            ManagerUnavailable: it does not answer just now.
            AgentrayError: what it raised.
        """
        attempts = _ATTEMPTS if method in _REPEATED else 1
        for _ in range(attempts - 1):
            try:
                return await self._call(method, *args)
            except ManagerUnavailable:
                await asyncio.sleep(_PAUSE_S)
        return await self._call(method, *args)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await self._answer(method, args)
        except RayTaskError as error:
            if isinstance(error.cause, StoreUnavailable):
                raise ManagerUnavailable(f"The manager waits: {error.cause}") from error
            raise error.cause from error
        except RayActorError as error:
            await self._find_again()
            raise ManagerUnavailable(f"The manager does not answer: {reason_of(error)}") from error

    async def _find_again(self) -> None:
        """Look for another actor of the name: one that was ended for good is made anew."""
        try:
            self._handle = await asyncio.to_thread(ray.get_actor, MANAGER_NAME, NAMESPACE)
        except (ValueError, RayError):
            return  # there is none yet

    async def _answer(self, method: str, args: tuple[Any, ...]) -> Any:
        """Wait for an answer as long as the manager's process is heard of.

        A request may take minutes; a process that was stopped, or hangs, would never answer.

        Raises:
            ManagerUnavailable: it does not answer even whether it is alive.
        """
        answer = getattr(self._handle, method).remote(*args).as_future()
        try:
            while not (await asyncio.wait((answer,), timeout=_ALIVE_EVERY_S))[0]:
                try:
                    async with asyncio.timeout(_ALIVE_TIMEOUT_S):
                        await self._handle.alive.remote()
                except TimeoutError:
                    raise ManagerUnavailable(
                        f"The manager has not answered for {_ALIVE_TIMEOUT_S:g} s: its process "
                        "hangs or was stopped. Agents go on meanwhile."
                    ) from None
            return await answer
        finally:
            answer.cancel()

    async def wait_ready(self) -> None:
        """Return when it supervises."""
        await self.call("ready")

    async def shutdown(self, grace_s: float) -> None:
        """Stop the hosts and the manager itself."""
        try:
            await self.call("shutdown", grace_s)
        except ManagerSuperseded as error:
            logger.warning("%s", error, extra={"action": "shutdown_of_superseded"})
        finally:
            ray.kill(self._handle)


def place_of(actor_id: str | None) -> str:
    """Return what a manager's actor has in common with its restarts, see `Candidate`."""
    return f"{ray.get_runtime_context().gcs_address}/{actor_id}"
