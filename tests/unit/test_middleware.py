"""Middleware: what an app puts around its agents sees everything, and never loses a message."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, cast

import pytest
from pydantic import BaseModel

from agentray import (
    DROP,
    Agent,
    AgentId,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    ManagerClient,
    MessageDropped,
    MessageReply,
    Middleware,
    Prompt,
    RunStatus,
    SentMessage,
    TerminateEvent,
    action,
    on,
)
from agentray.runtime.packing import pack_app
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Refused(Exception):
    """Of the tests' own middleware."""


Hook = Callable[[Any], Any]


class Desk:
    """What the tests tell the middleware to do, and what it has seen."""

    def __init__(self) -> None:
        self.hooks: dict[str, Hook] = {}
        self.seen: list[str] = []
        self.told: list[Any] = []
        self.closed = 0
        self.store = MemoryStore()

    async def dead_letters(self) -> int:
        return len(await self.store.list_dead_letters())


desk = Desk()


@pytest.fixture(autouse=True)
def fresh_desk() -> None:
    global desk  # noqa: PLW0603 - agents and middleware look at it
    desk = Desk()


class Outer(Middleware):
    """Does what the desk says; as it is, it looks and lets pass."""

    async def on_send(self, message: SentMessage) -> Any:
        return await self._do("on_send", message)

    async def on_publish(self, event: Event) -> Any:
        return await self._do("on_publish", event)

    async def on_reply(self, reply: MessageReply) -> Any:
        return await self._do("on_reply", reply)

    async def _do(self, hook: str, given: Any) -> Any:
        where = f"{type(self).__name__}.{hook}"
        desk.seen.append(where)
        result = desk.hooks.get(where, _same)(given)
        return await result if inspect.isawaitable(result) else result


class Inner(Middleware):
    """The same without `async`."""

    def on_send(self, message: SentMessage) -> Any:
        return self._do("on_send", message)

    def on_publish(self, event: Event) -> Any:
        return self._do("on_publish", event)

    def on_reply(self, reply: MessageReply) -> Any:
        return self._do("on_reply", reply)

    def _do(self, hook: str, given: Any) -> Any:
        where = f"{type(self).__name__}.{hook}"
        desk.seen.append(where)
        return desk.hooks.get(where, _same)(given)


def _same(given: Any) -> Any:
    return given


def refuse(given: Any) -> Any:
    raise Refused(f"no {type(given).__name__}")


def dropping(given: Any) -> Any:
    del given
    return DROP


def forget(given: Any) -> Any:
    del given


def babble(given: Any) -> Any:
    del given
    return "text"


async def hang(given: Any) -> Any:
    try:
        await asyncio.Event().wait()
    finally:
        desk.closed += 1
    return given


class Noted(Event):
    text: str


class Ended(TerminateEvent):
    text: str


class Count(BaseModel):
    calls: int = 0


class Clerk(Agent):
    state: Count

    @action
    async def repeat(self, text: str, *, times: int = 1) -> str:
        self.state.calls += 1
        return text * times

    @action
    async def fail(self) -> None:
        self.state.calls += 1
        raise ValueError("the clerk is ill")

    @action(idempotent=True)
    async def calls(self) -> int:
        return self.state.calls

    @action
    async def whisper(self, text: str) -> None:
        desk.told.append(text)

    @action
    async def letters(self, text: str) -> AsyncIterator[str]:
        for letter in text:
            yield letter

    @action
    def half(self, text: str) -> Any:
        yield from text
        raise ValueError("the pen is empty")

    @action
    async def note(self, *texts: str) -> None:
        for text in texts:
            self.context.publish(Noted(text=text))

    @on(Prompt)
    async def answer(self, prompt: Prompt) -> Any:
        verb, _, rest = prompt.text.partition(" ")
        match verb:
            case "note":
                return [*(Noted(text=text) for text in rest.split()), Ended(text=rest)]
            case "fail":
                raise ValueError("the clerk is ill")
            case _:
                return rest


class Archive(Agent):
    @on(Noted, key="key:all")
    async def keep(self, noted: Noted) -> None:
        desk.told.append(noted.text)


