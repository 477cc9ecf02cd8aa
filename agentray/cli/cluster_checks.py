"""What `agentray doctor` looks at: the cluster, its ports and its database. Changes nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from importlib import metadata
from typing import Any, cast

import psutil

from agentray.cli.checks import Finding, Machine, Verdict, again, answers, is_there
from agentray.config import ClusterRecord
from agentray.errors import SchemaTooNew
from agentray.store.embedded import EmbeddedPostgres, EmbeddedPostgresError

_DATABASE_TIMEOUT_S = 5


def cluster(machine: Machine) -> Finding:
    """Check that the cluster's record tells the truth."""
    path, record = machine.settings.cluster_file, machine.record
    if record is None:
        if not is_there(path):
            return Finding("cluster", Verdict.OK, "nothing is up")
        return Finding("cluster", Verdict.PROBLEM, f"{path} is unreadable", f"rm {path}")
    if not machine.is_up:
        told = f"{record.url} was started at {record.started_at:%Y-%m-%d %H:%M} UTC and is gone"
        return Finding("cluster", Verdict.PROBLEM, told, "agentray down")
    installed = metadata.version("agentray")
    if record.version != installed:
        told = f"up at {record.url}, started by version {record.version}; {installed} is installed"
        return Finding("cluster", Verdict.WARNING, told, again(machine))
    return Finding("cluster", Verdict.OK, f"up at {record.url}")


def ports(machine: Machine) -> Iterator[Finding]:
    """Check that the ports answer where agentray is up, and that they are free where it is not."""
    if machine.is_up and machine.record is not None:
        yield from _ports_in_use(machine, machine.record)
        return
    settings = machine.settings
    for purpose, host, port, setting in (
        ("gateway", settings.host, settings.port, "AGENTRAY_PORT"),
        ("GCS", "127.0.0.1", settings.gcs_port, "AGENTRAY_GCS_PORT"),
        ("dashboard", "127.0.0.1", settings.dashboard_port, "AGENTRAY_DASHBOARD_PORT"),
    ):
        yield free_port(f"{purpose} port", host, port, setting)


def _ports_in_use(machine: Machine, record: ClusterRecord) -> Iterator[Finding]:
    addresses = {
        "gateway": record.url,
        "GCS": f"//{record.gcs_address}",
        "dashboard": record.dashboard_url,
    }
    for purpose, address in addresses.items():
        check, told = f"{purpose} port", address.removeprefix("//")
        if not address:
            continue
        if answers(address):
            yield Finding(check, Verdict.OK, f"{told} answers")
        else:
            told = f"{told} does not answer"
            yield Finding(check, Verdict.PROBLEM, told, again(machine))


def free_port(check: str, host: str, port: int, setting: str) -> Finding:
    """Check that a port is free."""
    if port == 0:
        return Finding(check, Verdict.OK, "any that is free")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do, or a port would count as taken for a minute after its last connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            told = f"{port}: {error.strerror}{_listener(port)}"
            remedy = f"stop that program, or choose another port: export {setting}={port + 1}"
            return Finding(check, Verdict.PROBLEM, told, remedy)
    return Finding(check, Verdict.OK, f"{port} is free")


def _listener(port: int) -> str:
    """Return who listens on a port, "" where it cannot be known: other users' programs."""
    try:
        for found in psutil.net_connections(kind="tcp"):
            local: Any = found.laddr  # an empty tuple where there is none
            if found.status == psutil.CONN_LISTEN and local and local.port == port and found.pid:
                return f" by {psutil.Process(found.pid).name()} (process {found.pid})"
    except psutil.Error:
        return ""
    return ""


async def database(machine: Machine) -> Finding:
    """Check that the database answers, or can be started."""
    url = machine.settings.database_url
    if url is not None:
        remedy = 'check AGENTRAY_DATABASE_URL, and: pg_isready -d "$AGENTRAY_DATABASE_URL"'
        return await answering_database(url, remedy)
    server = EmbeddedPostgres(machine.settings.postgres_dir)
    if not is_there(machine.settings.postgres_dir):
        return Finding("database", Verdict.OK, "embedded; made by the first start")
    try:
        running = server.is_running()
    except EmbeddedPostgresError as error:
        remedy = f"ls -ld {machine.settings.postgres_dir}"
        return Finding("database", Verdict.PROBLEM, str(error), remedy)
    if running:
        return await answering_database(server.url, again(machine))
    if machine.is_up and machine.record is not None and machine.record.embedded_database:
        told = "agentray is up, but its embedded database has stopped"
        return Finding("database", Verdict.PROBLEM, told, again(machine))
    return Finding("database", Verdict.OK, "embedded; stopped")


async def answering_database(url: str, remedy: str) -> Finding:
    """Check that a database answers, and that this agentray knows its schema."""
    import asyncpg

    from agentray.store.migrate import check_schema

    try:
        # asyncpg has no types of its own
        connection = await cast("Any", asyncpg).connect(url, timeout=_DATABASE_TIMEOUT_S)
        try:
            version = await connection.fetchval("show server_version", timeout=_DATABASE_TIMEOUT_S)
            async with asyncio.timeout(_DATABASE_TIMEOUT_S):
                await check_schema(connection)
        finally:
            connection.terminate()
    except SchemaTooNew as error:
        return Finding("database", Verdict.PROBLEM, str(error), "pip install --upgrade agentray")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        told = f"no answer: {type(error).__name__}: {error}"
        return Finding("database", Verdict.PROBLEM, told, remedy)
    return Finding("database", Verdict.OK, f"PostgreSQL {version} answers")
