"""Starts that cannot succeed: each says why in one paragraph, and leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentray.cli.exits import ExitCode
from agentray.cli.main import app as command_line
from agentray.runtime.marked_processes import name_of
from tests.support.cluster import (
    APP,
    Done,
    agentray_command,
    apart,
    end,
    environment,
    free_port,
    make_home,
    processes_of,
    program,
    remove_home,
)
from tests.support.eventually import eventually

# A start and its end take a quarter of a minute of computing, calmly, beside all other tests.
pytestmark = pytest.mark.timeout(300)

BROKEN = {
    "raises": "raise RuntimeError('not today')",
    "typo": "def app(:",
    "empty": "import agentray\napp = agentray.App('empty', [])",
    "entryless": (
        "import agentray\n"
        "class Mute(agentray.Agent): ...\n"
        "app = agentray.App('mute', [Mute], entry=Mute)"
    ),
    "nothing": "app = None",
}


@pytest.fixture
def home() -> Generator[Path]:
    """A home in which something is tried; nothing may be left running."""
    home = make_home()
    try:
        yield home
        assert not (home / "cluster.json").exists()
    finally:
        left = end(processes_of(home))
        remove_home(home)
    assert left == []


def up(home: Path, app: str = APP, *, cwd: Path | None = None, **env: str) -> Done:
    done = agentray_command("up", app, env=environment(home, **apart(home), **env), cwd=cwd)
    assert done.exit_code != 0, done
    assert done.stdout == ""
    assert "not expected" not in done.complaint
    return done


def up_here(home: Path, app: str) -> Done:
    """Do the same in this process, which has imported all that a command imports."""
    before, path = set(sys.modules), list(sys.path)
    try:
        told = CliRunner().invoke(command_line, ["up", app], env={"AGENTRAY_HOME": str(home)})
    finally:
        for loaded in (set(sys.modules) - before) & BROKEN.keys():
            del sys.modules[loaded]
        sys.path[:] = path
    return Done(told.exit_code, told.stdout, told.stderr)


@pytest.mark.parametrize(
    ("app", "told"),
    [
        ("examples", "write package.module:app"),
        ("agentray.examples.text_analysis:", "write package.module:app"),
        ("no.such.module:app", "ModuleNotFoundError: No module named 'no'"),
        ("agentray.examples.text_analysis:application", "no attribute 'application'"),
        ("json:dumps", "not an agentray App"),
        ("raises:app", "RuntimeError: not today"),
        ("typo:app", "SyntaxError"),
        ("nothing:app", "nothing"),
        ("empty:app", "The app 'empty' has no agents"),
        ("entryless:app", "Mute handles no prompts"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, told: str
):
    for name, source in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    # As a user does it where there is a traceback that must not be shown.
    process = app in {"raises:app", "typo:app"}
    done = up(home, app, cwd=tmp_path) if process else up_here(home, app)
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert told in done.complaint
    assert len(done.stderr.splitlines()) == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "setting", ["AGENTRAY_PORT", "AGENTRAY_GCS_PORT", "AGENTRAY_DASHBOARD_PORT"]
)
def test_a_port_that_is_taken_is_named_with_its_setting(home: Path, setting: str):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        env = environment(home, **{**apart(home), setting: port})
        done = agentray_command("up", APP, env=env)
    assert (done.exit_code, done.stdout) == (ExitCode.FAILURE, "")
    assert port in done.complaint
    assert setting in done.complaint
    assert list(home.iterdir()) == []


def test_a_setting_that_is_wrong_is_named(home: Path):
    done = agentray_command("up", APP, env=environment(home, AGENTRAY_PORT="many"))
    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert "AGENTRAY_PORT" in done.complaint


def test_a_home_that_is_a_file_is_named():
    home = make_home()
    home.rmdir()
    home.write_text("not a directory")
    try:
        done = up(home)
        assert str(home) in done.complaint
        assert processes_of(home) == []
        assert home.read_text() == "not a directory"
    finally:
        home.unlink()


def test_a_database_that_cannot_be_reached_is_named_before_ray_is_started(home: Path):
    url = f"postgresql://ada:secret@127.0.0.1:{free_port()}/agentray"
    done = up(home, AGENTRAY_DATABASE_URL=url)
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert "database" in done.complaint.lower()
    assert "nothing listens" in done.complaint
    assert "secret" not in done.stderr
    assert "ray cluster" not in done.stderr  # told before Ray is started
    assert not (home / "starting.json").exists()


@contextmanager
def under_way(log: Path, env: dict[str, str], *words: str) -> Generator[subprocess.Popen[bytes]]:
    """Let a command of agentray run while the block does."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [program("agentray"), *words],
            env=env,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until_told(what: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    eventually(lambda: what in log.read_text() or process.poll() is not None, timeout_s=120)
    assert what in log.read_text()


@pytest.mark.parametrize(
    ("step", "signum"), [("ray cluster", signal.SIGINT), ("manager", signal.SIGTERM)]
)
def test_a_start_that_is_interrupted_takes_back_what_it_started(
    home: Path, tmp_path: Path, step: str, signum: signal.Signals
):
    log, env = tmp_path / "log", environment(home, **apart(home))
    with under_way(log, env, "up", APP) as process:
        until_told(f"{step} …", log, process)
        process.send_signal(signum)
        exit_code = process.wait(timeout=120)
    told = log.read_text()
    assert exit_code == 128 + signum, told
    assert "Traceback" not in told
    assert not (home / "starting.json").exists()


def test_others_are_refused_during_a_start_and_a_port_that_is_lost_meanwhile_is_named(
    home: Path, tmp_path: Path
):
    log, env = tmp_path / "log", environment(home, **apart(home))
    with under_way(log, env, "up", APP) as process:
        until_told("ray cluster …", log, process)
        for command in (["up", APP], ["down"]):
            done = agentray_command(*command, env=environment(home, **apart(home)))
            assert (done.exit_code, done.stdout) == (ExitCode.FAILURE, "")
            assert f"`agentray up` (process {process.pid}) is under way" in done.complaint
        port = int(env["AGENTRAY_PORT"])
        with socket.create_server(("127.0.0.1", port)):
            exit_code = process.wait(timeout=120)
    told = log.read_text()
    assert exit_code == ExitCode.FAILURE, told
    assert told.splitlines()[-1].startswith(f"error: Port {port} for the gateway is taken"), told
    assert "Traceback" not in told
    assert 'File "' not in told


def test_what_a_killed_start_left_running_is_found_and_stopped(home: Path, tmp_path: Path):
    log, env = tmp_path / "log", environment(home, **apart(home))
    with under_way(log, env, "up", APP) as process:
        until_told("ray cluster …", log, process)
        eventually(lambda: "raylet" in [name_of(p) for p in processes_of(home)], timeout_s=120)
        process.kill()
        process.wait()
    assert processes_of(home)
    done = agentray_command("down", env=environment(home))
    assert (done.exit_code, done.stdout) == (0, "agentray is down.\n"), done
    assert "did not come to its end" in done.stderr
    assert processes_of(home) == []
    again = agentray_command("down", env=environment(home))
    assert again.exit_code == ExitCode.UNAVAILABLE


def test_the_loss_of_ray_is_told_at_once_and_down_stops_the_rest(home: Path, tmp_path: Path):
    env = environment(home, **apart(home))
    started = agentray_command("up", APP, env=env)
    assert started.exit_code == 0, started
    for process in processes_of(home):
        if name_of(process) == "raylet":
            process.kill()
            process.wait()
    done = agentray_command("status", env=env)
    assert (done.exit_code, done.stdout) == (ExitCode.UNAVAILABLE, "")
    assert "raylet" in done.complaint
    assert "agentray down" in done.complaint
    log = tmp_path / "log"
    with under_way(log, env, "down") as process:
        until_told("ray cluster …", log, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == ExitCode.INTERRUPTED
    assert "Run `agentray down` again" in log.read_text()
    assert "Traceback" not in log.read_text()
    down = agentray_command("down", env=env)
    assert (down.exit_code, down.stdout) == (0, "agentray is down.\n"), down
    assert processes_of(home) == []
