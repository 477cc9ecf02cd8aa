"""The stack of one machine: database, Ray, manager, gateway. Put up as a whole."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agentray.app import load_app
from agentray.cli.api_key import make_key
from agentray.cli.home_claim import Claim, Plan, claimed
from agentray.cli.ray_start import RayStart
from agentray.cli.steps import Report, reported
from agentray.cli.take_down import cluster_of, is_gone, stop_left_over
from agentray.config import ClusterRecord, Settings
from agentray.errors import (
    AgentrayError,
    ClusterAlreadyRunning,
    ClusterNotRunning,
    ConfigurationError,
    PortTaken,
    StartFailed,
)
from agentray.runtime.connection import check_answers
from agentray.runtime.local_cluster import LocalCluster, driver_environment, is_alive
from agentray.runtime.marked_processes import new_mark
from agentray.store.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

_PORT_LOST = "cannot bind"  # HAProxy's words
_READY_S = 60.0
_DRAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Started:
    """What is up now."""

    record: ClusterRecord
    key_file: Path
    new_key: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _Bases:
    """What manager and gateway stand on."""

    database_url: str
    new_key: bool
    ray: RayStart | None
    cluster: LocalCluster | None
    gcs_address: str


class Stack:
    """Puts agentray up on this machine."""

    def __init__(self, settings: Settings, *, remove: Sequence[str] = ()) -> None:
        """Make it; `up` does the work.

        Args:
            settings: of the cluster.
            remove: apps deployed earlier that are removed before the app is deployed.
        """
        self._settings = settings
        self._remove = remove

    async def up(
        self, import_string: str, report: Report, *, address: str | None = None
    ) -> Started:
        """Start everything and deploy an app. What was started is stopped again if a part fails.

        Args:
            import_string: of the app, module:attribute.
            report: hears of each step.
            address: `host:port` or `auto` of a Ray cluster to use; None: a local one is started.

        Raises:
            ClusterAlreadyRunning: it is up.
            CommandUnderWay: another command puts it up, or takes it down.
            ConfigurationError: the app or a setting is wrong; nothing was started.
            PortTaken: nothing was started.
            StartFailed, StoreUnavailable: a part did not come up.
        """
        begun = time.monotonic()
        app = load_app(import_string)
        embedded = self._settings.database_url is None
        if address is not None and embedded:
            raise ConfigurationError(
                "A cluster of several machines needs a PostgreSQL server that all of them reach: "
                "set AGENTRAY_DATABASE_URL. The embedded one serves this machine only."
            )
        with claimed(self._settings.home, "up") as claim:
            await self._make_way(claim, report)
            self._check_ports(local=address is None)
            if self._settings.database_url is not None:  # before Ray: what it stands on is wrong
                await _check_database(self._settings.database_url)
            plan = Plan(
                command="up",
                pid=os.getpid(),
                mark="" if address else new_mark(),
                embedded_database=embedded,
            )
            claim.write(plan)
            try:
                record, new_key = await self._start(
                    import_string, app.name, plan.mark, report, address
                )
            except BaseException:
                if is_gone(self._settings, plan):
                    claim.settle()
                raise
            claim.settle()
        _disconnect()
        return Started(record, self._settings.key_file, new_key, time.monotonic() - begun)

    async def _start(
        self, app: str, name: str, mark: str, report: Report, address: str | None
    ) -> tuple[ClusterRecord, bool]:
        """Start everything and record it; where a part fails, what was started is stopped.

        It is started once more where a port was taken that Ray has chosen, and not the user.
        """
        try:
            return await self._start_once(app, name, mark, report, address)
        except StartFailed as error:
            self._check_ports(local=address is None)  # one that was lost meanwhile says more
            if _PORT_LOST not in str(error) or address is not None:
                raise
            logger.warning("%s Trying again.", error, extra={"action": "start_again"})
        return await self._start_once(app, name, mark, report, address)

    async def _start_once(
        self, app: str, name: str, mark: str, report: Report, address: str | None
    ) -> tuple[ClusterRecord, bool]:
        async with AsyncExitStack() as undo:
            bases = await self._start_bases(report, undo, mark, address)
            url = await self._start_services(bases, app, name, report, undo)
            await self._until_ready(url, report)
            if bases.ray is not None:
                await bases.ray.finish()
            record = self._record(url, bases, app)
            record.write(self._settings)
            undo.pop_all()
        return record, bases.new_key

    def _record(self, url: str, bases: _Bases, app: str) -> ClusterRecord:
        return ClusterRecord(
            url=url,
            gcs_address=bases.gcs_address,
            dashboard_url=bases.cluster.dashboard_url if bases.cluster else "",
            app=app,
            embedded_database=self._settings.database_url is None,
            version=version("agentray"),
            started_at=datetime.now(UTC),
            local_cluster=json.loads(bases.cluster.to_json()) if bases.cluster else {},
        )

    async def _make_way(self, claim: Claim, report: Report) -> None:
        """Stop what is left of an earlier start, unless all of it is up."""
        record = ClusterRecord.read(self._settings)
        if record is not None:
            cluster = cluster_of(record)
            if _answers(record.gcs_address) if cluster is None else is_alive(cluster):
                claim.settle()
                raise ClusterAlreadyRunning(f"agentray is up at {record.url}.")
            if cluster is not None:  # a part of it is gone
                left = Plan(command="up", pid=0, mark=cluster.mark)
                await stop_left_over(self._settings, left, report)
            self._settings.cluster_file.unlink(missing_ok=True)
        if claim.left is not None:
            await stop_left_over(self._settings, claim.left, report)
        claim.settle()

    def _check_ports(self, *, local: bool) -> None:
        settings = self._settings
        if settings.port == 0:
            raise ConfigurationError("The gateway needs a port of its own: set AGENTRAY_PORT.")
        _check_port(settings.host, settings.port, "the gateway", "AGENTRAY_PORT")
        if local:
            _check_port("127.0.0.1", settings.gcs_port, "Ray's GCS", "AGENTRAY_GCS_PORT")
            _check_port(
                "127.0.0.1", settings.dashboard_port, "Ray's dashboard", "AGENTRAY_DASHBOARD_PORT"
            )

    async def _start_bases(
        self, report: Report, undo: AsyncExitStack, mark: str, address: str | None
    ) -> _Bases:
        """Start database and Ray side by side: each waits for the disk and its own processes."""
        os.environ.update(driver_environment("127.0.0.1" if address is None else "elsewhere"))
        ray: RayStart | None = None
        if address is None:
            ray = RayStart(self._settings, mark)
            undo.push_async_callback(ray.undo)
        database = asyncio.create_task(self._prepare_database(report, undo))
        # Importing takes seconds, which Ray's own start leaves idle.
        imports = asyncio.create_task(asyncio.to_thread(_import_the_rest))
        connected = asyncio.create_task(self._connect(ray, address, imports, report, undo))
        await _all(database, imports, connected)
        (url, new_key), (cluster, gcs_address) = database.result(), connected.result()
        return _Bases(url, new_key, ray, cluster, gcs_address)

    async def _connect(
        self,
        ray: RayStart | None,
        address: str | None,
        imports: asyncio.Task[None],
        report: Report,
        undo: AsyncExitStack,
    ) -> tuple[LocalCluster | None, str]:
        """Connect this process to the cluster, which may be one that is being started."""
        async with reported(report, "ray cluster") as told:
            await asyncio.wait([imports])  # ray is one of them
            from agentray.runtime import ray_adapter

            cluster: LocalCluster | None = None
            if ray is not None:
                cluster = await ray.connect()
            else:
                check_answers(address or "auto")
                ray_adapter.connect_to_ray(address or "auto")
            undo.callback(_disconnect)
            gcs_address = ray_adapter.cluster_address()
            told(gcs_address)
            return cluster, gcs_address

    async def _prepare_database(self, report: Report, undo: AsyncExitStack) -> tuple[str, bool]:
        url = await self._start_database(report, undo)
        async with reported(report, "api key") as told:
            new_key = await make_key(url, self._settings.key_file)
            told("new" if new_key else "kept")
        return url, new_key

    async def _start_database(self, report: Report, undo: AsyncExitStack) -> str:
        async with reported(report, "database") as told:
            if self._settings.database_url is not None:
                url = self._settings.database_url
                told("external")
            else:
                server = EmbeddedPostgres(self._settings.postgres_dir)
                url = await asyncio.to_thread(server.start)
                undo.push_async_callback(asyncio.to_thread, server.stop)
                told("embedded PostgreSQL")
                await _check_database(url)
            return url

    async def _start_services(
        self, bases: _Bases, app: str, name: str, report: Report, undo: AsyncExitStack
    ) -> str:
        """Start manager and gateway side by side, and deploy the app as soon as one can."""
        from agentray.gateway.deployment import start_gateway, stop_gateway
        from agentray.runtime import ray_adapter

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its lines would break ours
        manager = ray_adapter.RayManager.create(
            ray_adapter.Setup.of(self._settings, bases.database_url)
        )
        undo.push_async_callback(manager.shutdown, _DRAIN_S)

        async def deploy_when_managed() -> None:
            async with reported(report, "manager"):
                await manager.wait_ready()
            await self._deploy(app, name, bases.gcs_address, report)

        async def wait_for_gateway() -> None:
            async with reported(report, "gateway") as told:
                await asyncio.to_thread(start_gateway, self._settings, bases.database_url)
                told("Ray Serve")

        undo.push_async_callback(asyncio.to_thread, stop_gateway)
        await _all(
            asyncio.create_task(deploy_when_managed()), asyncio.create_task(wait_for_gateway())
        )
        host = self._settings.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._settings.port}"

    async def _deploy(self, import_string: str, name: str, address: str, report: Report) -> None:
        from agentray.runtime.connection import connect

        async with reported(report, "app") as told, connect(address) as manager:
            for removed in self._remove:
                await manager.remove_app(removed)
            done = await manager.deploy(import_string)
            told(f"{name} {done}")

    async def _until_ready(self, url: str, report: Report) -> None:
        from agentray.client.async_client import AsyncAgentClient

        async with reported(report, "ready"), AsyncAgentClient(url) as client:
            missing: list[str] = ["no answer"]
            end = time.monotonic() + _READY_S
            while missing:
                if time.monotonic() > end:
                    raise StartFailed(f"The gateway does not get ready: {', '.join(missing)}.")
                try:
                    missing = await client.ready()
                except AgentrayError as error:
                    missing = [str(error)]
                if missing:
                    await asyncio.sleep(0.1)


async def _all(*tasks: asyncio.Task[Any]) -> None:
    """Wait until all tasks have ended; then raise the first error, with the others as notes."""
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await asyncio.wait(tasks)  # their threads go on: what they start must be known, to undo it
        for task in tasks:
            if not task.cancelled():
                task.exception()  # of no interest any more, and nothing to be logged
        raise
    errors = [error for task in tasks if (error := task.exception()) is not None]
    if errors:
        for other in errors[1:]:
            errors[0].add_note(f"And: {other}")
        raise errors[0]


def _answers(address: str) -> bool:
    try:
        check_answers(address)
    except ClusterNotRunning:
        return False
    return True


def _check_port(host: str, port: int, purpose: str, setting: str) -> None:
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(port, purpose, setting) from error


async def _check_database(url: str) -> None:
    """Migrate the database, and say what is wrong with it before anything stands on it."""
    from agentray.store.postgres import PostgresStore

    store = PostgresStore(url)
    await store.open()
    await store.close()


def _import_the_rest() -> None:
    for module in ("agentray.gateway.deployment", "agentray.client.async_client"):
        importlib.import_module(module)


def _disconnect() -> None:
    from agentray.runtime import ray_adapter

    ray_adapter.disconnect_from_ray()
