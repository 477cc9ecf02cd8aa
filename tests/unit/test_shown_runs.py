"""What those see who follow a run while it is under way: text, tool calls, lost attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from agentray import Agent, AgentId, App, Event, ManagerClient, Prompt, Run, action, on
from agentray.errors import StoreUnavailable
from agentray.gateway.admission import Admissions
from agentray.gateway.streaming import RunStreams
from agentray.protocol.cursors import NOTHING, Cursor
from agentray.protocol.runs import RunEvent
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.store.base import NewRun, run_input
from agentray.testing import LocalRuntime
from agentray.testing import run as run_in_virtual_time
from tests.support.eventually import eventually_async
from tests.support.local_gateway import channel_to

gates: dict[str, asyncio.Event] = {}


class Told(Event):
    text: str


class Poet(Agent):
    """Says what it is asked to say; a word in brackets is a gate that it waits for."""

    @action
    async def tell_nobody(self) -> None:
        await say(self, "a ?look b")

    @on(Prompt)
    async def recite(self, prompt: Prompt) -> Any:
        if prompt.text.startswith("tell "):
            return Told(text=prompt.text.removeprefix("tell "))
        return await say(self, prompt.text)


class Echo(Agent):
    @on(Told, key="field:text")
    async def hear(self, told: Told) -> None:
        await say(self, told.text)


async def say(agent: Agent, text: str) -> str:
    said = ""
    for word in text.split(" "):
        if word.startswith("("):
            await gates[word].wait()
        elif word.startswith("?"):
            call = agent.context.tool_call(word[1:], {"at": word})
            agent.context.tool_result(call, word[1:], ["found"])
        else:
            agent.context.stream_text(f"{word} ")
            said += f"{word} "
    return said


@pytest.fixture(autouse=True)
def _gates() -> None:
    gates.clear()
    gates.update({"(1)": asyncio.Event(), "(2)": asyncio.Event()})


class Watcher:
    """A gateway's eyes on the runs of a local runtime."""

    def __init__(self, runtime: LocalRuntime, manager: ManagerClient, channel: Channel) -> None:
        self.runtime = runtime
        self.manager = manager
        self.channel = channel
        self.streams = RunStreams(runtime.store, ChannelDispatcher(self.channel))

    async def begin(self, text: str, **options: Any) -> Run:
        """Begin a prompt of poet/a, whose end nobody awaits; return its run."""
        before = {run.id for run in await self.runtime.store.list_runs()}
        self.prompting = asyncio.create_task(self.manager.prompt(text, agent="poet/a", **options))

        async def admitted() -> list[Run]:
            return [r for r in await self.runtime.store.list_runs() if r.id not in before]

        return (await eventually_async(admitted))[0]

    async def follow(self, run: Run, after: Cursor = NOTHING) -> AsyncGenerator[RunEvent]:
        """Follow a run as each stream of a gateway does."""
        async with aclosing(self.streams.follow(run, after)) as events:
            async for event in events:
                if event is not None:
                    yield event

    async def all_of(self, run: Run, after: Cursor = NOTHING) -> list[RunEvent]:
        return [event async for event in self.follow(run, after)]


@asynccontextmanager
async def watching(hosts: int = 1) -> AsyncGenerator[Watcher]:
    runtime = LocalRuntime(hosts=hosts)
    async with runtime as manager:
        await manager.deploy(App("poets", [Poet, Echo]))
        async with channel_to(runtime) as channel:
            yield Watcher(runtime, manager, channel)


def text_of(events: list[RunEvent]) -> str:
    return "".join(event.data["text"] for event in events if event.kind == "text_delta")


async def test_text_is_shown_before_it_is_kept_and_kept_in_the_end():
    async with watching() as at:
        run = await at.begin("to be (1) or not (2)")
        events = at.follow(run)
        seen = [await anext(events) for _ in range(3)]
        assert [event.kind for event in seen] == ["queued", "started", "text_delta"]
        assert seen[2].data == {"text": "to be ", "agent": "poet/a"}
        broken = Broken(at.runtime.store)
        broken.hold()
        gates["(1)"].set()
        seen.append(await anext(events))
        assert seen[3].data["text"] == "or not "
        assert seen[3].attempt == 1, "it was shown before it was kept"
        broken.go_on()
        gates["(2)"].set()
        seen += [event async for event in events]
        ended = await at.prompting
        assert ended.result == text_of(seen) == "to be or not "
        assert [event.offset for event in seen] == list(range(5))
        kept = await at.runtime.store.run_events(run.id)
        assert [event.model_copy(update={"attempt": None}) for event in seen] == kept
        assert await at.all_of(run) == kept, "a stream of a run that has ended replays it"


async def test_the_end_of_a_run_does_not_overtake_what_waits_for_the_store():
    async with watching() as at:
        run = await at.begin("to be (1) or (2) not")
        events = at.follow(run)
        seen = [await anext(events) for _ in range(3)]
        broken = Broken(at.runtime.store)
        broken.hold()
        gates["(1)"].set()
        await asyncio.wait_for(broken.has_refused.wait(), 30)
        broken.go_on()
        gates["(2)"].set()
        seen += [event async for event in events]
        assert (await at.prompting).result == text_of(seen) == "to be or not "
        kept = await at.runtime.store.run_events(run.id)
        assert [event.model_copy(update={"attempt": None}) for event in seen] == kept


async def test_words_of_one_turn_are_one_event_and_tool_calls_stay_in_their_place():
    async with watching() as at:
        run = await at.begin("one two ?look three")
        events = await at.all_of(run)
        told = [(event.kind, event.data) for event in events[2:-1]]
        call = told[1][1]["id"]
        assert told == [
            ("text_delta", {"text": "one two ", "agent": "poet/a"}),
            (
                "tool_call",
                {"id": call, "name": "look", "arguments": {"at": "?look"}, "agent": "poet/a"},
            ),
            ("tool_result", {"id": call, "name": "look", "result": ["found"], "agent": "poet/a"}),
            ("text_delta", {"text": "three ", "agent": "poet/a"}),
        ]


