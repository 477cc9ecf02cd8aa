"""What comes to nothing with nobody there to hear of it is kept, and can be tried once more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    DeadLetter,
    Event,
    LetterKind,
    LetterReason,
    ManagerClient,
    RestartPolicy,
    Run,
    action,
    on,
)
from agentray.config import MAX_ATTEMPTS, QUARANTINE_AFTER
from agentray.core.lifecycle import TERMINAL
from agentray.errors import AgentStopped, NotRetryable, Overloaded, UnknownDeadLetter
from agentray.runtime.channel import Channel
from agentray.runtime.dead_letters import MAX_BYTES, DeadLetters
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.letter_desk import LetterDesk
from agentray.store.letters import StoredLetter
from agentray.store.memory import MemoryStore
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async

LISTENER, SPEAKER = AgentId("listener", "l"), AgentId("speaker", "s")


class Told(Event):
    text: str
    number: float = 0


class World:
    """What the agents find; tests change it."""

    broken = True
    gate: asyncio.Event | None = None
    begun = 0  # handlers that have begun
    handled: list[str] = []  # noqa: RUF012 - set anew for each test


class Listener(Agent):
    options = AgentOptions(mailbox=2)

    @on(Told, key="key:l")
    async def told(self, event: Told) -> None:
        await self.handle_it(event.text)

    @action
    async def note(self, text: str, *, more: str = "") -> None:
        await self.handle_it(text + more)

    async def handle_it(self, text: str) -> None:
        World.begun += 1
        if World.gate is not None:
            await World.gate.wait()
        if World.broken:
            raise ValueError(f"cannot hear {text}")
        World.handled.append(text)


class Bystander(Agent):
    @on(Told, key="key:b")
    async def told(self, event: Told) -> None:
        World.handled.append(f"bystander: {event.text}")


class Fragile(Agent):
    options = AgentOptions(restart=RestartPolicy(max_restarts=0))

    async def on_start(self) -> None:
        if World.broken:
            raise ValueError("no legs")

    @on(Told, key="key:f")
    async def told(self, event: Told) -> None:
        World.handled.append(event.text)


class Speaker(Agent):
    @action
    async def say(self, text: str, number: float = 0) -> None:
        self.context.publish(Told(text=text, number=number))

    @action
    async def pass_on(self, text: str) -> None:
        await self.handle(Listener, "l").note.tell(text, more="!")


class Bench:
    """A runtime, and short ways to look at its letters."""

    def __init__(self, runtime: LocalRuntime, manager: ManagerClient) -> None:
        self.runtime, self.manager = runtime, manager

    async def letters(self, many: int = 1) -> list[DeadLetter]:
        async def found() -> list[DeadLetter] | None:
            letters = await self.manager.dead_letters()
            return letters if len(letters) >= many else None

        letters = await eventually_async(found, 60, interval_s=0.01)
        assert letters is not None
        assert len(letters) == many
        return letters

    async def letter(self) -> DeadLetter:
        return (await self.letters())[0]

    async def ended(self, run_id: str) -> Run:
        async def found() -> Run | None:
            stored = await self.runtime.store.get_run(run_id)
            return stored.run if stored and stored.run.status in TERMINAL else None

        run = await eventually_async(found, 60, interval_s=0.01)
        assert run is not None
        return run

    async def retry(self, letter: DeadLetter) -> Run:
        """Try a letter once more; return how that ended."""
        return await self.ended((await self.manager.retry_dead_letter(letter.id)).id)

    async def say(self, text: str, number: float = 0) -> None:
        await self.manager.handle(Speaker, "s").call(Speaker.say, text, number)


@pytest.fixture(autouse=True)
def _world() -> None:
    World.broken, World.gate, World.begun, World.handled = True, None, 0, []


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    runtime = LocalRuntime(hosts=getattr(request, "param", 2))
    async with runtime as manager:
        yield Bench(runtime, manager)


async def test_an_event_without_subscribers_goes_to_those_that_it_has_later(bench: Bench):
    await bench.manager.deploy(App("speakers", [Speaker]))
    await bench.say("hello")
    letter = await bench.letter()
    assert (letter.kind, letter.reason) == (LetterKind.EVENT, LetterReason.NO_SUBSCRIBER)
    assert (letter.target, letter.name, letter.sender) == (
        Told.event_type,
        Told.event_type,
        str(SPEAKER),
    )
    assert letter.payload["text"] == "hello"

    World.broken = False
    await bench.manager.deploy(App("listeners", [Listener, Bystander]))
    run = await bench.retry(letter)
    assert (run.status.value, run.error) == ("succeeded", None)
    assert sorted(World.handled) == ["bystander: hello", "hello"]
    again = await bench.manager.dead_letter(letter.id)
    assert again.retried_as == run.id
    assert await bench.manager.dead_letters(retried=False) == []
    first = (await bench.runtime.store.run_events(run.id))[0]
    assert first.data == {"dead_letter": letter.id}


async def test_an_event_whose_handler_failed_goes_to_that_agent_alone(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener, Bystander]))
    await bench.say("hello")
    letter = await bench.letter()
    assert (letter.reason, letter.target) == (LetterReason.HANDLER_FAILED, str(LISTENER))
    assert letter.error is not None
    assert (letter.error.type, letter.error.message) == ("ValueError", "cannot hear hello")
    await eventually_async(lambda: _true(World.handled == ["bystander: hello"]), interval_s=0.01)

    assert (await bench.retry(letter)).status == "failed"
    World.broken = False
    # What had no success may be tried again; what had, is not.
    assert (await bench.retry(letter)).status == "succeeded"
    assert (await bench.retry(letter)).status == "succeeded"
    assert World.handled == ["bystander: hello", "hello"]
    assert len(await bench.manager.dead_letters()) == 1  # a run's errors are the run's


async def _true(value: bool) -> bool:
    return value


async def test_an_event_of_a_run_makes_no_letter_the_run_has_its_error(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    run = await bench.manager.dispatch(Told(text="hello"))
    with pytest.raises(Exception, match="cannot hear hello"):
        await run.result()
    assert await bench.manager.dead_letters() == []


async def test_an_action_that_was_told_and_failed_is_called_again_with_its_arguments(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    await bench.manager.handle(Speaker, "s").call(Speaker.pass_on, "hello")
    letter = await bench.letter()
    assert (letter.kind, letter.reason) == (LetterKind.MESSAGE, LetterReason.HANDLER_FAILED)
    assert (letter.target, letter.name, letter.sender) == (str(LISTENER), "note", str(SPEAKER))
    assert (letter.payload, letter.retryable) == ({}, True)

    failed = await bench.retry(letter)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message == "cannot hear hello!"
    World.broken = False
    assert (await bench.retry(letter)).status == "succeeded"
    assert World.handled == ["hello!"]


async def test_of_many_that_try_a_letter_at_once_there_is_one_effect(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    await bench.manager.handle(Listener, "l").note.tell("hello")
    letter = await bench.letter()
    World.broken = False
    runs = await asyncio.gather(*(bench.manager.retry_dead_letter(letter.id) for _ in range(20)))
    (run_id,) = {run.id for run in runs}
    assert (await bench.ended(run_id)).status == "succeeded"
    assert World.handled == ["hello"]


async def test_who_hears_of_an_error_gets_it_instead_of_a_letter(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    World.gate = asyncio.Event()
    listener = bench.manager.handle(Listener, "l")
    for number in range(3):  # one is handled, two wait
        await listener.note.tell(str(number))
    with pytest.raises(Overloaded):
        await listener.note.tell("too much")
    with pytest.raises(Overloaded):
        await listener.call(Listener.note, "too much")
    World.broken = False
    World.gate.set()
    await eventually_async(lambda: _true(World.handled == ["0", "1", "2"]), interval_s=0.01)
    assert await bench.manager.dead_letters() == []


async def test_an_event_that_finds_a_full_mailbox_is_kept(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    World.gate = asyncio.Event()
    for number in range(4):
        await bench.say(str(number))
    letter = await bench.letter()
    assert (letter.reason, letter.target) == (LetterReason.MAILBOX_FULL, str(LISTENER))
    World.broken = False
    World.gate.set()
    await bench.retry(letter)
    assert sorted(World.handled) == ["0", "1", "2", "3"]


async def test_an_event_for_an_agent_that_cannot_be_started_is_kept(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Fragile]))
    await bench.say("hello")
    letter = await bench.letter()
    assert (letter.reason, letter.target) == (LetterReason.AGENT_FAILED, "fragile/f")
    assert letter.error is not None
    assert "no legs" in letter.error.message


async def test_what_waits_for_an_agent_that_is_shut_down_is_kept(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    listener = await bench.manager.launch(bench.manager.handle(Listener, "l"))
    World.gate = asyncio.Event()
    World.broken = False
    await listener.note.tell("first")
    await listener.note.tell("second")  # waits, and its sender has gone on
    stopping = asyncio.create_task(bench.manager.shutdown(listener))
    letter = await bench.letter()
    assert (letter.reason, letter.name) == (LetterReason.AGENT_STOPPED, "note")
    World.gate.set()
    await stopping
    with pytest.raises(AgentStopped):
        await listener.note.tell("third")
    await bench.say("fourth")
    of_event, of_message = await bench.letters(2)
    assert (of_event.kind, of_event.reason) == (LetterKind.EVENT, LetterReason.AGENT_STOPPED)
    assert of_message == letter

    await bench.manager.launch(listener)
    assert (await bench.retry(letter)).status == "succeeded"
    assert World.handled == ["first", "second"]


async def test_what_is_told_and_too_late_when_its_turn_comes_is_kept(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    World.gate, World.broken = asyncio.Event(), False
    await bench.manager.handle(Listener, "l").note.tell("first")
    host = bench.runtime.network.hosts[bench.runtime.host_of(LISTENER) or ""]
    speaker = bench.manager.handle(Speaker, "s").with_timeout(0.2)
    await speaker.call(Speaker.pass_on, "late")  # what a handler tells has the handler's deadline
    await asyncio.sleep(0.3)  # until that has passed
    World.gate.set()
    letter = await bench.letter()
    assert (letter.reason, letter.name) == (LetterReason.EXPIRED, "note")
    assert World.handled == ["first"]
    assert host.alive
    assert (await bench.retry(letter)).status == "succeeded"
    assert World.handled == ["first", "late!"]


async def test_an_event_that_was_lost_with_its_host_is_kept(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    World.gate, World.broken = asyncio.Event(), False
    host = bench.runtime.host_of(LISTENER)
    keys = (str(n) for n in range(100))
    away = next(k for k in keys if bench.runtime.host_of(AgentId("speaker", k)) != host)
    await bench.manager.handle(Speaker, away).call(Speaker.say, "hello")
    await bench.manager.handle(Listener, "l").status()
    await bench.runtime.kill_host(host or "")
    letter = await bench.letter()
    assert (letter.reason, letter.target) == (LetterReason.HOST_LOST, str(LISTENER))
    World.gate.set()
    assert (await bench.retry(letter)).status == "succeeded"
    assert World.handled == ["hello"]


async def test_an_event_without_json_is_kept_as_a_pickle(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    await bench.say("odd", math.inf)
    letter = await bench.letter()
    assert letter.retryable
    assert "number" in letter.payload["unreadable"]
    World.broken = False
    assert (await bench.retry(letter)).status == "succeeded"
    assert World.handled == ["odd"]


async def test_what_is_too_large_is_told_and_not_kept(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    await bench.manager.handle(Listener, "l").note.tell("x" * 2 * MAX_BYTES)
    await bench.say("x" * 2 * MAX_BYTES)
    for letter in await bench.letters(2):
        assert not letter.retryable
        with pytest.raises(NotRetryable):
            await bench.manager.retry_dead_letter(letter.id)


class Poison(Agent):
    @on(Told)
    async def told(self, event: Told) -> None:
        World.handled.append(event.text)


# The run and who listens to it are on one host, so that each of its deaths is that of both.
@pytest.mark.parametrize("bench", [1], indirect=True)
async def test_a_run_that_died_is_run_anew_as_another_one_that_names_it(bench: Bench):
    await bench.manager.deploy(App("all", [Listener]))
    World.gate, World.broken = asyncio.Event(), False
    run = await bench.manager.dispatch(Told(text="hello"))

    seen = 0

    async def news() -> str | None:
        """Return what is new: that the listener is at it again, or that the run has ended."""
        nonlocal seen
        before, seen = seen, World.begun
        stored = await bench.runtime.store.get_run(run.id)
        if stored is not None and stored.run.finished_at is not None:
            return "ended"
        return "listening" if seen > before else None

    while await eventually_async(news, 60, interval_s=0.01) == "listening":
        await bench.runtime.kill_host(bench.runtime.host_of(LISTENER) or "")
    dead = await bench.ended(run.id)
    assert dead.status == "dead"
    letter = await bench.letter()
    assert (letter.kind, letter.reason, letter.run_id) == (
        LetterKind.RUN,
        LetterReason.RUN_DEAD,
        run.id,
    )
    # Three of these deaths are held against the listener, which was under way each time.
    assert (letter.attempts, letter.name) == (dead.attempt, Told.event_type)
    assert QUARANTINE_AFTER < dead.attempt <= MAX_ATTEMPTS
    assert dead.error is not None
    assert dead.error.type == "AgentQuarantined"
    assert await bench.manager.reset_agent(LISTENER)

    World.gate.set()
    again = await bench.retry(letter)
    assert (again.status.value, again.attempt) == ("succeeded", 1)
    assert await bench.ended(run.id) == dead  # it ended once
    first = (await bench.runtime.store.run_events(again.id))[0]
    assert first.data == {"retry_of": run.id}
    assert World.handled == ["hello"]


async def test_letters_are_looked_for_and_forgotten(bench: Bench):
    await bench.manager.deploy(App("all", [Speaker, Listener]))
    await bench.manager.handle(Listener, "l").note.tell("one")
    await bench.letters(1)
    await asyncio.sleep(0.01)  # letters of one millisecond have no order
    await bench.say("two")
    event, message = await bench.letters(2)
    manager = bench.manager
    assert await manager.dead_letters(kind=LetterKind.EVENT) == [event]
    assert await manager.dead_letters(reason=LetterReason.HANDLER_FAILED, limit=1) == [event]
    assert await manager.dead_letters(before=event.id) == [message]
    assert await manager.dead_letters(agent="listener") == [event, message]
    assert await manager.dead_letters(agent=AgentId("listener", "x")) == []
    assert await manager.dead_letter(event.id) == event

    async def counted() -> bool:
        status = await manager.status()
        return status["dead_letters_by_reason"] == {"handler_failed": 2}

    await eventually_async(counted, 60)
    assert await manager.purge_dead_letters(older_than=timedelta(hours=1)) == 0
    assert await manager.purge_dead_letters(ids=[event.id]) == 1
    assert await manager.purge_dead_letters(kind=LetterKind.EVENT) == 0
    assert await manager.purge_dead_letters() == 1
    for ask in (manager.dead_letter, manager.retry_dead_letter):
        with pytest.raises(UnknownDeadLetter):
            await ask(event.id)


def test_letters_without_await() -> None:
    with LocalRuntime() as manager:
        manager.deploy(App("speakers", [Speaker]))
        manager.handle(Speaker, "s").sync.say("hello")

        async def found() -> list[DeadLetter]:
            return await asyncio.to_thread(manager.dead_letters)

        (letter,) = asyncio.run(eventually_async(found))
        assert manager.dead_letter(letter.id) == letter
        run = manager.retry_dead_letter(letter.id)
        assert manager.dead_letters(retried=True)[0].retried_as == run.id
        assert manager.purge_dead_letters(ids=[letter.id]) == 1


async def test_the_oldest_make_room_and_are_counted(bench: Bench):
    letters = [
        StoredLetter(
            DeadLetter(
                id=f"dead_{number:06}",
                kind=LetterKind.EVENT,
                reason=LetterReason.NO_SUBSCRIBER,
                target="t",
                name="t",
                created_at=datetime.now(UTC),
            ),
            "default",
        )
        for number in range(2_500)
    ]
    store = bench.runtime.store
    await store.add_dead_letters(letters)
    dispatcher = ChannelDispatcher(Channel(bench.runtime.network))
    desk = LetterDesk(store, dispatcher, keep=100)
    await desk.sweep()
    kept = await store.list_dead_letters(limit=10_000)
    assert kept == [stored.letter for stored in letters[:-101:-1]]
    assert desk.counts([])["dead_letters_pruned"] == 2_400
    await desk.close()


async def test_names_by_which_letters_are_counted_are_bounded():
    letters = DeadLetters(MemoryStore())
    for number in range(5_000):
        letters.dead_run(AgentId(f"type{number}", "k"))
    assert letters.by_reason() == {"run_dead": 5_000}
    assert len(letters.counts) <= 1_001
    await letters.close()
