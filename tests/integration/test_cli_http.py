"""The commands that speak HTTP, against a real gateway; and all of them where there is none."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentray.cli.exits import ExitCode
from agentray.cli.main import app
from agentray.config import ClusterRecord, Settings
from agentray.errors import DeploymentStopped
from agentray.protocol.runs import Run
from tests.support.eventually import eventually_async
from tests.support.gateway import INVOKE_KEY, KEY, READ_KEY, BreakableStore, Gateway

CLOSED = "http://127.0.0.1:9"
APP = "agentray.examples.text_analysis:app"


@dataclass(frozen=True)
class Done:
    """What is looked at of a command that has ended."""

    exit_code: int
    stdout: str
    stderr: str


def run_command(home: Path, *words: str, stdin: str | bytes = "", **environment: str) -> Done:
    env = {"AGENTRAY_HOME": str(home), "AGENTRAY_URL": "", **environment}
    given = {name: value or None for name, value in env.items()}  # None: not set
    done = CliRunner().invoke(app, words, env=given, input=stdin)
    return Done(done.exit_code, done.stdout, done.stderr)


def write_record(home: Path, gcs_address: str = "127.0.0.1:9") -> None:
    """Let it look as if agentray was started with a Ray cluster, by default at a closed port."""
    record = ClusterRecord(
        url=CLOSED,
        gcs_address=gcs_address,
        dashboard_url="",
        app="shop:app",
        embedded_database=False,
        version="0",
        started_at=datetime.now(UTC),
        local_cluster={},
    )
    record.write(Settings(home=home))


class Shell:
    """Runs commands in a thread, so that the gateway's loop goes on."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, *words: str, key: str = KEY, stdin: str | bytes = "") -> Done:
        return await asyncio.to_thread(
            run_command,
            self._gateway.settings.home,
            *words,
            stdin=stdin,
            AGENTRAY_URL=self._gateway.url,
            AGENTRAY_API_KEY=key,
        )


@pytest.fixture
def shell(gateway: Gateway) -> Shell:
    return Shell(gateway)