def app(*middleware: Any) -> App:
    return App("office", [Clerk, Archive], entry=Clerk, middleware=middleware or [Outer, Inner])


@pytest.fixture(params=[1, 2], ids=["one host", "two hosts"])
async def manager(request: pytest.FixtureRequest) -> AsyncIterator[ManagerClient]:
    async with LocalRuntime(hosts=request.param, store=desk.store) as manager:
        await manager.deploy(app())
        yield manager


async def told(*texts: str) -> None:
    async def check() -> bool:
        return sorted(desk.told) == sorted(texts)

    await eventually_async(check)


async def dropped(manager: ManagerClient) -> int:
    return sum(host.get("dropped", 0) for host in (await manager.status())["hosts"])


# Calls


async def test_a_message_passes_in_order_and_its_reply_in_the_opposite_order(
    manager: ManagerClient,
) -> None:
    assert await manager.handle(Clerk, "c").repeat("a", times=3) == "aaa"
    assert desk.seen == ["Outer.on_send", "Inner.on_send", "Inner.on_reply", "Outer.on_reply"]


async def test_hooks_see_who_sends_what_to_whom(manager: ManagerClient) -> None:
    seen: list[SentMessage] = []

    def look(message: SentMessage) -> SentMessage:
        seen.append(message)
        return message

    desk.hooks["Inner.on_send"] = look
    await manager.handle(Clerk, "c").repeat("a", times=3)
    (message,) = seen
    assert (message.kind, message.target, message.name) == ("call", AgentId("clerk", "c"), "repeat")
    assert (message.args, dict(message.kwargs), message.sender) == (("a",), {"times": 3}, None)
    with pytest.raises(ConfigurationError, match="kind"):
        _ = message.event


async def test_a_message_and_its_reply_can_be_changed(manager: ManagerClient) -> None:
    desk.hooks["Outer.on_send"] = lambda m: m.changed(args=["b"])
    desk.hooks["Inner.on_send"] = lambda m: m.changed(kwargs={"times": len(m.args[0]) + 1})
    desk.hooks["Inner.on_reply"] = lambda r: r.changed(value=r.value + "!")
    desk.hooks["Outer.on_reply"] = lambda r: r.changed(value=r.value.upper())
    assert await manager.handle(Clerk, "c").repeat("a") == "BB!"


@pytest.mark.parametrize("who", ["Outer", "Inner"])
@pytest.mark.parametrize(("hook", "what"), [("on_send", "message"), ("on_reply", "reply")])
async def test_a_dropped_call_is_a_typed_error_at_its_caller_and_leaves_the_state_as_it_was(
    manager: ManagerClient, who: str, hook: str, what: str
) -> None:
    desk.hooks[f"{who}.{hook}"] = dropping
    with pytest.raises(MessageDropped) as caught:
        await manager.handle(Clerk, "c").repeat("a")
    error = caught.value
    assert (error.agent, error.action, error.middleware, error.what) == (
        *("clerk/c", "repeat"),
        who,
        what,
    )
    desk.hooks.clear()
    assert await manager.handle(Clerk, "c").calls() == 0
    assert await eventually_async(partial(dropped, manager)) == 1


@pytest.mark.parametrize("who", ["Outer", "Inner"])
@pytest.mark.parametrize("hook", ["on_send", "on_reply"])
async def test_a_hook_that_raises_rejects_the_call_with_its_error(
    manager: ManagerClient, who: str, hook: str
) -> None:
    desk.hooks[f"{who}.{hook}"] = refuse
    with pytest.raises(Refused, match="no "):
        await manager.handle(Clerk, "c").repeat("a")
    desk.hooks.clear()
    assert await manager.handle(Clerk, "c").calls() == 0


