"""The gateway as a Ray Serve deployment."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import BackpressureConfig
from ray.serve.schema import ApplicationStatus

from agentray import logs, telemetry
from agentray.config import Settings
from agentray.context import bind_process
from agentray.errors import StartFailed
from agentray.gateway import readiness
from agentray.gateway.app import build_app
from agentray.gateway.capacity import RETRY_AFTER_S
from agentray.gateway.cluster_parts import ClusterParts
from agentray.gateway.serve_options import deployment_options
from agentray.gateway.services import Services
from agentray.jobs.ray_views import RayViews
from agentray.runtime import collector
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.manager_watch import ManagerWatch
from agentray.runtime.newest import NewestSnapshot
from agentray.runtime.ray_adapter import RayConnector, RayManager, RayManagerMaker, Setup
from agentray.runtime.ray_adapter.dashboard import Dashboard
from agentray.runtime.ray_adapter.ray_jobs import RayJobs
from agentray.runtime.tasks import TaskSet
from agentray.runtime.watcher import SnapshotWatcher
from agentray.store.postgres import PostgresStore

APPLICATION = "agentray"
"""Name of the Serve application."""


# Serve's own lines; a line per request would cost as much as a part of the request.
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


_sleep = time.sleep  # noqa: TID251 - Serve is polled; synchronous code awaits nothing
_POLL_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class ReplicaSetup:
    """What a replica needs to begin."""

    settings: Settings
    database_url: str


class Readiness:
    """What a replica needs before it can serve prompts."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def ready(self) -> list[str]:
        """Return what is missing."""
        return readiness.missing(self._channel.snapshot)


class Gateway:
    """One replica: HTTP in front, a channel to the hosts and the Store behind."""

    async def __init__(self, setup: ReplicaSetup) -> None:
        logs.configure(setup.settings.log_level, process="gateway")
        telemetry.start("gateway")
        store = PostgresStore(setup.database_url, limits=setup.settings.database)
        await store.open()
        channel = Channel(RayConnector(), batch=setup.settings.batch)
        bind_process(channel)
        # Kept: without a reference the watcher's task could be collected.
        manager = RayManager.find()
        self._watcher = SnapshotWatcher(manager, channel)
        await self._watcher.start()
        self._tasks = TaskSet("gateway")
        maker = RayManagerMaker(Setup.of(setup.settings, setup.database_url))
        watch = ManagerWatch(store, maker)
        self._tasks.spawn(watch.run(), name="watch the manager")
        self._services = Services(
            settings=setup.settings,
            store=store,
            dispatcher=ChannelDispatcher(channel, NewestSnapshot(manager, channel).wait),
            ready=Readiness(channel),
            cluster=_cluster(setup.settings),
            manager=ManagerClient(manager, channel),
        )
        collector.settle()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve when the replica has been made."""
        return build_app(self._services)


def _cluster(settings: Settings) -> ClusterParts:
    """Return what runs jobs. They reach the gateway where it listens; on all addresses: at ours."""
    host = settings.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - it is only compared
        host = ray.util.get_node_ip_address()
    url = settings.url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    dashboard = Dashboard()
    return ClusterParts(RayJobs(dashboard), RayViews(dashboard), url, APPLICATION)


def start_gateway(settings: Settings, database_url: str) -> None:
    """Start Serve with its HTTP ingress and run the gateway in it.

    Returns when the replicas are healthy. The HTTP options hold for as long as Serve runs: they
    must come before the first application.

    Args:
        settings: address, limits, number of replicas.
        database_url: DSN of the Store.

    Raises:
        StartFailed: the replicas cannot be started.
    """
    deployment: Any = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        logging_config=_LOGGING,
        **deployment_options(settings),
    )
    application = deployment.bind(ReplicaSetup(settings, database_url))
    # The replica takes as long to start as the ingress does: not one after the other.
    with ThreadPoolExecutor(1, "serve-ingress") as threads:
        ingress = threads.submit(_start_ingress, settings)
        _poll(lambda: ingress.done() or bool(serve.status().proxies))
        if ingress.done():
            ingress.result()
        # Told to wait for the application, it would look once a second.
        target = serve.RunTarget(application, name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        ingress.result()
        _poll(_is_running)


def _poll(check: Callable[[], bool]) -> None:
    while not check():
        _sleep(_POLL_INTERVAL_S)


def _is_running() -> bool:
    application = serve.status().applications.get(APPLICATION)
    if application is None:
        return False
    if application.status is ApplicationStatus.DEPLOY_FAILED:
        raise StartFailed(f"The gateway did not start: {application.message}")
    return application.status is ApplicationStatus.RUNNING


def _start_ingress(settings: Settings) -> None:
    try:
        serve.start(
            http_options=serve.HTTPOptions(host=settings.host, port=settings.port),
            logging_config=_LOGGING,
        )
    except (RayError, RuntimeError) as error:
        # Below the traceback of the process it happened in, HAProxy's last words but one.
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = next((line for line in said if "cannot bind" in line), said[-1] if said else "")
        raise StartFailed(f"The HTTP ingress did not start: {why}") from error


def stop_gateway() -> None:
    """Stop Serve, and with it the HTTP ingress: `ray stop` alone would leave HAProxy behind."""
    serve.shutdown()
