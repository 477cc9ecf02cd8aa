"""What is told of errors: where they come from, what was waited for, what can be done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from agentray import (
    Agent,
    AgentOptions,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    Prompt,
    RestartPolicy,
    RunFailed,
    action,
    on,
)
from agentray.cli import states
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Asked(Event):
    name: str = ""


class Wanted(Asked):
    """Has the field of its base, and one of its own."""

    number: int = 0


class Broken(Agent):
    options = AgentOptions(restart=RestartPolicy(max_restarts=0))

    async def on_start(self) -> None:
        raise ValueError("no start")

    @on(Wanted, key="key:b")
    async def want(self, wanted: Wanted) -> None: ...


class Asker(Agent):
    @on(Asked, key="key:a")
    async def ask(self, _: Asked) -> Wanted:
        return Wanted()

    @on(Prompt)
    async def prompted(self, _: Prompt) -> Wanted:
        return Wanted()


class Mute(Agent):
    options = AgentOptions(restart=RestartPolicy(max_restarts=0))

    async def on_start(self) -> None:
        raise ValueError("no start")

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> None: ...


class Slow(Agent):
    async def on_start(self) -> None:
        await asyncio.sleep(3600)


class Count(BaseModel):
    n: int = 0


class Kept(Agent):
    state: Count

    @action
    async def hello(self) -> str:
        return "hello"


async def test_the_path_of_an_error_ends_at_who_could_not_be_started() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("first", [Broken, Asker]))
        run = await manager.dispatch(Asked())
        with pytest.raises(RunFailed) as caught:
            await run.result(timeout=60)
        assert caught.value.error_type == "AgentFailed"
        assert list(caught.value.path) == ["Asked at asker/a", "Wanted at broken/b"]
        run = await manager.dispatch(Wanted())
        with pytest.raises(RunFailed) as caught:
            await run.result(timeout=60)
        assert list(caught.value.path) == ["Wanted at broken/b"]


async def test_a_prompt_whose_agent_cannot_be_started_is_a_step_of_the_path() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("first", [Mute]))
        run = await manager.prompt("hello")
        assert run.error is not None
        assert (run.error.type, list(run.error.path)) == ("AgentFailed", [f"Prompt at {run.agent}"])


def test_a_key_by_a_field_that_the_event_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Wanted has no field 'nope'.*name, number"):

        class Wrong(Agent):  # pyright: ignore[reportUnusedClass]
            @on(Wanted, key="field:nope")
            async def want(self, wanted: Wanted) -> None: ...

    with pytest.raises(ConfigurationError, match="Asked has no field 'number'"):
        on(Wanted, Asked, key="field:number")
    on(Asked, key="field:number", subclasses=True)  # a subclass has it
    on(Wanted, key="field:name")
    on(Wanted, key="field:event_id")


async def test_a_launch_that_is_late_says_what_it_waited_for() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("first", [Slow]))
        with pytest.raises(DeadlineExceeded) as caught:
            await manager.launch(Slow, name="s", timeout=0.2)
        assert str(caught.value) == (
            "slow/s.launch did not reply within 0.2 s: its host had not made it, or its on_start "
            "had not ended."
        )
        assert (caught.value.agent, caught.value.action) == ("slow/s", "launch")


async def test_an_event_that_nobody_handles_says_so() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("first", [Kept]))
        run = await manager.dispatch(Asked())
        with pytest.raises(RunFailed, match=r"No agent of a running app has a handler for .*Asked"):
            await run.result(timeout=60)


async def test_a_told_message_that_is_wrong_is_kept_as_a_dead_letter() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("first", [Kept]))
        kept: Any = manager.handle(Kept, "k")
        await kept.sing.tell()
        await kept.hello.tell("too", "many")

        async def both() -> bool:
            return len(await manager.dead_letters()) == 2

        await eventually_async(both)


@pytest.mark.parametrize("app", ["nosuch", "first"])
def test_an_export_that_fails_touches_no_file(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def connect(**_: object) -> AsyncGenerator[Any]:
        async with LocalRuntime() as manager:
            await manager.deploy(App("first", [Kept]))
            yield manager

    monkeypatch.setattr("agentray.runtime.connection.connect", connect)
    monkeypatch.setenv("AGENTRAY_HOME", str(tmp_path / "home"))
    file = tmp_path / "states.jsonl"
    file.write_text("of yesterday")
    to_file = CliRunner().invoke(states.group, ["export", app, str(file)])
    to_output = CliRunner().invoke(states.group, ["export", app])
    if app == "first":
        assert file.read_text().splitlines() == to_output.stdout.splitlines()
        assert len(file.read_text().splitlines()) == 2  # the first and the last line
    else:
        assert to_file.exit_code == to_output.exit_code != 0
        assert file.read_text() == "of yesterday"
        assert to_output.stdout == ""