@pytest.mark.parametrize("who", ["Outer", "Inner"])
@pytest.mark.parametrize("hook", ["on_send", "on_reply"])
@pytest.mark.parametrize("nonsense", [forget, babble])
async def test_a_hook_that_returns_nonsense_is_named_in_a_typed_error(
    manager: ManagerClient, who: str, hook: str, nonsense: Hook
) -> None:
    desk.hooks[f"{who}.{hook}"] = nonsense
    with pytest.raises(ConfigurationError, match=f"{who}.{hook} returned (NoneType|str)"):
        await manager.handle(Clerk, "c").repeat("a")


async def test_a_hook_that_redirects_a_message_is_refused(manager: ManagerClient) -> None:
    other = SentMessage("call", AgentId("clerk", "other"), "repeat", ("a",))
    desk.hooks["Inner.on_send"] = lambda _: other
    with pytest.raises(ConfigurationError, match=r"Inner\.on_send returned SentMessage"):
        await manager.handle(Clerk, "c").repeat("a")


@pytest.mark.parametrize("hook", ["on_send", "on_reply"])
async def test_a_hook_that_hangs_ends_at_the_deadline_and_the_agent_goes_on(
    manager: ManagerClient, hook: str
) -> None:
    desk.hooks[f"Outer.{hook}"] = hang
    clerk = manager.handle(Clerk, "c")
    with pytest.raises(DeadlineExceeded):
        await clerk.with_timeout(0.2).repeat("a")
    desk.hooks.clear()
    assert await clerk.calls() == 0
    assert desk.closed == 1


async def test_without_a_deadline_a_hook_ends_at_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outer, "hook_timeout_s", 0.05)
    desk.hooks["Outer.on_send"] = hang
    async with LocalRuntime() as manager:
        await manager.deploy(app())
        with pytest.raises(DeadlineExceeded, match=r"Outer\.on_send for clerk/c\.repeat"):
            await manager.handle(Clerk, "c").with_timeout(None).repeat("a")


async def test_a_timeout_of_a_hooks_own_is_its_own_error(manager: ManagerClient) -> None:
    def out_of_time(_: Any) -> Any:
        raise TimeoutError("the oracle sleeps")

    desk.hooks["Outer.on_send"] = out_of_time
    with pytest.raises(TimeoutError, match="oracle") as caught:
        await manager.handle(Clerk, "c").repeat("a")
    assert not isinstance(caught.value, DeadlineExceeded)


async def test_a_cancelled_caller_ends_the_hook(manager: ManagerClient) -> None:
    desk.hooks["Outer.on_send"] = hang
    call = asyncio.create_task(manager.handle(Clerk, "c").repeat("a"))

    async def begun() -> bool:
        return desk.seen == ["Outer.on_send"]

    await eventually_async(begun)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert desk.closed == 1


async def test_replies_see_errors_and_may_turn_them_into_others_or_into_values(
    manager: ManagerClient,
) -> None:
    seen: list[BaseException | None] = []

    def translate(reply: MessageReply) -> MessageReply:
        seen.append(reply.error)
        return reply.changed(error=Refused("the office is closed"))

    desk.hooks["Inner.on_reply"] = translate
    with pytest.raises(Refused, match="closed"):
        await manager.handle(Clerk, "c").fail()
    assert isinstance(seen[0], ValueError)
    desk.hooks["Outer.on_reply"] = lambda reply: reply.changed(value=str(reply.error))
    assert await manager.handle(Clerk, "c").fail() == "the office is closed"
    desk.hooks.clear()
    assert await manager.handle(Clerk, "c").calls() == 0, "the handler failed: nothing is kept"


async def test_what_let_a_message_pass_sees_what_a_later_one_makes_of_it(
    manager: ManagerClient,
) -> None:
    desk.hooks["Inner.on_send"] = refuse
    desk.hooks["Outer.on_reply"] = lambda reply: reply.changed(value=type(reply.error).__name__)
    assert await manager.handle(Clerk, "c").repeat("a") == "Refused"
    assert desk.seen == ["Outer.on_send", "Inner.on_send", "Outer.on_reply"]


async def test_other_errors_of_a_call_stay_what_they_are(manager: ManagerClient) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        await manager.handle(Clerk, "c").repeat("a", color="red")
    with pytest.raises(ValueError, match="ill"):
        await manager.handle(Clerk, "c").fail()


