"""Prompts whose runs are durable per step."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from agentray import Agent, AgentId, App, Event, Prompt, TerminateEvent, on
from agentray.errors import ConfigurationError, IdempotencyConflict
from agentray.examples import driver, text_analysis
from agentray.protocol.runs import RunStatus
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Weighed(Event):
    text: str


class Told(TerminateEvent):
    letters: int


class Prompts(BaseModel):
    seen: int = 0


class Reception(Agent):
    """Counts prompts in its state, and has them weighed."""

    state: Prompts

    @on(Prompt)
    async def take(self, prompt: Prompt) -> Weighed:
        self.state.seen += 1
        TAKEN.append(prompt.text)
        return Weighed(text=prompt.text)


class Scales(Agent):
    @on(Weighed, key="field:text")
    async def weigh(self, weighed: Weighed) -> Told:
        WEIGHING.append(weighed.text)
        if weighed.text.startswith("slow"):
            await GATE.wait()
        return Told(letters=len(weighed.text))


class Parrot(Agent):
    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        return prompt.text.upper()


TAKEN: list[str] = []
WEIGHING: list[str] = []
GATE = asyncio.Event()
SHOP = App("shop", [Reception, Scales, Parrot], entry=Reception)


async def nothing_left(runtime: LocalRuntime, *types: str) -> bool:
    return not await runtime.store.load_messages(types, range(256))


async def test_what_the_handler_returns_or_a_terminate_event_is_the_answer():
    async with (runtime := LocalRuntime(hosts=2)) as manager:
        await manager.deploy(SHOP)
        told = await manager.prompt("tea", durability="step")
        said = await manager.prompt("tea", agent="parrot/polly", durability="step")
        assert (told.status, told.result) == (RunStatus.SUCCEEDED, {"letters": 3})
        assert (said.status, said.result) == (RunStatus.SUCCEEDED, "TEA")
        assert await nothing_left(runtime, "reception", "scales", "parrot")


async def test_a_prompts_run_goes_on_after_its_last_commit():
    TAKEN.clear()
    WEIGHING.clear()
    GATE.clear()
    async with (runtime := LocalRuntime(hosts=3)) as manager:
        await manager.deploy(SHOP)
        asking = asyncio.create_task(
            manager.prompt("slow tea", agent="reception/ada", durability="step")
        )
        await eventually_async(lambda: _weighed(1), timeout_s=30)
        await runtime.kill_host(runtime.host_of(AgentId("scales", "slow tea")) or "")
        await eventually_async(lambda: _weighed(2), timeout_s=30)
        GATE.set()
        run = await asking
        assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"letters": 8})
        assert TAKEN == ["slow tea"], "what was committed is not done again"
        reception = AgentId("reception", "ada")
        kept = await runtime.store.load_states([reception])
        assert kept[reception].state == {"seen": 1}
        assert await nothing_left(runtime, "reception", "scales")


async def _weighed(times: int) -> bool:
    return len(WEIGHING) >= times


async def test_what_cannot_be_promised_is_refused():
    async with LocalRuntime() as manager:
        await manager.deploy(SHOP)
        with pytest.raises(ConfigurationError, match="'run' or 'step': 'none'"):
            await manager.prompt("tea", durability="none")  # pyright: ignore[reportArgumentType] - the mistake


async def test_a_repeat_with_another_durability_is_another_prompt():
    async with LocalRuntime() as manager:
        await manager.deploy(SHOP)
        run = await manager.prompt("tea", durability="step", idempotency_key="k")
        again = await manager.prompt("tea", durability="step", idempotency_key="k")
        assert again.id == run.id
        with pytest.raises(IdempotencyConflict):
            await manager.prompt("tea", idempotency_key="k")


async def test_a_prompt_that_begins_later_keeps_its_durability():
    async with (runtime := LocalRuntime(hosts=2)) as manager:
        await manager.deploy(SHOP)
        run = await manager.prompt("tea", durability="step", delay_s=5)
        stored = await runtime.store.get_run(run.id)
        assert stored is not None
        assert stored.input["durability"] == "step"

        async def ended() -> bool:
            found = await runtime.store.get_run(run.id)
            return found is not None and found.run.result == {"letters": 3}

        await eventually_async(ended, timeout_s=30)


@pytest.mark.parametrize("kill", [False, True])
async def test_a_text_is_analysed_per_step_as_it_is_otherwise(
    kill: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AGENTRAY_MODEL", raising=False)
    async with (runtime := LocalRuntime(hosts=3)) as manager:
        await manager.deploy(text_analysis.app)
        whole = await manager.prompt(driver.SAMPLE)
        asking = [
            asyncio.create_task(manager.prompt(driver.SAMPLE, durability="step")) for _ in range(6)
        ]
        if kill:
            while not await _some_message(runtime):  # noqa: ASYNC110 - any turn may be it
                await asyncio.sleep(0)
            await runtime.kill_host(runtime.hosts[0])
        for run in await asyncio.gather(*asking):
            assert (run.status, run.result) == (RunStatus.SUCCEEDED, whole.result)
        assert not await _some_message(runtime)


async def _some_message(runtime: LocalRuntime) -> bool:
    return not await nothing_left(runtime, *text_analysis.app.types)
