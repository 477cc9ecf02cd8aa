"""A call chain that comes back to an agent: one transaction of each agent in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agentray import Agent, AgentId, AgentOptions, App, ManagerClient, Prompt, action, on
from agentray.errors import DeadlineExceeded, StateRefused, UnknownState
from agentray.testing import LocalRuntime
from tests.support.virtual_time import run


class Call(NamedTuple):
    """One node of a tree of calls: what its handler does, in order."""

    agent: str
    steps: list[int | Call]
    fails: bool
    streams: bool
    catches: bool


class Log(BaseModel):
    entries: list[int] = []
    more: dict[str, Any] = {}


class Failed(Exception):
    pass


class Node(Agent):
    state: Log

    async def _follow(self, call: Call) -> None:
        log = self.state  # held across calls that come back
        for step in call.steps:
            if isinstance(step, int):
                log.entries.append(step)
                continue
            try:
                await self._pass_on(step)
            except Failed:
                if not call.catches:
                    raise
        if call.fails:
            raise Failed

    async def _pass_on(self, call: Call) -> None:
        handle = self.handle(Node, call.agent)
        if call.streams:
            async for _ in handle.stream_steps(call):
                pass
        else:
            await handle.do_steps(call)

    @action
    async def do_steps(self, call: Call) -> None:
        await self._follow(call)

    @action
    async def stream_steps(self, call: Call) -> AsyncIterator[int]:
        yield 0
        await self._follow(call)
        yield 1

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> str:
        del prompt
        self.state.entries.append(1)
        await self.handle(Node, "other").do_steps(BACK_AND_FAIL)
        return "caught"

    @action
    async def read(self) -> list[int]:
        return self.state.entries

    @action
    async def spoil(self) -> None:
        self.state.entries.append(1)
        self.state.more["lock"] = object()
        with pytest.raises(StateRefused, match="more"):
            await self.handle(type(self), self.id.key).read()
        self.state.more.clear()

    @action
    async def leave_no_json(self) -> None:
        self.state.more["lock"] = object()

    @action
    async def call_leave_no_json(self) -> None:
        self.state.entries.append(1)
        with pytest.raises(StateRefused, match="more"):
            await self.handle(type(self), self.id.key).leave_no_json()

    @action
    async def cancel(self) -> None:
        self.state.entries.append(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await self.handle(type(self), self.id.key).add_and_wait(2)
        self.state.entries.append(3)

    @action
    async def exceed(self) -> None:
        with pytest.raises(DeadlineExceeded):
            await self.handle(type(self), self.id.key).with_timeout(1).add_and_wait(2)
        self.state.entries.append(3)
        await asyncio.sleep(3)

    @action
    async def add_and_wait(self, number: int, seconds: float = 1000.0) -> None:
        self.state.entries.append(number)
        await asyncio.sleep(seconds)

    @action
    async def exceed_over(self, path: list[str], timeouts: list[float | None]) -> None:
        """Call along a path of agents, with a deadline on each hop; the last one hangs."""
        if not path:
            await self.add_and_wait(50)
            return
        self.state.entries.append(1)
        try:
            handle = self.handle(Node, path[0]).with_timeout(timeouts[0])
            await handle.exceed_over(path[1:], timeouts[1:])
        except DeadlineExceeded:
            self.state.entries.append(2)

    @action
    async def exceed_stubborn(self) -> None:
        with pytest.raises(DeadlineExceeded):
            await self.handle(Node, "b").with_timeout(1).call_stubborn(self.id.key)
        self.state.entries.append(3)
        await asyncio.sleep(20)

    @action
    async def call_stubborn(self, key: str) -> None:
        await self.handle(Node, key).stubborn()

    @action
    async def stubborn(self) -> None:
        self.state.entries.append(50)
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(5)  # its clean-up takes longer than anybody waits for it

    @action
    async def do_not_wait(self) -> None:
        self.state.entries.append(1)
        handle = self.handle(type(self), self.id.key)
        with pytest.raises(TimeoutError):  # nobody waits for the one that is told
            async with asyncio.timeout(1):
                await asyncio.shield(asyncio.create_task(handle.add_and_wait(2, 5.0)))

    @action
    async def at_once(self) -> None:
        handle = self.handle(type(self), self.id.key)
        await asyncio.gather(handle.add_and_wait(1, 2.0), self._fail_later())

    async def _fail_later(self) -> None:
        failing = Call(self.id.key, [2], fails=True, streams=False, catches=False)
        with pytest.raises(Failed):
            await self.handle(type(self), self.id.key).do_steps(failing)


INNERMOST = Call("one", [7], fails=True, streams=False, catches=False)
BACK_AND_FAIL = Call("other", [5, INNERMOST], fails=False, streams=False, catches=True)


def calls() -> st.SearchStrategy[Call]:
    def of(children: st.SearchStrategy[Call]) -> st.SearchStrategy[Call]:
        steps = st.lists(st.integers(0, 9) | children, max_size=4)
        names = st.sampled_from(["a", "b"])
        return st.builds(Call, names, steps, st.booleans(), st.booleans(), st.booleans())

    leaf = st.builds(Call, st.sampled_from(["a", "b"]), st.just([1]), *[st.booleans()] * 3)
    return of(st.recursive(leaf, of, max_leaves=10))


def expected(call: Call, state: dict[str, list[int]]) -> bool:
    """Do what the agents should; return whether the call succeeds."""
    before = list(state[call.agent])
    good = True
    for step in call.steps:
        if isinstance(step, int):
            state[call.agent].append(step)
        elif not expected(step, state) and not call.catches:
            good = False
            break
    if not good or call.fails:
        state[call.agent] = before
        return False
    return True


async def kept(manager: ManagerClient, key: str) -> list[int]:
    try:
        return (await manager.save_state(AgentId("node", key))).state["entries"]
    except UnknownState:
        return []


def in_a_cluster(scenario: Any, hosts: int = 1) -> None:
    async def whole() -> None:
        async with LocalRuntime(hosts=hosts) as manager:
            await manager.deploy(App("chains", [Node]))
            await scenario(manager)

    run(whole())


@settings(max_examples=60, deadline=None)
@given(trees=st.lists(calls(), min_size=1, max_size=3))
def test_every_tree_of_calls_leaves_what_its_successful_handlers_did(trees: list[Call]) -> None:
    async def scenario(manager: ManagerClient) -> None:
        state: dict[str, list[int]] = {"a": [], "b": []}
        for tree in trees:
            handle = manager.handle(Node, tree.agent)
            if expected(tree, state):
                await handle.do_steps(tree)
            else:
                with pytest.raises(Failed):
                    await handle.do_steps(tree)
            for key, entries in state.items():
                assert await kept(manager, key) == entries
                assert await manager.handle(Node, key).read() == entries

    in_a_cluster(scenario)


def test_a_prompt_is_a_transaction_with_what_comes_back_too() -> None:
    async def scenario(manager: ManagerClient) -> None:
        ended = await manager.prompt("go", agent=AgentId("node", "one"))
        assert ended.result == "caught"
        assert await kept(manager, "one") == [1]
        assert await kept(manager, "other") == [5]

    in_a_cluster(scenario)


def test_what_comes_back_is_not_committed_before_the_outermost_handler_ends() -> None:
    async def scenario(manager: ManagerClient) -> None:
        slow = Call("a", [1, Call("a", [2], False, False, False)], False, False, False)
        await manager.handle(Node, "a").do_steps(slow)
        assert await kept(manager, "a") == [1, 2]
        failing = slow._replace(fails=True)
        with pytest.raises(Failed):
            await manager.handle(Node, "a").do_steps(failing)
        assert await kept(manager, "a") == [1, 2]

    in_a_cluster(scenario)


def test_a_call_back_that_is_cancelled_goes_back_to_where_it_began() -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").cancel()
        assert await kept(manager, "a") == [1, 3]

    in_a_cluster(scenario)


def test_a_call_back_that_hears_late_of_its_deadline_undoes_nothing_of_who_went_on() -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").exceed_stubborn()
        assert await kept(manager, "a") == [3]

    in_a_cluster(scenario)


def test_a_call_back_whose_deadline_passes_goes_back_before_its_caller_goes_on() -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").exceed()
        assert await kept(manager, "a") == [3]

    in_a_cluster(scenario)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize(
    ("path", "timeouts"),
    [
        ("xa", (0.5, None)),
        ("xa", (5.0, 0.5)),
        ("xa", (None, 0.5)),
        ("xya", (0.5, None, None)),
        ("xya", (None, 0.5, None)),
        ("xya", (None, None, 0.5)),
        ("xaxa", (None, 0.5, None, None)),
    ],
)
def test_whichever_hop_a_deadline_is_on_what_came_back_is_undone(
    path: str, timeouts: tuple[float | None, ...], hosts: int
) -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").exceed_over(list(path), list(timeouts))
        entries = await kept(manager, "a")
        assert 50 not in entries
        assert entries[0] == 1

    in_a_cluster(scenario, hosts)


@pytest.mark.parametrize("what", ["spoil", "call_leave_no_json"])
def test_a_state_that_cannot_be_kept_fails_the_call_back(what: str) -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").call_by_name(what, (), {})
        assert await kept(manager, "a") == [1]
        assert await manager.handle(Node, "a").read() == [1]

    in_a_cluster(scenario)


def test_a_call_back_that_outlives_its_chain_commits_by_itself() -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").do_not_wait()
        await manager.handle(Node, "a").add_and_wait(3, 1.0)
        await asyncio.sleep(10)
        assert await kept(manager, "a") == [1, 2, 3]

    in_a_cluster(scenario)


def test_call_backs_at_the_same_time_do_not_undo_each_others_work() -> None:
    async def scenario(manager: ManagerClient) -> None:
        await manager.handle(Node, "a").at_once()
        assert 1 in await kept(manager, "a")

    in_a_cluster(scenario)


def test_a_handler_that_interleaves_commits_by_itself() -> None:
    class Free(Node):
        options = AgentOptions(concurrency=None)

    async def scenario(manager: ManagerClient) -> None:
        await manager.deploy(App("free", [Free]))
        await manager.handle(Free, "a").do_not_wait()
        await asyncio.sleep(10)
        assert (await manager.save_state("free/a")).state["entries"] == [1, 2]

    in_a_cluster(scenario)