# Tells


async def test_a_tell_passes_on_send_and_has_no_reply(manager: ManagerClient) -> None:
    desk.hooks["Inner.on_send"] = lambda m: m.changed(args=[m.args[0].upper()])
    await manager.handle(Clerk, "c").whisper.tell("psst")
    await told("PSST")
    assert desk.seen == ["Outer.on_send", "Inner.on_send"]


async def test_a_dropped_tell_is_counted_and_a_rejected_one_is_logged(
    manager: ManagerClient, caplog: pytest.LogCaptureFixture
) -> None:
    desk.hooks["Outer.on_send"] = lambda m: DROP if m.args == ("psst",) else refuse(m)
    with caplog.at_level(logging.INFO):
        await manager.handle(Clerk, "c").whisper.tell("psst")
        await manager.handle(Clerk, "c").whisper.tell("hey")

        async def logged() -> bool:
            text = caplog.text
            return "Outer dropped a tell of clerk/c.whisper" in text and "no SentMessage" in text

        await eventually_async(logged)
    assert desk.told == []
    assert await eventually_async(partial(dropped, manager)) == 1


# Streams


async def test_of_a_stream_each_item_is_a_reply(manager: ManagerClient) -> None:
    numbers: list[int | None] = []

    def change(reply: MessageReply) -> Any:
        numbers.append(reply.item)
        return DROP if reply.value == "b" else reply.changed(value=reply.value * 2)

    desk.hooks["Inner.on_reply"] = change
    desk.hooks["Inner.on_send"] = lambda m: m.changed(args=[m.args[0] + "d"])
    assert [item async for item in manager.handle(Clerk, "c").letters("abc")] == ["aa", "cc", "dd"]
    assert numbers == [0, 1, 2, 3]


async def read_into(read: list[str], stream: AsyncIterator[str]) -> None:
    async for item in stream:
        read.append(item)  # noqa: PERF401 - what came before an error counts


async def test_an_error_that_ends_a_stream_is_its_last_reply(manager: ManagerClient) -> None:
    replies: list[tuple[Any, str | None]] = []

    def note(reply: MessageReply) -> MessageReply:
        replies.append((reply.value, reply.error and str(reply.error)))
        return reply

    desk.hooks["Inner.on_reply"] = note
    read: list[str] = []
    with pytest.raises(ValueError, match="pen"):
        await read_into(read, manager.handle(Clerk, "c").half("ab"))
    assert read == ["a", "b"]
    assert replies == [("a", None), ("b", None), (None, "the pen is empty")]
    desk.hooks["Outer.on_reply"] = lambda r: r.changed(value="…") if r.error else r
    assert [letter async for letter in manager.handle(Clerk, "c").half("ab")] == ["a", "b", "…"]


@pytest.mark.parametrize("hook", ["on_send", "on_reply"])
async def test_a_stream_is_rejected_as_a_call_is(manager: ManagerClient, hook: str) -> None:
    desk.hooks[f"Outer.{hook}"] = refuse
    with pytest.raises(Refused):
        await read_into([], manager.handle(Clerk, "c").letters("abc"))
    desk.hooks["Outer.on_send"] = dropping
    with pytest.raises(MessageDropped):
        await read_into([], manager.handle(Clerk, "c").letters("abc"))


@pytest.mark.parametrize("hook", ["on_send", "on_reply"])
async def test_a_hook_that_hangs_ends_with_the_readers_patience(
    manager: ManagerClient, hook: str
) -> None:
    desk.hooks[f"Outer.{hook}"] = hang
    clerk = manager.handle(Clerk, "c")
    with pytest.raises(DeadlineExceeded):
        await read_into([], clerk.with_timeout(0.2).letters("abc"))
    desk.hooks.clear()
    assert await clerk.with_timeout(10).repeat("next") == "next"
    assert desk.closed == 1


async def test_a_stream_that_is_left_ends_behind_its_middleware(manager: ManagerClient) -> None:
    clerk = manager.handle(Clerk, "c")
    async for _ in clerk.letters("a" * 100_000):
        break
    assert await clerk.with_timeout(10).repeat("next") == "next"