def test_the_first_text_waits_for_no_timer_and_is_written_with_what_came_before_it():
    """In virtual time, which stands still while somebody has something to do."""

    async def first_write() -> tuple[float, str]:
        async with watching() as at:
            dispatcher = ChannelDispatcher(at.channel)
            admissions = Admissions(at.runtime.store, dispatcher, max_under_way=9)
            place = dispatcher.place("poet", "a", "")
            given, now = run_input("to be (1)", None), datetime.now(UTC)
            new = NewRun("run_1", place.agent, place.pool, place.slot, given, "run_1", now)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            admitted = await admissions.admit(new)
            answer = at.streams.response(admitted.admission.run, Cursor(), {}, begins=True)
            writes = aiter(answer.pieces)
            first = await anext(writes)
            took_s = loop.time() - begun
            gates["(1)"].set()
            async for _ in writes:
                pass
            await admissions.close()
            return took_s, first.decode()

    took_s, text = run_in_virtual_time(first_write())
    assert took_s == 0
    assert [line for line in text.splitlines() if line.startswith("event:")] == [
        "event: queued", "event: started", "event: text_delta",
    ]  # fmt: skip


async def test_several_that_watch_see_all_of_it_wherever_they_come_in():
    async with watching() as at:
        run = await at.begin("a (1) b (2) c")
        early = asyncio.create_task(at.all_of(run))
        first = at.follow(run)
        seen = [await anext(first) for _ in range(3)]
        gates["(1)"].set()
        seen.append(await anext(first))
        late = asyncio.create_task(at.all_of(run, Cursor.at(seen[2])))
        gates["(2)"].set()
        seen += [event async for event in first]
        assert [text_of(told) for told in (seen, await early, await late)] == [
            "a b c ", "a b c ", "b c ",
        ]  # fmt: skip


async def test_text_from_agents_on_other_hosts_arrives_before_the_run_ends():
    async with watching(hosts=4) as at:
        for number in range(12):
            run = await at.begin(f"tell {number} echo")
            await at.prompting
            events = await at.all_of(run)
            assert text_of(events) == f"{number} echo "
            assert events[-1].kind == "succeeded"


@pytest.mark.parametrize("comes_back", [False, True])
async def test_what_was_shown_and_is_lost_with_its_host_is_told_anew(comes_back: bool):
    """Also to a client that comes back to another gateway, which knows nothing but its id."""
    async with watching(hosts=2) as at:
        run = await at.begin("a b (1) c (2)")
        events = at.follow(run)
        seen = [await anext(events) for _ in range(3)]
        store = at.runtime.store
        await eventually_async(lambda: store.run_events(run.id, after=1))
        broken = Broken(store)
        host = at.runtime.host_of(AgentId("poet", "a"))
        assert host is not None
        broken.hold()
        gates["(1)"].set()
        seen.append(await anext(events))
        assert (seen[-1].data["text"], seen[-1].attempt) == ("c ", 1)
        if comes_back:
            await events.aclose()
        await at.runtime.kill_host(host)
        broken.go_on()
        gates["(2)"].set()
        if comes_back:
            events = Watcher(at.runtime, at.manager, at.channel).follow(run, Cursor.at(seen[-1]))
        rest = [event async for event in events]
        assert [event.kind for event in rest[:2]] == ["attempt_lost", "started"]
        assert rest[0].offset == seen[-1].offset, "in the place of what was not kept"
        assert text_of(rest) == "a b c "
        kept = await store.run_events(run.id)
        assert [event.offset for event in kept] == list(range(len(kept)))
        told = [*seen[:-1], *rest]
        assert [event.model_copy(update={"attempt": None}) for event in told] == kept


class Broken:
    """Lets a store take no events of runs for a while."""

    def __init__(self, store: Any) -> None:
        self._store, self._commit = store, store.commit
        self.has_refused = asyncio.Event()

    def hold(self) -> None:
        async def refuse(*_: Any) -> Any:
            self.has_refused.set()
            raise StoreUnavailable("the test says so")

        self._store.commit = refuse

    def go_on(self) -> None:
        self._store.commit = self._commit


async def test_a_run_that_is_durable_per_step_shows_what_is_kept():
    async with watching(hosts=2) as at:
        run = await at.begin("a b (1) c", durability="step")
        events = at.follow(run)
        seen = [await anext(events) for _ in range(3)]
        assert seen[2].data["text"] == "a b "
        assert {event.attempt for event in seen} == {None}
        gates["(1)"].set()
        seen += [event async for event in events]
        assert text_of(seen) == "a b c "
        assert seen[-1].kind == "succeeded"


async def test_what_no_text_can_be_is_mended_and_outside_of_runs_nobody_listens():
    async with watching() as at:
        run = await at.begin("\ud83d is half a face")
        assert text_of(await at.all_of(run)) == "? is half a face "
        await at.manager.handle(Poet, "a").tell_nobody()


async def test_a_run_that_begins_later_is_watched_without_asking_all_the_time():
    async with watching() as at:
        run = await at.manager.prompt("a", agent="poet/a", delay_s=1.0)
        asked = 0
        get_run = at.runtime.store.get_run

        async def counting(run_id: str) -> Any:
            nonlocal asked
            asked += 1
            return await get_run(run_id)

        at.runtime.store.get_run = counting
        assert text_of(await at.all_of(run)) == "a "
        assert asked < 30
