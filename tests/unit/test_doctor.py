"""Each check against the real thing: files, ports and processes of the test's own."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from agentray.cli import checks, cluster_checks
from agentray.cli.checks import Machine, Verdict
from agentray.cli.doctor import diagnose
from agentray.cli.main import app
from agentray.config import ClusterRecord, Settings
from agentray.runtime.local_cluster import LocalCluster

GONE = LocalCluster("127.0.0.1:1", "http://127.0.0.1:1", "/s", "/r", "a mark that no process has")


@pytest.fixture
def listener() -> Generator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def settings_in(home: Path, **more: Any) -> Settings:
    fields: dict[str, Any] = {"port": 0, "gcs_port": 0, "dashboard_port": 0}
    return Settings(home=home, **fields | more)


def machine_in(home: Path, environment: dict[str, str] | None = None, **more: Any) -> Machine:
    return Machine.look(settings_in(home, **more), {"HOME": str(home), **(environment or {})})


def a_record(**changes: Any) -> ClusterRecord:
    fields: dict[str, Any] = {
        "url": "http://127.0.0.1:1",
        "gcs_address": "127.0.0.1:1",
        "dashboard_url": "",
        "app": "shop:app",
        "embedded_database": False,
        "version": metadata.version("agentray"),
        "started_at": datetime.now(UTC),
        "local_cluster": {},
    }
    return ClusterRecord(**fields | changes)


def port_of(server: socket.socket) -> int:
    return server.getsockname()[1]


def a_closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return port_of(server)


async def test_a_machine_on_which_nothing_was_ever_started(tmp_path: Path):
    findings = await diagnose(machine_in(tmp_path / "not" / "there"))
    assert {f.verdict for f in findings} == {Verdict.OK}
    told = {f.check: f.told for f in findings}
    assert told["cluster"] == "nothing is up"
    assert told["database"] == "embedded; made by the first start"
    assert told["gateway port"] == "any that is free"
    assert not (tmp_path / "not").exists()  # looking changes nothing


class TestSoftware:
    def test_python(self):
        assert checks.python().verdict is Verdict.OK
        old = checks.python("3.9.1")
        assert (old.verdict, old.told) == (Verdict.PROBLEM, "3.9.1, but >=3.11 is needed")

    def test_what_is_installed_here_is_as_required(self):
        assert checks.ray().told == metadata.version("ray")
        assert checks.packages().verdict is Verdict.OK
        assert "pydantic-ai-slim" not in {r.name for r in checks.requirements()}  # an extra

    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            ("typer>=0.1", None),
            ("typer>=99", f"typer is {metadata.version('typer')}, not >=99"),
            ("agentray-of-nobody>=1", "agentray-of-nobody is not installed"),
        ],
    )
    def test_requirements(self, wanted: str, told: str | None):
        assert checks.mismatch(Requirement(wanted)) == told

    def test_bytecode(self, home: Path):
        assert checks.bytecode(machine_in(home)).verdict is Verdict.OK
        found = checks.bytecode(machine_in(home, {"PYTHONDONTWRITEBYTECODE": "1"}))
        assert (found.verdict, found.remedy) == (Verdict.WARNING, "unset PYTHONDONTWRITEBYTECODE")


class TestFiles:
    def test_a_home_that_is_a_file(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        found = checks.home(machine_in(tmp_path / "file"))
        assert (found.verdict, found.told) == (
            Verdict.PROBLEM,
            f"{tmp_path / 'file'}: Not a directory",
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_home_that_cannot_be_written(self, home: Path):
        home.chmod(0o500)
        assert checks.home(machine_in(home)).verdict is Verdict.PROBLEM

    def test_disk(self, home: Path):
        assert checks.disk(machine_in(home), 5 * 10**9).verdict is Verdict.OK
        full = checks.disk(machine_in(home), 9 * 10**8)
        assert (full.verdict, full.told) == (Verdict.PROBLEM, f"0.9 GB free for {home}")

    def test_a_key_that_others_can_read_is_closed(self, home: Path):
        machine = machine_in(home)
        assert "made by the first start" in checks.api_key(machine).told
        machine.settings.key_file.write_text("secret-of-mine")
        machine.settings.key_file.chmod(0o640)
        found = checks.api_key(machine)
        assert (found.verdict, found.remedy) == (Verdict.PROBLEM, "agentray doctor --fix")
        assert "secret-of-mine" not in found.told
        assert checks.close_files(machine) == [machine.settings.key_file]
        assert checks.api_key(machine).told.endswith("(mode 0600)")
        assert checks.close_files(machine) == []

    def test_an_empty_key(self, home: Path):
        machine = machine_in(home)
        machine.settings.key_file.touch(mode=0o600)
        assert checks.api_key(machine).remedy == f"rm {machine.settings.key_file}"

    def test_a_key_in_the_environment(self, home: Path):
        assert checks.api_key(machine_in(home, api_key="k")).told == "in AGENTRAY_API_KEY"

    def test_where_rays_token_is(self, home: Path):
        token = home / ".ray" / "auth_token"
        assert machine_in(home).token_file == token
        named = {"RAY_AUTH_TOKEN_PATH": str(home / "token")}
        assert machine_in(home, named).token_file == home / "token"
        assert checks.ray_token(machine_in(home, {"RAY_AUTH_TOKEN": "t"})).verdict is Verdict.OK
        token.parent.mkdir()
        token.write_text("t")
        token.chmod(0o644)
        found = checks.ray_token(machine_in(home))
        assert found.verdict is Verdict.PROBLEM
        assert "(mode 0644)" in found.told


class TestCluster:
    def test_a_record_of_processes_that_are_gone(self, home: Path):
        gone = a_record(local_cluster=json.loads(GONE.to_json()))
        gone.write(settings_in(home))
        found = cluster_checks.cluster(machine_in(home))
        assert (found.verdict, found.remedy) == (Verdict.PROBLEM, "agentray down")

    def test_a_record_that_cannot_be_read(self, home: Path):
        settings_in(home).cluster_file.write_text("{")
        found = cluster_checks.cluster(machine_in(home))
        assert found.remedy == f"rm {settings_in(home).cluster_file}"

    def test_a_record_of_no_cluster(self, home: Path):
        a_record(local_cluster={"what": "else"}).write(settings_in(home))
        assert not machine_in(home).is_up

    def test_another_version(self, home: Path, listener: socket.socket):
        address = f"127.0.0.1:{port_of(listener)}"
        a_record(gcs_address=address, version="0.0.1").write(settings_in(home))
        found = cluster_checks.cluster(machine_in(home))
        assert (found.verdict, found.remedy) == (
            Verdict.WARNING,
            "agentray down; agentray up shop:app",
        )

    def test_up_without_a_key(self, home: Path, listener: socket.socket):
        a_record(gcs_address=f"127.0.0.1:{port_of(listener)}").write(settings_in(home))
        assert checks.api_key(machine_in(home)).verdict is Verdict.PROBLEM

    async def test_up_with_a_database_that_has_stopped(self, home: Path, listener: socket.socket):
        address = f"127.0.0.1:{port_of(listener)}"
        a_record(gcs_address=address, embedded_database=True).write(settings_in(home))
        settings_in(home).postgres_dir.mkdir()
        found = await cluster_checks.database(machine_in(home))
        assert "has stopped" in found.told


class TestPorts:
    def test_a_port_that_somebody_has(self, listener: socket.socket):
        port = port_of(listener)
        found = cluster_checks.free_port("gateway port", "127.0.0.1", port, "AGENTRAY_PORT")
        assert found.verdict is Verdict.PROBLEM
        assert found.told.startswith(f"{port}: Address already in use by ")
        assert f"(process {os.getpid()})" in found.told
        assert f"AGENTRAY_PORT={port + 1}" in found.remedy

    def test_a_port_that_is_free(self):
        port = a_closed_port()
        found = cluster_checks.free_port("gateway port", "127.0.0.1", port, "AGENTRAY_PORT")
        assert (found.verdict, found.told) == (Verdict.OK, f"{port} is free")

    def test_ports_of_a_cluster_that_is_up(self, home: Path, listener: socket.socket):
        address = f"127.0.0.1:{port_of(listener)}"
        closed = f"http://127.0.0.1:{a_closed_port()}"
        a_record(gcs_address=address, url=closed).write(settings_in(home))
        gateway, gcs = cluster_checks.ports(machine_in(home))
        assert (gateway.verdict, gateway.told) == (Verdict.PROBLEM, f"{closed} does not answer")
        assert (gcs.verdict, gcs.told) == (Verdict.OK, f"{address} answers")


class TestDatabase:
    async def test_a_server_that_does_not_answer(self, home: Path):
        url = f"postgresql://ada:hidden@127.0.0.1:{a_closed_port()}/agentray"
        found = await cluster_checks.database(machine_in(home, database_url=url))
        assert found.verdict is Verdict.PROBLEM
        assert "hidden" not in found.told + found.remedy

    async def test_an_embedded_one_that_is_stopped(self, home: Path):
        settings_in(home).postgres_dir.mkdir()
        assert (await cluster_checks.database(machine_in(home))).told == "embedded; stopped"


class TestCommand:
    def environment(self, home: Path, **more: str) -> dict[str, str]:
        ports = dict.fromkeys(
            ("AGENTRAY_PORT", "AGENTRAY_GCS_PORT", "AGENTRAY_DASHBOARD_PORT"), "0"
        )
        return {"HOME": str(home), "AGENTRAY_HOME": str(home), **ports, **more}

    def test_all_well(self, home: Path):
        done = CliRunner().invoke(app, ["doctor"], env=self.environment(home))
        assert done.exit_code == 0
        assert "✓  python" in done.stdout

    def test_a_problem_and_its_repair(self, home: Path):
        key_file = settings_in(home).key_file
        key_file.write_text("k")
        key_file.chmod(0o644)
        environment = self.environment(home)
        before = CliRunner().invoke(app, ["doctor"], env=environment)
        assert before.exit_code == 1
        assert "→ agentray doctor --fix" in before.stdout
        assert key_file.stat().st_mode & 0o777 == 0o644
        fixed = CliRunner().invoke(app, ["doctor", "--fix"], env=environment)
        assert (fixed.exit_code, fixed.stderr) == (0, f"closed to others: {key_file}\n")
        assert key_file.stat().st_mode & 0o777 == 0o600

    def test_as_json(self, home: Path):
        done = CliRunner().invoke(app, ["doctor", "--json"], env=self.environment(home))
        first = json.loads(done.stdout)[0]
        assert (first["check"], first["verdict"], first["remedy"]) == ("python", "ok", "")

    def test_a_setting_that_is_wrong(self, home: Path):
        environment = self.environment(home, AGENTRAY_REPLICAS="none")
        done = CliRunner().invoke(app, ["doctor"], env=environment)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: A setting is wrong: AGENTRAY_REPLICAS: Input should")
