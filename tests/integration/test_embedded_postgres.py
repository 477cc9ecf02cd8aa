"""The embedded PostgreSQL server, started and stopped for real."""

# asyncpg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from agentray.store.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.support.eventually import eventually


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory, not in pytest's own: each session of pytest closes that to the server's user."""
    with TemporaryDirectory(prefix="agentray-") as directory:
        yield Path(directory)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield server
    server.stop()
    assert not _server_processes(tmp_path)


def _server_processes(under: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "postgres" and str(process.info["cwd"]).startswith(str(under))
    ]


def _socket_dir(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def _postmaster_pid(tmp_path: Path) -> int:
    return int((tmp_path / "postgres/cluster/postmaster.pid").read_text().splitlines()[0])


async def _execute(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_starts_with_durable_commits_and_no_tcp_listener(server: EmbeddedPostgres):
    url = server.start()

    assert server.is_running()
    assert url == server.url
    settings = await _execute(url, "SELECT name, setting FROM pg_settings")
    by_name = {row["name"]: row["setting"] for row in settings}
    assert by_name["fsync"] == "on"
    assert by_name["synchronous_commit"] == "on"
    assert by_name["data_checksums"] == "on"
    assert by_name["listen_addresses"] == ""
    assert stat.S_IMODE(_socket_dir(url).stat().st_mode) == 0o700


def test_no_shell_reads_the_path_of_the_data(tmp_path: Path):
    odd = tmp_path / """it's $(touch x) `touch x` "quoted" $HOME; touch x, ok"""
    server = EmbeddedPostgres(odd / "postgres")
    url = server.start()
    try:
        assert server.is_running()
        asked = _execute(url, "SELECT current_setting('data_directory') AS at")
        settings = asyncio.run(asked)
        assert settings[0]["at"] == str(odd / "postgres/cluster")
    finally:
        server.stop()
    assert not server.is_running()
    assert (odd / "postgres/postgres.log").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [odd.name]
    assert list(tmp_path.rglob("x")) == []
    assert not Path("/x").exists()


async def test_starting_again_changes_nothing(server: EmbeddedPostgres, tmp_path: Path):
    url = server.start()
    pid = _postmaster_pid(tmp_path)

    assert server.start() == url
    assert EmbeddedPostgres(tmp_path / "postgres").start() == url
    assert _postmaster_pid(tmp_path) == pid


async def test_data_survive_a_stop(server: EmbeddedPostgres):
    url = server.start()
    await _execute(url, "CREATE TABLE kept AS SELECT 7 AS number")

    server.stop()

    assert not server.is_running()
    assert server.start() == url
    assert (await _execute(url, "SELECT number FROM kept"))[0]["number"] == 7


async def test_recovers_from_a_kill_that_leaves_the_pid_file(
    server: EmbeddedPostgres, tmp_path: Path
):
    url = server.start()
    await _execute(url, "CREATE TABLE kept AS SELECT 7 AS number")

    os.kill(_postmaster_pid(tmp_path), signal.SIGKILL)
    eventually(lambda: not server.is_running())

    assert (tmp_path / "postgres/cluster/postmaster.pid").exists()
    assert server.start() == url
    assert (await _execute(url, "SELECT number FROM kept"))[0]["number"] == 7


@pytest.mark.parametrize("first_line", ["{living}", ""])
async def test_recovers_from_a_pid_file_that_misleads(
    server: EmbeddedPostgres, tmp_path: Path, first_line: str
):
    """As after a reboot: the pid in it is another process's by now, or it was never written."""
    server.start()
    pid_file = tmp_path / "postgres/cluster/postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.stop()
    lines[0] = first_line.format(living=os.getpid())
    pid_file.write_text("\n".join(lines) if first_line else "")
    os.chown(pid_file, pid_file.parent.stat().st_uid, pid_file.parent.stat().st_gid)

    assert not server.is_running()
    assert await _execute(server.start(), "SELECT 1")


def test_outlives_its_starter_and_is_stopped_by_another(server: EmbeddedPostgres, tmp_path: Path):
    program = (
        "import pathlib, sys; from agentray.store.embedded import EmbeddedPostgres;"
        "EmbeddedPostgres(pathlib.Path(sys.argv[1])).start()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "postgres")], check=True)
    assert server.is_running()
    assert _server_processes(tmp_path)

    server.stop()

    assert not _server_processes(tmp_path)
    server.stop()  # stopping what is stopped is fine


async def test_long_path_has_its_socket_in_the_temporary_directory(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / ("long" * 30) / "postgres")
    url = server.start()
    try:
        socket_dir = _socket_dir(url)
        assert not socket_dir.is_relative_to(tmp_path)
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        assert await _execute(url, "SELECT 1")
    finally:
        server.stop()
    socket_dir.rmdir()


def test_refuses_a_socket_directory_of_another_user(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / ("long" * 30) / "postgres")
    socket_dir = _socket_dir(server.url)
    socket_dir.symlink_to(tmp_path)  # as good as foreign: not a directory that we made
    try:
        with pytest.raises(EmbeddedPostgresError, match="of another user"):
            server.start()
    finally:
        socket_dir.unlink()


def test_says_how_to_mend_data_of_another_version(server: EmbeddedPostgres, tmp_path: Path):
    server.start()
    server.stop()
    (tmp_path / "postgres/cluster/PG_VERSION").write_text("16\n")

    with pytest.raises(EmbeddedPostgresError, match=r"cannot read data of version 16.*Dump it"):
        server.start()


def test_says_what_the_server_said(server: EmbeddedPostgres, tmp_path: Path):
    server.start()
    server.stop()
    (tmp_path / "postgres/cluster/global/pg_control").unlink()

    with pytest.raises(EmbeddedPostgresError, match="pg_control"):
        server.start()
