"""A host as an actor: the side that runs in the host's own process."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from agentray import logs, telemetry
from agentray.context import bind_process
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Packet
from agentray.protocol.snapshot import Snapshot
from agentray.runtime import collector
from agentray.runtime.host import Host
from agentray.runtime.host_notes import HostNotes
from agentray.runtime.machine_socket import SocketServer
from agentray.runtime.manager_watch import ManagerWatch
from agentray.runtime.ports import HostUnreachable
from agentray.runtime.ray_adapter.manager_maker import RayManagerMaker
from agentray.runtime.ray_adapter.metrics import RayMetrics
from agentray.runtime.ray_adapter.ray_host import RayConnector
from agentray.runtime.ray_adapter.setup import Setup
from agentray.store.postgres import PostgresStore

_BEAT_S = 1.0


async def _beat(notes: HostNotes) -> None:
    while True:
        notes.beat()
        await asyncio.sleep(_BEAT_S)


class HostActor:
    """A `Host` in a process of its own."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self._host: Host | None = None
        self._server: SocketServer | None = None
        self._stops = False
        self._notes: HostNotes | None = None
        self._watch: ManagerWatch | None = None

    @property
    def _running(self) -> Host:
        if self._stops:
            raise HostUnreachable(f"{self._host_id} is being stopped.")
        return self._answering

    @property
    def _answering(self) -> Host:
        """Also while it stops: senders fetch the replies of what it finishes."""
        if self._host is None:
            raise HostUnreachable(f"{self._host_id} does not run.")
        return self._host

    async def start(self, setup: bytes) -> dict[str, Any]:
        """Open the Store and make the host."""
        if self._host is None:
            options: Setup = decode(setup)
            logs.configure(options.log_level, process=self._host_id)
            telemetry.start(self._host_id)
            store = PostgresStore(options.database_url, limits=options.database)
            await store.open()
            notes = self._notes = HostNotes(self._host_id)
            self._host = Host(
                self._host_id,
                store,
                RayConnector(),
                threads=options.threads,
                blocked_warning_s=options.blocked_warning_s,
                max_state_bytes=options.max_state_bytes,
                max_runs=options.max_runs,
                max_attempts=options.max_attempts,
                batch=options.batch,
                metrics=RayMetrics() if options.metrics_interval_s else None,
                metrics_interval_s=options.metrics_interval_s,
                record=notes.record,
            )
            self._host.tasks.spawn(_beat(notes), name="beat")
            self._watch = ManagerWatch(store, RayManagerMaker(options))
            self._host.tasks.spawn(self._watch.run(), name="watch the manager")
            bind_process(self._host.channel)
            self._server = SocketServer(self._host.deliver, self._host.collect)
            await self._server.start(self._host_id)
        node = ray.get_runtime_context().get_node_id()
        return {"node_id": node, "pid": os.getpid()}

    async def deliver(self, frame: bytes, *parts: Any) -> Packet:
        """See `ports.HostPort`; parts that are large come through Ray's object store."""
        return await self._answering.deliver([frame, *parts] if parts else frame)

    async def collect(self, frame: bytes) -> Packet:
        """See `ports.HostPort`."""
        return await self._answering.collect(frame)

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """See `ports.HostControl`."""
        await self._running.update(snapshot, epochs)

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """See `ports.HostControl`."""
        failures = await self._running.load(apps)
        collector.settle()
        return failures

    async def check(self, app: str) -> str:
        """See `ports.HostControl`."""
        return await self._running.check(app)

    async def release(
        self, pool: str, slots: Sequence[int], grace_s: float, together: bool
    ) -> Sequence[int]:
        """See `ports.HostControl`."""
        return await self._running.release(pool, slots, grace_s, together)

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """See `ports.HostControl`."""
        return await self._running.end_runs(app, cancel, wait_s)

    async def heartbeat(self) -> dict[str, Any]:
        """See `ports.HostControl`."""
        if self._watch is not None:
            self._watch.heard()
        return self._running.heartbeat()

    async def until_death(self) -> str:
        """See `ports.HostControl`."""
        return await asyncio.get_running_loop().create_future()

    async def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `ports.HostControl`."""
        return self._running.resident(agent_type, limit)

    async def stop(self, grace_s: float) -> None:
        """See `ports.HostControl`."""
        host = self._running
        self._stops = True
        await host.stop(grace_s)
        self._host = None
        if self._server is not None:
            self._server.close()
        await host.store.close()
        if self._notes is not None:
            self._notes.close()
        await asyncio.to_thread(telemetry.flush)
