"""Drivers: scripts, jobs and what they deploy, against the cluster that is up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from agentray import ManagerClient, RunStatus
from agentray.cli.exits import ExitCode
from tests.support.cluster import (
    RIVER,
    Cluster,
    environment,
    make_home,
    processes_of,
    program,
    run_program,
)

DRIVER = "agentray.examples.driver"
OWN_SCRIPT = Path(__file__).parent / "scripts" / "own_agents.py"


def test_the_example_driver_prints_a_page_about_its_sample(cluster: Cluster):
    done = cluster.python("-m", DRIVER)
    assert (done.exit_code, done.stderr) == (0, "")
    for part in ("a sample: ", "Summary", "Key phrases", "Statistics", "Made by", "extractive"):
        assert part in done.stdout
    assert "flood barrier" in done.stdout


def test_the_example_driver_reads_files(cluster: Cluster, tmp_path: Path):
    (tmp_path / "river.txt").write_text(RIVER)
    done = cluster.python("-m", DRIVER, "river.txt", cwd=tmp_path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("river.txt: ")
    missing = cluster.python("-m", DRIVER, "missing.txt", cwd=tmp_path)
    assert missing.exit_code == 1
    assert "missing.txt" in missing.stderr


def test_the_example_driver_runs_as_a_ray_job(cluster: Cluster):
    env = environment(cluster.home / "of-nobody", RAY_AUTH_MODE="token")
    env["RAY_ADDRESS"] = cluster.record.dashboard_url
    job = run_program(program("ray"), "job", "submit", "--", "python", "-m", DRIVER, env=env)
    assert job.exit_code == 0, job
    assert "Made by" in job.stdout
    assert "succeeded" in job.stdout


def test_a_script_deploys_calls_and_prompts_agents_of_its_own(cluster: Cluster, tmp_path: Path):
    done = cluster.python(str(OWN_SCRIPT), cwd=tmp_path)
    assert (done.exit_code, done.stderr) == (0, ""), done
    assert done.stdout.splitlines() == [
        "deploy: added",
        "again: unchanged",
        "call: Hello Ada, number 1.",
        "typed call: Hello Grace, number 2.",
        "launched: 42",
        "prompt: succeeded {'text': 'Dear Edsger'}",
        "agents: True",
    ]
    once_more = cluster.python(str(OWN_SCRIPT), cwd=tmp_path)
    assert (once_more.exit_code, once_more.stderr) == (0, ""), once_more
    assert "call: Hello Ada, number 3." in once_more.stdout  # the state was kept
    assert "launched: 44" in once_more.stdout  # it is still in memory


def test_a_script_may_import_ray_before_it_connects(cluster: Cluster):
    script = (
        "import ray, asyncio, agentray\n"
        "async def main():\n"
        "    async with agentray.connect() as manager:\n"
        "        apps = (await manager.status())['apps']\n"
        "        print('text_analysis' in {app['name'] for app in apps})\n"
        "    print(ray.is_initialized())\n"
        "asyncio.run(main())\n"
    )
    done = cluster.python("-c", script)
    assert (done.exit_code, done.stdout.split(), done.stderr) == (0, ["True", "False"], "")


@pytest.fixture
def lonely_home() -> Generator[Path]:
    home = make_home()
    yield home
    assert processes_of(home) == []
    home.rmdir()


def test_a_driver_without_a_cluster_is_told_how_to_start_one(lonely_home: Path):
    done = run_program(sys.executable, "-m", DRIVER, env=environment(lonely_home))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("ClusterNotRunning: ")
    assert "agentray up" in done.stderr
    assert done.stderr.count("\n") == 1


VERSIONS = [
    "Hello {prompt.text}.",
    "Good evening {prompt.text}, how nice of you to come.",
]
MODULE = """
from agentray import Agent, App, Prompt, TerminateEvent, on


class Greeting(TerminateEvent):
    text: str


class Butler(Agent):
    @on(Prompt)
    async def greet(self, prompt: Prompt) -> Greeting:
        return Greeting(text=f"{greeting}")


app = App("house", [Butler])
"""


async def test_a_deployed_app_is_replaced_by_its_new_code_while_the_others_go_on(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    replaced = asyncio.Event()

    async def prompt_on_and_on() -> int:
        count = 0
        while not replaced.is_set():
            run = await manager.prompt(RIVER, timeout=60)
            assert run.status is RunStatus.SUCCEEDED, run.error
            count += 1
        return count

    async def deploy(greeting: str) -> str:
        (tmp_path / "house.py").write_text(MODULE.replace("{greeting}", greeting))
        done = await asyncio.to_thread(cluster.agentray, "deploy", "house:app", cwd=tmp_path)
        assert (done.exit_code, done.stderr) == (0, ""), done
        return done.stdout.strip()

    async def ask() -> object:
        words = ("prompt", "--agent", "butler", "Ada", "--json")
        done = await asyncio.to_thread(cluster.agentray, *words)
        assert done.exit_code == 0, done
        return done.stdout

    assert await deploy(VERSIONS[0]) == "house: added"
    assert "Hello Ada." in str(await ask())
    assert await deploy(VERSIONS[0]) == "house: unchanged"
    async with asyncio.TaskGroup() as group:
        others = group.create_task(prompt_on_and_on())
        assert await deploy(VERSIONS[1]) == "house: replaced"
        replaced.set()
    assert others.result() > 0
    assert "Good evening Ada" in str(await ask())
    # Code that cannot be imported is refused, and what was there goes on.
    source = (tmp_path / "house.py").read_text()
    try:
        (tmp_path / "house.py").write_text("raise RuntimeError('half written')")
        broken = await asyncio.to_thread(cluster.agentray, "deploy", "house:app", cwd=tmp_path)
        assert broken.exit_code == ExitCode.USAGE
        assert "half written" in broken.complaint
        assert "Good evening Ada" in str(await ask())
    finally:
        (tmp_path / "house.py").write_text(source)  # hosts that come later import it
