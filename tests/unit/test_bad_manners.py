"""Whatever user code raises fails its own work: not the agent, not the host, not anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentray import (
    Agent,
    AgentFailed,
    AgentOptions,
    App,
    ManagerClient,
    Prompt,
    RemoteError,
    RestartPolicy,
    RunStatus,
    action,
    on,
)
from agentray.testing import LocalRuntime


class SilentError(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


class AbruptError(BaseException):
    """Derived from the base of all, as no error should be."""


ERRORS: dict[str, type[BaseException]] = {
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "generator": GeneratorExit,
    "abrupt": AbruptError,
    "silent": SilentError,
}


class Rude(Agent):
    @on(Prompt)
    async def receive(self, prompt: Prompt) -> str:
        if prompt.text == "surrogate":
            return "half \ud800 a pair"
        if prompt.text in ERRORS:
            raise ERRORS[prompt.text]
        return prompt.text

    @action
    async def behave(self, how: str) -> str:
        if how in ERRORS:
            raise ERRORS[how]
        return how


class RudeStart(Agent):
    options = AgentOptions(restart=RestartPolicy(max_restarts=1, backoff_s=0.001))

    async def on_start(self) -> None:
        if self.id.key in ERRORS:
            raise ERRORS[self.id.key]

    @action
    async def hello(self) -> str:
        return "hello"


@pytest.fixture
async def manager() -> AsyncIterator[ManagerClient]:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("rude", [Rude, RudeStart]))
        yield manager


@pytest.mark.parametrize("how", [*ERRORS, "surrogate"])
async def test_a_run_whose_handler_misbehaves_fails_and_the_next_succeeds(
    manager: ManagerClient, how: str
) -> None:
    run = await asyncio.wait_for(manager.prompt(how, agent="rude/one"), 60)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.attempt == 1
    after = await asyncio.wait_for(manager.prompt("fine", agent="rude/one"), 60)
    assert after.result == "fine"


@pytest.mark.parametrize("how", list(ERRORS))
async def test_a_caller_hears_of_it_and_the_agent_goes_on(manager: ManagerClient, how: str) -> None:
    rude = manager.handle(Rude, "two")
    with pytest.raises((RemoteError, SilentError)):
        await asyncio.wait_for(rude.behave(how), 60)
    assert await asyncio.wait_for(rude.behave("well"), 60) == "well"


@pytest.mark.parametrize("how", list(ERRORS))
async def test_an_agent_that_cannot_start_takes_nobody_along(
    manager: ManagerClient, how: str
) -> None:
    with pytest.raises(AgentFailed):
        await asyncio.wait_for(manager.handle(RudeStart, how).hello(), 60)
    assert await asyncio.wait_for(manager.handle(RudeStart, "fine").hello(), 60) == "hello"


class Diarist(Agent):
    @action
    async def note(self) -> None:
        self.context.log.warning("noted", extra={"action": "noted", "pages": 3})


async def test_what_an_agent_logs_keeps_its_own_fields(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(App("diary", [Diarist]))
        await manager.handle(Diarist, "d").note()
    (record,) = [r for r in caplog.records if r.message == "noted"]
    fields = record.__dict__
    assert (fields["action"], fields["pages"], fields["agent"]) == ("noted", 3, "diarist/d")
