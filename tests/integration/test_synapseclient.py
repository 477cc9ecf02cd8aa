"""`synapseclient`, as it is, with its endpoints pointed at the gateway."""

from __future__ import annotations

from pathlib import Path

from agentray import Agent, App, Prompt, on
from tests.support.chat_agents import Counting, Plain
from tests.support.gateway import KEY
from tests.support.local_gateway import local_gateways
from tests.support.third_party import run_third_party


class Clerk(Agent):
    """Says how far it is, and what it was asked before."""

    state: Counting

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> str:
        self.state.asked += 1
        self.context.progress("looking", current=1, total=2)
        call = self.context.tool_call("look_up", {"text": prompt.text})
        self.context.tool_result(call, "look_up", "found")
        return f"{self.state.asked}: {prompt.text}"


async def test_agents_sessions_and_prompts_work_as_with_their_own_server(tmp_path: Path):
    app = App("clerks", [Clerk, Plain], entry=Plain)
    async with local_gateways(app, home=tmp_path) as local:
        told = await run_third_party("synapse_agent.py", local.replicas[0].url, KEY, "clerk")
        async with local.client() as ours:
            runs = (await ours.runs(agent="clerk")).runs

    blocking, others = told["blocking"], told["async"]
    assert blocking["registration"] == ["clerk~prod", "clerk", "prod"]
    assert blocking["type"] == "CUSTOM"
    assert blocking["registered_on"].endswith("Z")
    first, again, registration = blocking["session"]
    assert (first, registration) == (again, "clerk~prod")
    assert blocking["levels"] == ["READ_YOUR_PRIVATE_DATA", "WRITE_YOUR_PRIVATE_DATA"]
    assert blocking["answers"] == ["1: one", "2: two"]  # one agent, with its state
    assert sorted(blocking["ids"]) == sorted(run.id for run in runs)
    for trace, text in zip(blocking["traces"], ("one", "two"), strict=True):
        assert f'calls look_up({{"text": "{text}"}})' in trace
        assert "looking" in trace
    assert blocking["later"] == ""

    assert others["entry"] == ["Hello, Ada!", "Hello, Eve!"]
    assert others["failed"].startswith("no")
    assert "There is no session 'nothing'" in others["unknown"]
    assert "There is no agent type 'greter'" in others["unregistered"]
