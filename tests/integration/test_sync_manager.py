"""Scripts that do not await, on a real cluster: as a user runs them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentray import ManagerClient
from tests.support.cluster import Cluster
from tests.support.eventually import eventually_async

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import threading
import agentray
from agentray import Agent, App, Prompt, TerminateEvent, action, on

class Answer(TerminateEvent):
    text: str

class Blocking(Agent):
    @action
    async def greet(self, name: str) -> str:
        return f"Hello {name}"

    @action
    async def up_to(self, end: int):
        for number in range(end):
            yield number

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Answer:
        return Answer(text=prompt.text.upper())

with agentray.connect() as manager:
    manager.deploy(App("blocking", [Blocking]))
    ada = manager.launch(Blocking, name="ada", lifetime="driver")
    print(ada.sync.greet("you"))
    print(sum(ada.sync.up_to(1000)))
    print(manager.prompt("hello", agent=Blocking, timeout=60).result)
    print([record.status.value for record in manager.find(type=Blocking)])
print(threading.active_count() == 1 or threading.enumerate())
with agentray.connect() as manager:
    print([record.status.value for record in manager.find(type=Blocking)])
    manager.shutdown(ada, terminate=True)
    manager.stop("blocking")
"""

INTERRUPTED = """
import time

import agentray
from agentray import Agent, action
import asyncio

class Sleeper(Agent):
    @action
    async def sleep(self) -> None:
        await asyncio.sleep(1000)

with agentray.connect() as manager:
    sleeper = manager.launch(Sleeper, name="one")
    try:
        sleeper.sync.with_timeout(None).sleep()
    except KeyboardInterrupt:
        # Who cancels waits two seconds at most for the handler's end.
        until = time.monotonic() + 30
        while (status := sleeper.sync.status()["status"]) != "idle" and time.monotonic() < until:
            pass
        print(status)
    manager.shutdown(sleeper, terminate=True)
    manager.stop("sleeper")
"""


def test_a_script_connects_calls_and_leaves(cluster: Cluster, tmp_path: Path):
    done = cluster.python("-c", SCRIPT, cwd=tmp_path)
    assert (done.exit_code, done.stderr) == (0, ""), done
    assert done.stdout.splitlines() == [
        "Hello you",
        "499500",
        "{'text': 'HELLO'}",
        "['running']",
        "True",
        "['stopped']",
    ], done


async def test_ctrl_c_cancels_what_a_script_waits_for(
    cluster: Cluster, manager: ManagerClient, tmp_path: Path
):
    env = {**cluster.env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = subprocess.Popen(  # noqa: ASYNC220 - begins at once
        [sys.executable, "-c", INTERRUPTED],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:

        async def sleeps() -> bool:
            agents = await manager.agents("sleeper")
            return [agent["status"] for agent in agents] == ["running"]

        await eventually_async(sleeps, timeout_s=60)
        script.send_signal(signal.SIGINT)
        told, _ = await asyncio.to_thread(script.communicate, timeout=60)
        assert (script.returncode, told) == (0, "idle\n")
    finally:
        script.kill()
        await asyncio.to_thread(script.wait)