# Events


async def test_events_pass_on_publish_at_their_source_and_on_send_at_each_subscriber(
    manager: ManagerClient,
) -> None:
    seen: list[tuple[str, str]] = []

    def look(event: Event) -> Event:
        seen.append((event.source, event.event_type.rpartition(".")[2]))
        return cast("Noted", event).model_copy(update={"text": "seen"})

    desk.hooks["Inner.on_publish"] = look
    kinds: list[tuple[str, AgentId | None]] = []

    def arrived(message: SentMessage) -> SentMessage:
        kinds.append((message.kind, message.sender))
        if message.kind == "event":
            noted = cast("Noted", message.event)
            return message.changed(event=noted.model_copy(update={"text": noted.text + " twice"}))
        return message

    desk.hooks["Inner.on_send"] = arrived
    await manager.handle(Clerk, "c").note("a")
    await told("seen twice")
    assert seen == [("clerk/c", "Noted")]
    assert kinds == [("call", None), ("event", AgentId("clerk", "c"))]


@pytest.mark.parametrize("hook", ["Outer.on_publish", "Inner.on_publish", "Inner.on_send"])
async def test_a_dropped_event_is_counted_and_its_run_goes_on(
    manager: ManagerClient, hook: str
) -> None:
    def drop_b(given: Any) -> Any:
        event = given if isinstance(given, Event) else given.args[0]
        return DROP if isinstance(event, Noted) and event.text == "b" else given

    desk.hooks[hook] = drop_b
    run = await manager.prompt("note a b c")
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, {"text": "a b c"})
    await told("a", "c")
    assert await eventually_async(partial(dropped, manager)) == 1
    assert await desk.dead_letters() == 0


@pytest.mark.parametrize(
    ("hook", "nonsense", "error"),
    [
        ("Outer.on_publish", refuse, "Refused"),
        ("Inner.on_publish", refuse, "Refused"),
        ("Inner.on_publish", forget, "ConfigurationError"),
        ("Outer.on_publish", babble, "ConfigurationError"),
    ],
)
async def test_an_event_that_is_rejected_fails_its_branch_and_names_the_way(
    manager: ManagerClient, hook: str, nonsense: Hook, error: str
) -> None:
    desk.hooks[hook] = lambda e: nonsense(e) if getattr(e, "text", "") == "b" else e
    run = await manager.prompt("note a b c")
    assert run.status == RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.agent) == (error, run.agent)
    assert run.error.path[-1] == f"Noted in {hook}"
    await told("a", "c")  # the other branches are none the worse


async def test_an_event_rejected_at_a_subscriber_fails_that_branch(manager: ManagerClient) -> None:
    desk.hooks["Inner.on_send"] = lambda m: refuse(m) if m.kind == "event" else m
    run = await manager.prompt("note a")
    assert run.error is not None
    assert (run.error.type, run.error.agent) == ("Refused", "archive/all")


async def test_a_publish_hook_that_hangs_ends_and_fails_the_branch(
    manager: ManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outer, "hook_timeout_s", 0.05)
    desk.hooks["Outer.on_publish"] = lambda e: hang(e) if e.text == "b" else e
    run = await manager.prompt("note a b c")
    assert run.error is not None
    assert run.error.type == "DeadlineExceeded"
    await told("a", "c")


async def test_events_keep_their_order_whatever_their_hooks_wait_for() -> None:
    gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait(event: Any) -> Any:
        await gates[event.text].wait()
        return event

    desk.hooks["Outer.on_publish"] = wait
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(app(Outer, Inner))
        run = asyncio.create_task(manager.prompt("note a b c"))

        async def first_waits() -> bool:
            return desk.seen.count("Outer.on_publish") == 1

        await eventually_async(first_waits)
        for text in ("c", "b"):
            gates[text].set()
        assert desk.told == []
        gates["a"].set()
        gates["a b c"].set()  # of the end
        assert (await run).status == RunStatus.SUCCEEDED
        assert desk.told == ["a", "b", "c"]


