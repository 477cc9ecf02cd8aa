"""A whole system in this process: agents on local hosts, gateways on sockets before them."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from agentray import App, ManagerClient
from agentray.client import AsyncAgentClient
from agentray.config import Settings
from agentray.gateway.app import build_app
from agentray.gateway.services import Services
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.newest import NewestSnapshot
from agentray.runtime.watcher import SnapshotWatcher
from agentray.testing import LocalRuntime
from tests.support.gateway import KEY, Hosts, api_key


class _Asked:
    """The runtime's manager, whichever it is just now."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self._runtime.manager, method)(*args)


@asynccontextmanager
async def channel_to(runtime: LocalRuntime, *, hears: bool = True) -> AsyncGenerator[Channel]:
    """Connect another process, as it were, which hears of every new placement, or of none."""
    channel = Channel(runtime.network)
    watcher = SnapshotWatcher(_Asked(runtime), channel)
    await watcher.start()
    if not hears:
        await watcher.close()
    try:
        yield channel
    finally:
        await watcher.close()
        await channel.close()


class Replica:
    """One gateway process, as far as those can tell who ask it."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.app = build_app(services)
        self.url = ""
        self._server: uvicorn.Server | None = None
        self._listener: socket.socket | None = None

    async def start(self, port: int = 0) -> None:
        """Serve on a port of loopback; 0: any that is free."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self.app, ws="none", log_config=None, proxy_headers=False, timeout_graceful_shutdown=0
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._server, self._listener = server, listener

    async def stop(self) -> None:
        """Break all connections and end."""
        if self._server is not None and self._listener is not None:
            server, self._server = self._server, None
            server.force_exit = True
            await server.shutdown(sockets=[self._listener])
            await server.lifespan.shutdown()  # a forced exit leaves it waiting

    def renew(self) -> None:
        """Be another process, which `start` begins."""
        self.app = build_app(self.services)

    def client(self, **options: Any) -> AsyncAgentClient:
        return AsyncAgentClient(self.url, KEY, **options)


class LocalGateways:
    """Agents, and gateways before them.

    Attributes:
        runtime: the hosts.
        manager: a driver's connection.
        replicas: the gateways.
    """

    def __init__(
        self, runtime: LocalRuntime, manager: ManagerClient, replicas: Sequence[Replica]
    ) -> None:
        self.runtime = runtime
        self.manager = manager
        self.replicas = replicas

    def client(self, **options: Any) -> AsyncAgentClient:
        return self.replicas[0].client(**options)


@asynccontextmanager
async def local_gateways(
    *apps: App, home: Path, hosts: int = 2, replicas: int = 1, **settings: Any
) -> AsyncGenerator[LocalGateways]:
    """Deploy apps on local hosts, and serve gateways before them.

    Args:
        apps: which.
        home: a directory.
        hosts: how many.
        replicas: likewise, of the gateway.
        settings: of the gateways; with `hears=False` they hear of what is deployed later only when
            they ask.
    """
    hears = settings.pop("hears", True)
    runtime = LocalRuntime(hosts=hosts)
    async with runtime as manager, AsyncExitStack() as stack:
        await runtime.store.put_key(api_key(KEY, "admin"))
        for app in apps:
            await manager.deploy(app)
        made: list[Replica] = []
        for _ in range(replicas):
            channel = await stack.enter_async_context(channel_to(runtime, hears=hears))
            newest = NewestSnapshot(_Asked(runtime), channel)
            stack.push_async_callback(newest.close)
            dispatcher = ChannelDispatcher(channel, newest.wait)
            services = Services(Settings(home=home, **settings), runtime.store, dispatcher, Hosts())
            replica = Replica(services)
            await replica.start()
            stack.push_async_callback(replica.stop)
            made.append(replica)
        yield LocalGateways(runtime, manager, made)
