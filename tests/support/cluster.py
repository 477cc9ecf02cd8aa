"""One cluster for all tests that need one: put up and taken down by the command line, as by a user.

A plugin, so that its session fixtures are made once however many folders of tests are run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import agentray
from agentray import AgentrayError, ManagerClient, Settings
from agentray.client import AsyncAgentClient
from agentray.config import ClusterRecord
from agentray.ids import SLOTS
from agentray.runtime.local_cluster import free_port
from agentray.runtime.session_dirs import ray_dir
from tests.support import helpers
from tests.support.eventually import eventually_async

APP = "agentray.examples.text_analysis:app"
RIVER = (
    "The river had been rising since Tuesday. By Friday the lower fields were under water. "
    "The flood barrier was still a drawing in a drawer."
)

_ON_CLUSTERS = ("acceptance", "integration", "chaos")
_PATIENCE_S = 300.0
_LIMIT_S = 300  # one of them is the first, which puts the cluster up
_LOG_ENDS = (".log", ".out", ".err", ".txt")
_NOT_PASSED_ON = ("AGENTRAY_", "RAY_", "FORCE_COLOR", "CLICOLOR", "PYTEST_")


@dataclass(frozen=True)
class Done:
    """What is looked at of a program that has ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The one paragraph that says what went wrong; steps that were taken may stand above it."""
        *steps, last = self.stderr.splitlines() or [""]
        assert last.startswith("error: "), self
        assert not any(step.startswith("error: ") for step in steps), self
        return last


def make_home() -> Path:
    """Return a directory with a short path that the database's user may pass through."""
    return Path(tempfile.mkdtemp(prefix="ar-"))


def remove_home(home: Path) -> None:
    """Remove a home, and what Ray wrote for its clusters."""
    shutil.rmtree(home, ignore_errors=True)
    home.unlink(missing_ok=True)
    shutil.rmtree(ray_dir(home).parent, ignore_errors=True)


