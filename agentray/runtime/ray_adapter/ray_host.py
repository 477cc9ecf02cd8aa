"""Host actors as seen from other processes."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from agentray.core.deaths import Death, Evidence, death_of
from agentray.errors import (
    ClusterNotRunning,
    ManagerUnavailable,
)
from agentray.ids import AgentId
from agentray.protocol.envelope import Packet
from agentray.protocol.snapshot import HostRef, Snapshot
from agentray.runtime.host_notes import read_notes
from agentray.runtime.machine_socket import SocketPort, nbytes
from agentray.runtime.ports import HostControl, HostGone, HostUnreachable
from agentray.runtime.ray_adapter.ray_manager import RayManager
from agentray.runtime.ray_adapter.setup import NAMESPACE, reason_of

_BY_REFERENCE = 4 << 20
"""Bytes of a request from which on Ray's object store is quicker than the machine's socket."""


class RayHost:
    """A host actor as a `HostControl`."""

    def __init__(self, ref: HostRef, handle: Any = None) -> None:
        self._ref = ref
        self._handle = handle
        self._methods: dict[str, Any] = {}  # Ray makes a new object at each access
        self._socket: SocketPort | None = None  # past Ray, on the same machine
        self._looked_for_socket = False

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            remote = self._methods.get(method) or await self._find(method)
            return await remote(*args)
        except ActorUnavailableError as error:
            raise HostUnreachable(str(error)) from error
        except RayTaskError as error:
            # Raised inside the host: it arrives as itself.
            raise error.cause from error
        except (RayActorError, RuntimeEnvSetupError) as error:
            death = _death_of(self._ref.id, reason_of(error))
            raise HostGone(death.reason, death) from error
        except ValueError as error:
            death = _death_of(self._ref.id, f"there is no actor {self._ref.actor_name}")
            raise HostGone(death.reason, death) from error
        except RayError as error:
            # The object store is full, or a part of the request was lost: the link asks again.
            raise HostUnreachable(reason_of(error)) from error

    async def _find(self, method: str) -> Any:
        if self._handle is None:
            # A blocking look-up at the GCS, once per host and process.
            self._handle = await asyncio.to_thread(ray.get_actor, self._ref.actor_name, NAMESPACE)
        remote = self._methods[method] = getattr(self._handle, method).remote
        return remote

    async def start(self, setup: bytes) -> dict[str, Any]:
        """See `ports.HostControl`."""
        return await self._call("start", setup)

    async def deliver(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        if not self._looked_for_socket:
            self._looked_for_socket = True
            self._socket = await SocketPort.connect(self._ref.id)
        if self._socket is not None and not self._socket.lost and nbytes(packet) < _BY_REFERENCE:
            return await self._socket.deliver(packet)
        # Each part is an argument of its own: Ray puts it into the object store, and the host
        # reads it there without a copy.
        return await self._call("deliver", *(packet if isinstance(packet, list) else (packet,)))

    async def collect(self, packet: Packet) -> Packet:
        """See `ports.HostPort`."""
        if self._socket is not None and not self._socket.lost:
            return await self._socket.collect(packet)
        return await self._call("collect", packet)

    def close(self) -> None:
        """See `ports.HostPort`."""
        if self._socket is not None:
            self._socket.close()

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """See `ports.HostControl`."""
        await self._call("update", snapshot, epochs)

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """See `ports.HostControl`."""
        return await self._call("load", apps)

    async def check(self, app: str) -> str:
        """See `ports.HostControl`."""
        return await self._call("check", app)

    async def release(
        self, pool: str, slots: Sequence[int], grace_s: float, together: bool
    ) -> Sequence[int]:
        """See `ports.HostControl`."""
        return await self._call("release", pool, slots, grace_s, together)

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """See `ports.HostControl`."""
        return await self._call("end_runs", app, cancel, wait_s)

    async def heartbeat(self) -> dict[str, Any]:
        """See `ports.HostControl`."""
        return await self._call("heartbeat")

    async def until_death(self) -> str:
        """See `ports.HostControl`."""
        return await self._call("until_death")

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `ports.HostControl`."""
        return await self._call("resident", agent_type, limit)

    async def stop(self, grace_s: float) -> None:
        """See `ports.HostControl`."""
        await self._call("stop", grace_s)


def _death_of(host_id: str, words: str) -> Death:
    """Tell how a host ended; its own notes say most, where this process is on its machine."""
    notes = read_notes(host_id)
    return death_of(Evidence(words)) if notes is None else notes.death(words)


class RayConnector:
    """Finds host actors by name."""

    def connect(self, host: HostRef) -> HostControl:
        """Return the port of a host; see `ports.Connector`."""
        return RayHost(host)

    async def let_out(self, agent: AgentId) -> bool:
        """Let an agent out of quarantine; see `ports.Connector`."""
        return await (await _manager()).call("release_agent", agent)

    async def seat(self, agent: AgentId) -> Snapshot:
        """Have a host started for an isolated agent; see `ports.Connector`."""
        return await (await _manager()).call("seat", agent)

    async def about(self, agent: AgentId, what: str) -> dict[str, Any] | None:
        """Say what there is to say of an agent without a host; see `ports.Connector`."""
        return await (await _manager()).call("about", agent, what)


async def _manager() -> RayManager:
    try:
        return await asyncio.to_thread(RayManager.find)
    except ClusterNotRunning as error:
        raise ManagerUnavailable(str(error)) from error
