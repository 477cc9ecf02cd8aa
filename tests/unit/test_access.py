"""Access levels: what a session does not allow is refused before it is run, wherever that is."""

from __future__ import annotations

from typing import Any

import pytest

from agentray import (
    AccessDenied,
    AccessLevel,
    Agent,
    App,
    ConfigurationError,
    Event,
    Prompt,
    TerminateEvent,
    action,
    on,
    tool,
)
from agentray.protocol.access import allows
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.manager_client import ManagerClient
from agentray.testing import LocalRuntime, run
from tests.support.eventually import eventually_async

touched: list[str] = []


@tool(access="write")
async def book(what: str) -> str:
    touched.append(f"book {what}")
    return what


@tool(access="read")
def look_up(what: str) -> str:
    touched.append(f"look up {what}")
    return what


@tool
def weather() -> str:
    touched.append("weather")
    return "rain"


class Ordered(Event):
    by: str = ""


class Ended(TerminateEvent):
    by: str = ""


class Ledger(Agent):
    """Writes, and says so."""

    @action(access=AccessLevel.WRITE)
    async def write(self) -> str:
        touched.append("ledger.write")
        return "written"

    @action(access="read")
    async def lines(self) -> Any:
        for n in range(2):
            touched.append(f"ledger.line {n}")
            yield n

    @action
    async def through(self) -> str:
        return await self.handle(Ledger, "second").write()

    @on(Ordered, access="write", key="key:book")
    async def ordered(self, ordered: Ordered) -> Ended:
        touched.append(f"ledger.ordered {ordered.by}")
        return Ended(by=ordered.by)


class Assistant(Agent):
    """Does what it is told."""

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:  # noqa: C901, PLR0911 - one for each way
        ledger = self.handle(Ledger, "first")
        match prompt.text:
            case "tool":
                return await book("tea")
            case "read":
                return look_up("tea")
            case "public":
                return weather()
            case "thread":
                return await self.run_sync(look_up, "tea")
            case "call":
                return await ledger.write()
            case "nested":
                return await ledger.through()
            case "stream":
                return [n async for n in ledger.lines()]
            case "tell":
                await ledger.write.tell()
                return None
            case "event":
                return Ordered(by="event")
            case "foreign":
                return Ordered(by="foreign", correlation_id="another")
            case "dispatch":
                begun = await self.dispatch(Ordered(by="dispatch"))
                return await begun.result()
            case _:
                return {"access": self.context.access}


app = App("ledgers", [Assistant, Ledger])

NEEDS = {
    "tool": "write",
    "read": "read",
    "public": "public",
    "thread": "read",
    "call": "write",
    "nested": "write",
    "stream": "read",
    "tell": "write",
    "event": "write",
    "foreign": "write",
    "dispatch": "write",
}


@pytest.fixture(autouse=True)
def nothing_touched() -> None:
    touched.clear()


def in_runtime(test: Any, **options: Any) -> None:
    async def whole() -> None:
        async with LocalRuntime(**options) as manager:
            await manager.deploy(app)
            await test(manager)

    run(whole())


async def prompted(manager: ManagerClient, text: str, level: str, **options: Any) -> Run:
    session = await manager.sessions.create(agent=Assistant, access_level=level)
    return await manager.prompt(text, session=session, **options)


@pytest.mark.parametrize("way", sorted(NEEDS))
@pytest.mark.parametrize("level", ["public", "read", "write"])
def test_what_needs_more_than_the_session_gives_is_not_run(way: str, level: str) -> None:
    allowed = allows(level, NEEDS[way])

    async def test(manager: ManagerClient) -> None:
        ended = await prompted(manager, way, level)
        if way == "tell" and not allowed:
            await _refused_letter(manager)
        elif way == "tell":
            await eventually_async(_touched)
        elif allowed:
            assert ended.status is RunStatus.SUCCEEDED, ended.error
        else:
            assert ended.status is RunStatus.FAILED
            assert ended.error is not None
            assert ended.error.type in {"AccessDenied", "RunFailed"}
            assert NEEDS[way] in ended.error.message
        assert bool(touched) == allowed, touched

    in_runtime(test, hosts=2)


async def _touched() -> bool:
    return bool(touched)


async def _refused_letter(manager: ManagerClient) -> None:
    async def found() -> bool:
        letters = await manager.dead_letters()
        return any(letter.error and letter.error.type == "AccessDenied" for letter in letters)

    await eventually_async(found)


@pytest.mark.parametrize("way", ["call", "event", "foreign"])
def test_it_holds_in_runs_that_are_durable_per_step(way: str) -> None:
    async def test(manager: ManagerClient) -> None:
        refused = await prompted(manager, way, "read", durability="step")
        assert refused.status is RunStatus.FAILED
        assert refused.error is not None
        assert refused.error.type == "AccessDenied"
        assert touched == []
        done = await prompted(manager, way, "write", durability="step")
        assert done.status is RunStatus.SUCCEEDED
        assert len(touched) == 1

    in_runtime(test, hosts=2)


def test_without_a_session_nothing_is_restricted() -> None:
    async def test(manager: ManagerClient) -> None:
        for way in ("tool", "call", "nested", "event"):
            assert (await manager.prompt(way, agent=Assistant)).status is RunStatus.SUCCEEDED
        assert (await manager.prompt("say", agent=Assistant)).result == {"access": None}
        assert await manager.handle(Ledger, "x").write() == "written"
        assert await book("x") == "x"

    in_runtime(test)


def test_the_level_is_that_of_when_the_prompt_was_accepted() -> None:
    async def test(manager: ManagerClient) -> None:
        session = await manager.sessions.create(agent=Assistant)
        assert (await manager.prompt("say", session=session)).result == {"access": "public"}
        await manager.sessions.update(session.id, access_level="write")
        assert (await manager.prompt("say", session=session)).result == {"access": "write"}
        assert (await manager.prompt("tool", session=session)).status is RunStatus.SUCCEEDED
        await manager.sessions.update(session.id, access_level="read")
        assert (await manager.prompt("tool", session=session)).status is RunStatus.FAILED

    in_runtime(test)


def test_the_error_says_what_was_refused_and_why() -> None:
    async def test(manager: ManagerClient) -> None:
        ended = await prompted(manager, "call", "read")
        assert ended.error is not None
        told = "ledger/first.write needs the access level 'write'; the session has 'read'."
        assert ended.error.message == told

    in_runtime(test)


def test_a_level_that_is_none_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match="root"):
        tool(access="root")
    with pytest.raises(ConfigurationError, match="root"):
        action(access="root")
    with pytest.raises(ConfigurationError, match="root"):
        on(Ordered, access="root")


def test_levels_include_those_below_them() -> None:
    levels = [None, "public", "read", "write"]
    for given in levels[1:]:
        for needed in levels:
            assert allows(given, needed) == (levels.index(needed) <= levels.index(given))
    assert all(allows(None, needed) for needed in levels)
    assert issubclass(AccessDenied, PermissionError)