class TestPrompt:
    async def test_the_answer_is_printed_and_nothing_else(self, shell: Shell):
        done = await shell("prompt", "Ada", "--agent", "greeter/ada")
        assert (done.exit_code, done.stdout.rstrip(), done.stderr) == (0, "Text  Hello, Ada!", "")

    async def test_as_json(self, shell: Shell):
        done = await shell("prompt", "Ada", "--json")
        run = json.loads(done.stdout)
        always = [name for name, field in Run.model_fields.items() if field.exclude_if is None]
        assert list(run) == always
        assert (run["status"], run["result"]) == ("succeeded", {"text": "Hello, Ada!"})

    async def test_text_from_the_input_and_from_a_file(self, shell: Shell, tmp_path: Path):
        done = await shell("prompt", "--file", "-", stdin="Grüße")
        assert "Hello, Grüße!" in done.stdout
        (tmp_path / "text").write_text("Bob")
        assert "Hello, Bob!" in (await shell("prompt", "--file", str(tmp_path / "text"))).stdout

    @pytest.mark.parametrize(
        ("words", "stdin", "told"),
        [
            ([], "", "error: Give a text, or --file PATH"),
            (["Ada", "--file", "-"], "Bob", "error: Give a text, or --file PATH"),
            ([" \n"], "", "error: There is nothing to ask: the text is empty."),
            (["--file", "-"], "", "error: There is nothing to ask: the text is empty."),
            (["--file", "/no/such"], "", "error: '/no/such' cannot be read: No such file"),
            (["--file", "/"], "", "error: '/' cannot be read: Is a directory"),
            (["--file", "-"], b"\xff\xfe", "error: '-' is no text in UTF-8"),
            (["Ada", "--url", "ftp://x"], "", "error: The gateway's URL 'ftp://x'"),
            (["Ada", "--agent", "a b"], "", "error: agent: "),
        ],
    )
    async def test_what_is_asked_wrongly(
        self, shell: Shell, words: list[str], stdin: str | bytes, told: str
    ):
        done = await shell("prompt", *words, stdin=stdin)
        assert done.exit_code == ExitCode.USAGE
        assert done.stderr.startswith(told)
        assert "Traceback" not in done.stderr

    async def test_a_text_over_the_limit(self, shell: Shell):
        done = await shell("prompt", "x" * 3000)
        assert done.exit_code == ExitCode.USAGE
        assert "The body is over 2004 bytes." in done.stderr

    async def test_a_run_that_fails(self, shell: Shell):
        done = await shell("prompt", "fail")
        assert (done.exit_code, done.stdout) == (ExitCode.RUN_FAILED, "")
        assert re.fullmatch(r"error: Run run_\w+ failed: ValueError: no\n", done.stderr)
        done = await shell("prompt", "fail", "--json")
        assert done.exit_code == ExitCode.RUN_FAILED
        assert json.loads(done.stdout)["error"]["message"] == "no"

    async def test_events_as_they_come(self, shell: Shell):
        done = await shell("prompt", "Ada", "--stream")
        assert (done.exit_code, done.stdout) == (0, "Hello\nText  Hello, Ada!\n")
        assert done.stderr == "started\nsucceeded\n"

    async def test_events_as_json_lines(self, shell: Shell):
        done = await shell("prompt", "Ada", "--stream", "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [event["kind"] for event in events] == ["started", "text_delta", "succeeded"]

    async def test_a_key_that_may_only_prompt(self, shell: Shell):
        assert (await shell("prompt", "Ada", key=INVOKE_KEY)).exit_code == 0
        assert (await shell("prompt", "Ada", "--stream", key=INVOKE_KEY)).exit_code == 0

    async def test_the_trace(self, shell: Shell):
        done = await shell("prompt", "Ada", "--trace")
        line = r"└── Prompt → greeter/run_\w+  host-1  at 0.0 ms, took 1.0 ms\n"
        assert re.search(line, done.stdout)
        done = await shell("prompt", "Ada", "--trace", "--json")
        assert json.loads(done.stdout)["status"] == "succeeded"
        assert "└── Prompt" in done.stderr

    async def test_waiting_ends_and_the_run_goes_on(self, gateway: Gateway, shell: Shell):
        gateway.dispatcher.gate.clear()
        done = await shell("prompt", "Ada", "--wait", "0.05")
        assert (done.exit_code, done.stdout) == (ExitCode.UNFINISHED, "")
        match = re.search(r"see: agentray run (run_\w+)", done.stderr)
        assert match is not None
        gateway.dispatcher.gate.set()

        async def ended() -> bool:
            run = json.loads((await shell("run", match[1], "--json")).stdout)
            return run["status"] == "succeeded"

        await eventually_async(ended)

    async def test_not_waiting_at_all(self, gateway: Gateway, shell: Shell):
        gateway.dispatcher.gate.clear()
        done = await shell("prompt", "Ada", "--wait", "0")
        assert done.exit_code == 0
        assert re.fullmatch(r"run_\w+\n", done.stdout)
        done = await shell("prompt", "Ada", "--wait", "0.05", "--stream")
        assert done.exit_code == ExitCode.UNFINISHED

    async def test_nobody_to_take_it(self, gateway: Gateway, shell: Shell):
        done = await shell("prompt", "Ada", "--agent", "nobody")
        assert done.exit_code == ExitCode.NOT_FOUND
        assert "There is no agent type 'nobody'." in done.stderr
        gateway.dispatcher.stopped = DeploymentStopped("greeter", retry_after_s=1)
        done = await shell("prompt", "Ada", "--timeout", "0.5")
        assert done.exit_code == ExitCode.UNAVAILABLE
        assert "The deployment of greeter is stopped." in done.stderr


class TestRuns:
    async def test_one(self, shell: Shell):
        run_id = json.loads((await shell("prompt", "Ada", "--json")).stdout)["id"]
        done = await shell("run", run_id, "--trace")
        assert re.search(r"status\s+succeeded", done.stdout)
        assert "Hello, Ada!" in done.stdout
        assert "└── Prompt → greeter/" in done.stdout
        assert json.loads((await shell("run", run_id, "--json")).stdout)["id"] == run_id

    async def test_cancelling(self, gateway: Gateway, shell: Shell):
        gateway.dispatcher.gate.clear()
        run_id = (await shell("prompt", "Ada", "--wait", "0")).stdout.strip()
        gateway.dispatcher.cleaned.clear()
        slow = await shell("cancel", run_id, "--wait", "0.05")
        assert slow.exit_code == ExitCode.UNFINISHED
        assert slow.stdout in {f"{run_id}: running\n", f"{run_id}: queued\n"}
        gateway.dispatcher.cleaned.set()
        done = await shell("cancel", run_id)
        assert (done.exit_code, done.stdout) == (0, f"{run_id}: cancelled\n")
        assert json.loads((await shell("cancel", run_id, "--json")).stdout)["status"] == "cancelled"
        unknown = await shell("cancel", "run_0")
        assert unknown.exit_code != 0
        assert "run_0" in unknown.stderr

    async def test_answering(self, shell: Shell):
        asked = await shell("prompt", "ask")
        assert asked.exit_code == ExitCode.UNFINISHED
        assert "asks: Really?" in asked.stderr
        (run_id,) = re.findall(r"agentray answer (\w+)", asked.stderr)
        listed = await shell("runs", "--status", "waiting")
        assert run_id in listed.stdout
        assert "Really?" in (await shell("run", run_id)).stdout
        wrong = await shell("answer", run_id, '{"approved": 1}')
        assert wrong.exit_code == ExitCode.USAGE
        assert "answer.approved" in wrong.stderr
        done = await shell("answer", run_id, '{"approved": true}', "--json")
        assert (done.exit_code, json.loads(done.stdout)["result"]) == (
            0,
            {"answers": [{"approved": True}]},
        )
        again = await shell("answer", run_id, "yes", "--text")
        assert (again.exit_code, "does not wait" in again.stderr) == (ExitCode.USAGE, True)

    async def test_its_trace(self, shell: Shell):
        run_id = json.loads((await shell("prompt", "Ada", "--json")).stdout)["id"]
        done = await shell("trace", run_id)
        assert done.stdout.startswith(f"{run_id}\n└── Prompt → greeter/")
        told = json.loads((await shell("trace", run_id, "--json")).stdout)
        assert (told["run"], told["status"]) == (run_id, "succeeded")
        assert [span["event"] for span in told["spans"]] == ["Prompt"]
        assert (await shell("trace", "run_nope")).exit_code == ExitCode.NOT_FOUND

    async def test_none(self, shell: Shell):
        done = await shell("run", "run_nope")
        assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
        assert done.stderr.endswith("There is no run 'run_nope'.\n")

    async def test_a_list(self, shell: Shell):
        for text in ("Ada", "fail", "Bob"):
            await shell("prompt", text)
        page = json.loads((await shell("runs", "--limit", "2", "--json")).stdout)
        assert [run["status"] for run in page["runs"]] == ["succeeded", "failed"]
        table = await shell("runs", "--limit", "2", "--before", page["next"])
        assert len(table.stdout.splitlines()) == 2
        assert table.stderr == ""
        more = await shell("runs", "--limit", "1")
        assert re.fullmatch(r"There are more: --before run_\w+\n", more.stderr)
        failed = await shell("runs", "--status", "failed", "--agent", "greeter")
        assert failed.stdout.count("greeter/") == 1
        assert "ValueError: no" in failed.stdout

    async def test_a_status_that_there_is_not(self, shell: Shell):
        assert (await shell("runs", "--status", "lost")).exit_code == ExitCode.USAGE


async def test_keys_that_are_refused(shell: Shell):
    done = await shell("runs", key="unknown")
    assert done.exit_code == ExitCode.REFUSED
    assert done.stderr.startswith("error: ")
    done = await shell("prompt", "Ada", key=READ_KEY)
    assert done.exit_code == ExitCode.REFUSED
    assert "invoke" in done.stderr


async def test_a_store_that_is_away(shell: Shell, store: BreakableStore):
    store.broken = RuntimeError("broken")
    done = await shell("run", "run_x", "--timeout", "0.5")
    assert done.exit_code == ExitCode.FAILURE
    assert "broken" not in done.stderr


class TestNothingThere:
    @pytest.mark.parametrize(
        "words",
        [
            ["status"],
            ["agents"],
            ["runs"],
            ["run", "run_x"],
            ["prompt", "Ada"],
            ["stop", "app"],
            ["down"],
        ],
    )
    def test_nothing_is_up(self, tmp_path: Path, words: list[str]):
        done = run_command(tmp_path, *words)
        assert (done.exit_code, done.stdout) == (ExitCode.UNAVAILABLE, "")
        assert done.stderr.startswith("error: No")
        assert done.stderr.count("\n") == 1

    def test_a_gateway_that_does_not_answer(self, tmp_path: Path):
        done = run_command(tmp_path, "prompt", "Ada", "--url", CLOSED, "--timeout", "0.3")
        assert done.exit_code == ExitCode.UNAVAILABLE
        assert done.stderr.startswith(f"error: No answer from the gateway: {CLOSED}")

    def test_a_record_of_a_cluster_that_is_gone(self, tmp_path: Path):
        write_record(tmp_path)
        for words in (["status"], ["agents"], ["stop", "app"]):
            done = run_command(tmp_path, *words)
            assert done.exit_code == ExitCode.UNAVAILABLE
            assert "No cluster answers at 127.0.0.1:9" in done.stderr

    @pytest.mark.parametrize("command", ["up", "deploy"])
    @pytest.mark.parametrize(
        ("app_name", "told"),
        [
            ("no-colon", "'no-colon' is not an import string"),
            ("no_such_module:app", "ModuleNotFoundError"),
            ("json:app", "has no attribute 'app'"),
            ("json:dumps", "not an agentray App"),
        ],
    )
    def test_an_app_that_is_none(self, tmp_path: Path, command: str, app_name: str, told: str):
        done = run_command(tmp_path, command, app_name)
        assert done.exit_code == ExitCode.USAGE
        assert done.stderr.startswith("error: ")
        assert told in done.stderr
        assert not (tmp_path / "postgres").exists()

    def test_an_address_that_drivers_cannot_use(self, tmp_path: Path):
        done = run_command(tmp_path, "agents", RAY_ADDRESS="ray://127.0.0.1:10001")
        assert done.exit_code == ExitCode.USAGE


class TestUp:
    """What `up` says before it starts anything."""

    def test_a_second_one_says_where_it_is_up(self, tmp_path: Path):
        with socket.create_server(("127.0.0.1", 0)) as cluster:
            write_record(tmp_path, f"127.0.0.1:{cluster.getsockname()[1]}")
            done = run_command(tmp_path, "up", APP)
        assert (done.exit_code, done.stderr) == (ExitCode.OK, "")
        assert f"gateway    {CLOSED}" in done.stdout
        assert f"agentray deploy {APP}" in done.stdout

    def test_a_port_that_is_taken(self, tmp_path: Path):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            done = run_command(tmp_path / "home", "up", APP, "--port", str(port))
        assert done.exit_code == ExitCode.FAILURE
        assert done.stderr.startswith(f"error: Port {port} for the gateway is taken")
        assert not any((tmp_path / "home").iterdir())

    def test_a_cluster_of_several_machines_needs_a_database(self, tmp_path: Path):
        done = run_command(tmp_path, "up", APP, "--address", "127.0.0.1:9")
        assert done.exit_code == ExitCode.USAGE
        assert "AGENTRAY_DATABASE_URL" in done.stderr


def test_debug_tells_where_an_error_comes_from(tmp_path: Path):
    assert "Traceback" not in run_command(tmp_path, "runs").stderr
    for done in (
        run_command(tmp_path, "--debug", "runs"),
        run_command(tmp_path, "runs", AGENTRAY_DEBUG="1"),
    ):
        assert done.exit_code == ExitCode.UNAVAILABLE
        assert done.stderr.startswith("Traceback")
        assert "error: No agentray cluster" in done.stderr


def test_what_nobody_expected_is_no_traceback_either(tmp_path: Path):
    (tmp_path / "api_key").mkdir()
    done = run_command(tmp_path, "runs", "--url", CLOSED)
    assert done.exit_code == ExitCode.FAILURE
    assert done.stderr.startswith("error: IsADirectoryError")
    assert "--debug" in done.stderr


def test_version_and_help(tmp_path: Path):
    assert run_command(tmp_path, "--version").stdout.startswith("agentray ")
    shown: dict[str, Any] = {
        word: run_command(tmp_path, word, "--help").exit_code for word in ("up", "prompt", "doctor")
    }
    assert set(shown.values()) == {0}


async def test_an_interrupt_ends_quietly(gateway: Gateway):
    gateway.dispatcher.gate.clear()
    environment = {"AGENTRAY_HOME": str(gateway.settings.home), "PATH": ""}
    command = [sys.executable, "-c", "from agentray.cli.main import main; main()"]
    command += ["prompt", "Ada", "--url", gateway.url, "--key", KEY]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    async def has_begun() -> bool:
        return bool(gateway.dispatcher.started)

    await eventually_async(has_begun, timeout_s=30)
    process.send_signal(signal.SIGINT)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == ExitCode.INTERRUPTED