# Prompts


async def test_a_prompt_passes_on_send_and_its_direct_answer_on_reply(
    manager: ManagerClient,
) -> None:
    def shout(message: SentMessage) -> SentMessage:
        assert message.kind == "prompt"
        prompt = cast("Prompt", message.event)
        return message.changed(event=prompt.model_copy(update={"text": prompt.text.upper()}))

    desk.hooks["Outer.on_send"] = shout
    desk.hooks["Inner.on_reply"] = lambda r: r.changed(value=r.value + "!")
    run = await manager.prompt("say hello")
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, "HELLO!")


@pytest.mark.parametrize("hook", ["on_send", "on_reply"])
async def test_a_dropped_prompt_fails_its_run(manager: ManagerClient, hook: str) -> None:
    desk.hooks[f"Inner.{hook}"] = dropping
    run = await manager.prompt("say hello")
    assert run.error is not None
    assert (run.status, run.error.type) == (RunStatus.FAILED, "MessageDropped")


async def test_the_error_of_a_prompt_may_become_its_answer(manager: ManagerClient) -> None:
    run = await manager.prompt("fail")
    assert run.error is not None
    assert run.error.type == "ValueError"
    desk.hooks["Outer.on_reply"] = lambda r: r.changed(value="sorry")
    run = await manager.prompt("fail")
    assert (run.status, run.result) == (RunStatus.SUCCEEDED, "sorry")


# Apps


class WithSettings(Middleware):
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def on_reply(self, reply: MessageReply) -> MessageReply:
        return reply.changed(value=f"{reply.value}{self.mark}")


class Broken(Middleware):
    def __init__(self) -> None:
        raise OSError("no such file")


async def test_middleware_may_be_a_class_an_instance_or_a_function_that_makes_one() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(app(Inner, WithSettings("!"), partial(WithSettings, "?")))
        assert await manager.handle(Clerk, "c").repeat("a") == "a?!"


async def test_other_apps_pass_none_of_it() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(app())
        await manager.deploy(App("others", [Other]))
        await manager.handle(Other, "o").note("a")
        await told("a")
        assert "Outer.on_publish" not in desk.seen
        assert desk.seen == ["Outer.on_send", "Inner.on_send"], "the archive is of the office"


class Other(Agent):
    @action
    async def note(self, text: str) -> None:
        self.context.publish(Noted(text=text))


async def test_an_agents_next_host_has_the_middleware_as_well() -> None:
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(app(WithSettings("!")))
        clerk = manager.handle(Clerk, "c")
        assert await clerk.calls() == "0!"
        first = runtime.host_of(clerk.id)
        assert first is not None
        await runtime.kill_host(first)
        assert await clerk.calls() == "0!"
        assert runtime.host_of(clerk.id) != first


async def test_an_app_whose_middleware_cannot_be_made_is_refused_with_the_reason() -> None:
    async with LocalRuntime() as manager:
        with pytest.raises(ConfigurationError, match=r"Broken .*OSError: no such file"):
            await manager.deploy(app(Broken))


@pytest.mark.parametrize("wrong", [Outer, [Clerk], [3], ["Outer"], "Outer", None])
def test_middleware_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="middleware"):
        App("office", [Clerk], middleware=wrong)


def test_other_middleware_is_another_deployment() -> None:
    plain = App("office", [Clerk])
    apps = [plain, app(Inner), app(Inner, Outer), app(WithSettings("!")), app(WithSettings("?"))]
    assert len({pack_app(one).digest for one in apps}) == len(apps)
    assert pack_app(app(WithSettings("!"))).digest == pack_app(app(WithSettings("!"))).digest


async def test_deployed_again_without_middleware_an_app_has_none() -> None:
    async with LocalRuntime() as manager:
        await manager.deploy(app())
        await manager.handle(Clerk, "c").repeat("a")
        desk.seen.clear()
        await manager.deploy(App("office", [Clerk, Archive], entry=Clerk))
        await manager.handle(Clerk, "c").note("a")
        await told("a")
        assert desk.seen == []
