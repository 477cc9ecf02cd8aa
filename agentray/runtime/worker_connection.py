"""The connection that a Ray task or actor gets when it uses a handle, without asking for it.

It lives on an event loop in a thread of its own, one for the whole process, from the first use to
the end of the process.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from agentray import event_loop
from agentray.config import Settings
from agentray.context import Caller
from agentray.errors import ManagerUnavailable
from agentray.runtime.bridge import Bridge
from agentray.runtime.channel import Channel
from agentray.runtime.watcher import SnapshotWatcher

_CONNECT_S = 30.0
"""How long the first use of a handle waits for the manager."""

_CLOSE_S = 5.0
"""How long the end of the process waits for the end of the connection."""


class BackgroundConnection:
    """A connection in a thread of its own, made by whoever needs it first."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Caller]]) -> None:
        """Connect nothing yet.

        Args:
            connect: connects on the running event loop, and gives the caller.
        """
        self._connect = connect
        self._lock = threading.Lock()
        self._bridge: Bridge | None = None
        self._thread: threading.Thread | None = None
        self._closing = asyncio.Event()

    def caller(self) -> Caller:
        """Return its caller, for any event loop and thread; connects, and waits, on first use.

        Raises:
            AgentrayError: it does not connect; the next use tries again.
        """
        bridge = self._bridge
        if bridge is not None and not bridge.loop.is_closed():
            return bridge
        with self._lock:
            if self._bridge is None or self._bridge.loop.is_closed():
                self._bridge = self._start()
            return self._bridge

    def _start(self) -> Bridge:
        connected: Future[Bridge] = Future()
        self._thread = threading.Thread(
            target=lambda: event_loop.run(self._live(connected)),
            name="agentray-connection",
            daemon=True,
        )
        self._thread.start()
        try:
            bridge = connected.result()
        except BaseException:
            connected.cancel()  # interrupted: nobody wants it
            raise
        atexit.unregister(self.close)
        atexit.register(self.close)  # before Ray's own, which was registered earlier
        return bridge

    async def _live(self, connected: Future[Bridge]) -> None:
        """Connect, tell it, and stay until `close`."""
        self._closing = asyncio.Event()  # of this thread's loop
        try:
            async with self._connect() as caller:
                if connected.set_running_or_notify_cancel():
                    connected.set_result(Bridge(caller))
                    await self._closing.wait()
        except BaseException as error:  # it is raised where somebody waits for the connection
            if connected.done():
                raise
            connected.set_exception(error)

    def close(self) -> None:
        """End the connection and its thread; the next use makes a new one."""
        with self._lock:
            bridge, self._bridge = self._bridge, None
            if bridge is None or self._thread is None or bridge.loop.is_closed():
                return
            bridge.loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(_CLOSE_S)


@asynccontextmanager
async def _to_manager() -> AsyncGenerator[Caller]:
    """Connect to the cluster that this process belongs to."""
    from agentray.runtime import ray_adapter

    manager = await asyncio.to_thread(ray_adapter.RayManager.find)
    channel = Channel(ray_adapter.RayConnector(), batch=Settings().batch)
    watcher = SnapshotWatcher(manager, channel)
    try:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await watcher.start()
        except TimeoutError:
            raise ManagerUnavailable(f"The manager did not answer in {_CONNECT_S:g} s.") from None
        yield channel
    finally:
        await watcher.close()
        await channel.close()


_connection = BackgroundConnection(_to_manager)


def worker_caller() -> Caller | None:
    """Return the caller of a process that runs Ray tasks or a Ray actor; None in any other."""
    if "ray" not in sys.modules:
        return None  # importing it takes a second
    from agentray.runtime import ray_adapter

    return _connection.caller() if ray_adapter.is_worker() else None