def postmaster(home: Path) -> int:
    """Return the main process of a home's database server; 0 while there is none."""
    try:
        return int((home / "postgres/cluster/postmaster.pid").read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return 0


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user with this home of agentray and nothing else set."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(_NOT_PASSED_ON)}
    return {**kept, "AGENTRAY_HOME": str(home), **more}


def apart(home: Path) -> dict[str, str]:
    """Return settings with which a cluster disturbs no other one on this machine, nor is disturbed.

    Ray's jobs ask a file in its temporary directory for the cluster that was started last. Ray lets
    workers run when nobody else wants to (nice 15): hosts would starve beside tests that compute.
    """
    return {
        "RAY_TMPDIR": str(home),
        "RAY_worker_niceness": "0",
        "AGENTRAY_PORT": str(free_port()),
        "AGENTRAY_GCS_PORT": "0",
        "AGENTRAY_DASHBOARD_PORT": "0",
    }


def program(name: str) -> str:
    """Return the path of a program that was installed beside Python."""
    return str(Path(sys.executable).parent / name)


def run_program(
    *command: str, env: dict[str, str], cwd: Path | None = None, stdin: str = ""
) -> Done:
    """Run a program to its end; none of ours may ever show a traceback."""
    ended = subprocess.run(
        command,
        env=env,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    done = Done(ended.returncode, ended.stdout, ended.stderr)
    assert "Traceback" not in done.stdout + done.stderr, done
    return done


def agentray_command(
    *words: str, env: dict[str, str], cwd: Path | None = None, stdin: str = ""
) -> Done:
    """Run `agentray` with these words."""
    return run_program(program("agentray"), *words, env=env, cwd=cwd, stdin=stdin)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at what `-m` asks for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the session's cluster, in two halves that take about the same time.

    They wait most of the time, so two sessions, with a cluster each, can go on beside the others.
    (Not two workers of one: xdist 3.8 does not heed groups of tests with pytest 9.2.)
    """
    for item in items:
        folder = item.path.parent.name
        if folder not in _ON_CLUSTERS or not isinstance(item, pytest.Function):
            continue  # a fixture of that name is another one elsewhere
        if "cluster" in item.fixturenames:
            first = folder == "integration" and item.path.name < "test_s"
            item.add_marker(pytest.mark.cluster(half=1 if first else 2))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_LIMIT_S))


# Processes


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the living processes that were started for a home, found without the product's help.

    They inherited its environment, work in it (the database), or are children of such ones.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("AGENTRAY_HOME") == str(home)
            if ours or home in Path(process.cwd()).parents:
                found[process.pid] = process
                found.update((child.pid, child) for child in process.children(recursive=True))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    found.pop(os.getpid(), None)
    return [process for process in found.values() if lives(process)]


def _marked(mark: str) -> list[psutil.Process]:
    """Return the processes that carry a cluster's mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AGENTRAY_LOCAL_CLUSTER") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if lives(process)]


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended, by now."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """Return its command line, empty when it ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def name_of(process: psutil.Process) -> str:
    """Return the name of its program, empty when it ended meanwhile."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def end(processes: Iterable[psutil.Process]) -> list[str]:
    """Kill processes that should not be there, and return what they were."""
    told: list[str] = []
    for process in processes:
        try:
            told.append(f"{process.pid}: {command_of(process)[:120]}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return told


# The cluster


class Cluster:
    """A cluster that is up, as those see it who use it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = environment(home, **apart(home))
        self.settings = Settings(home=home)
        self.started: Done | None = None

    @property
    def record(self) -> ClusterRecord:
        record = ClusterRecord.read(self.settings)
        assert record is not None
        return record

    @property
    def url(self) -> str:
        return self.record.url

    @property
    def key(self) -> str:
        return self.settings.key_file.read_text().strip()

    def agentray(self, *words: str, stdin: str = "", cwd: Path | None = None, **env: str) -> Done:
        """Run a command of agentray."""
        return agentray_command(*words, env={**self.env, **env}, cwd=cwd, stdin=stdin)

    def python(self, *words: str, cwd: Path | None = None, **env: str) -> Done:
        """Run a driver."""
        return run_program(sys.executable, *words, env={**self.env, **env}, cwd=cwd)

    def client(self, timeout_s: float = 120.0) -> AsyncAgentClient:
        """Return a client of its gateway."""
        return AsyncAgentClient(self.url, self.key, timeout=timeout_s)

    def logs(self) -> list[Path]:
        """Return every log: of Ray's session, Serve, gateway, hosts and database.

        Not the database's own files, where prompts are kept, nor the key's.
        """
        session = Path(self.record.local_cluster["session_dir"])
        found = [*files_below(self.home), *files_below(session.parent)]
        return [path for path in found if path.suffix in _LOG_ENDS or "logs" in path.parts]

    def logged(self, action: str) -> list[dict[str, Any]]:
        """Return what its manager, hosts and gateway have logged of one kind."""
        lines = (line for path in self.logs() for line in lines_of(path) if action in line)
        records = [json.loads(line) for line in lines if line.startswith('{"time"')]
        return [record for record in records if record.get("action") == action]

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Return its processes, or those whose command line begins with a title."""
        return [p for p in processes_of(self.home) if command_of(p).startswith(title)]


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder in which others work: what goes meanwhile is not there."""
    return [Path(where, name) for where, _, names in os.walk(folder) for name in names]


def text_of(path: Path) -> str:
    """Return what a log has, nothing if it is gone by now, or is no file."""
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except FileNotFoundError:
        return ""


def lines_of(path: Path) -> list[str]:
    """Return a log's lines; a last one that is still being written comes with the next look."""
    return text_of(path).split("\n")[:-1]


@contextmanager
def running_cluster() -> Generator[Cluster]:
    """Put a cluster up with the example app; nothing of it may be left afterwards."""
    home = make_home()
    cluster = Cluster(home)
    try:
        cluster.started = cluster.agentray("up", APP)
        assert cluster.started.exit_code == 0, cluster.started
        mark = cluster.record.local_cluster["mark"]
        assert _marked(mark)
        yield cluster
        done = cluster.agentray("down")
        assert (done.exit_code, done.stdout) == (0, "agentray is down.\n"), done
        assert "not stopped gently" not in done.stderr, done
        assert _marked(mark) == []
    finally:
        left = end(processes_of(home))
        remove_home(home)
    assert left == []


@pytest.fixture(scope="session")
def cluster() -> Generator[Cluster]:
    """A cluster with the example app, for the session."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
async def manager(cluster: Cluster) -> AsyncGenerator[ManagerClient]:
    """A driver's connection from this process."""
    async with agentray.connect(settings=cluster.settings) as manager:
        yield manager


@pytest.fixture(scope="session")
async def helper_app(cluster: Cluster, manager: ManagerClient) -> str:
    """The name of the app with the tests' own agents, deployed and known to the gateway."""
    await manager.deploy(helpers.app)
    async with cluster.client() as client:
        run = await client.prompt("ready?", "parrot", wait_s=60)
    assert run.result == {"text": "ready?"}
    return helpers.app.name


async def live_hosts(manager: ManagerClient) -> dict[str, int]:
    """Return the process ids of the hosts that live, by host; {} while nobody can be asked."""
    try:
        return _live(await manager.status())
    except AgentrayError:  # the manager itself may be the one that was killed
        return {}


def _live(status: dict[str, Any]) -> dict[str, int]:
    return {host["id"]: host["pid"] for host in status["hosts"] if host["status"] == "live"}


def _even(status: dict[str, Any]) -> bool:
    """Whether no host of a pool has more than one slot more than another."""
    held: dict[str, list[int]] = {}
    for host in status["hosts"]:
        if host["status"] == "live":
            held.setdefault(host["pool"], []).append(host["slots"])
    return all(max(slots) - min(slots) <= 1 for slots in held.values())


async def until_complete(
    manager: ManagerClient, without: Iterable[int] = (), *, settled: bool = True
) -> dict[str, int]:
    """Wait until the pools are complete again, and their slots are where they shall be.

    Args:
        manager: is asked.
        without: processes that must not be in it any more.
        settled: a host that has just come has its share of the slots, which those that do
            something give it when that has ended; False: it need not have any yet.

    Returns:
        Its hosts' process ids.
    """
    gone = set(without)

    async def complete() -> dict[str, int] | None:
        try:
            status = await manager.status()  # one look: hosts and pools of the same moment
        except AgentrayError:
            return None
        hosts, pools = _live(status), status["pools"]
        if not hosts or gone & set(hosts.values()):
            return None
        whole = all(pool["hosts"] == pool["wanted"] and pool["slots"] == SLOTS for pool in pools)
        return hosts if whole and (not settled or _even(status)) else None

    hosts = await eventually_async(complete, timeout_s=120, interval_s=0.2)
    assert hosts is not None
    return hosts
