"""How aggregators end: enough, too late, failed, given up; who waits for it; what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, ClassVar

import pytest

from agentray import (
    Agent,
    AgentId,
    AgentOptions,
    App,
    ConfigurationError,
    DeadlineExceeded,
    Event,
    ManagerClient,
    PayloadError,
    Prompt,
    Run,
    RunStatus,
    TerminateEvent,
    on,
)
from agentray.errors import Incomplete
from agentray.patterns import AggregatorAgent, Gathered, reports_failure, wait_for_events
from agentray.testing import LocalRuntime, ManualClock, run


class Asked(Event):
    juror: str
    choice: str


class Vote(Event):
    choice: str


class Opened(Event):
    pass


class Verdict(TerminateEvent):
    votes: list[str]
    lacks: list[str] = []  # noqa: RUF012 - pydantic copies it


class Opinion(Event):
    """A verdict that does not end the conversation: more may follow."""

    votes: list[str]
    lacks: list[str] = []  # noqa: RUF012 - pydantic copies it


class Clerk(Agent):
    """Asks jurors: `ann=yes bob=no`; `-` makes one fail, `!` makes one die away, `@` say it twice.

    `+` opens the session; `…` waits a minute.
    """

    @on(Prompt)
    async def ask(self, prompt: Prompt) -> AsyncGenerator[Event]:
        for word in prompt.text.split():
            if word == "+":
                yield Opened()
            elif word == "…":
                await asyncio.sleep(60)
            else:
                juror, _, choice = word.partition("=")
                yield Asked(juror=juror, choice=choice)
            await asyncio.sleep(0.1)  # one after the other, wherever the jurors live


class Juror(Agent):
    asked = 0

    @on(Asked, key="field:juror")
    @reports_failure(Vote)
    async def vote(self, asked: Asked) -> AsyncGenerator[Vote]:
        type(self).asked += 1
        if asked.choice == "-":
            raise ValueError(f"{asked.juror} is ill")
        vote = Vote(choice=asked.choice.rstrip("@"))
        yield vote
        if asked.choice.endswith("@"):
            yield vote


class Jury(AggregatorAgent):
    needs = {Opened: 1, Vote: 5}  # noqa: RUF012
    quorum = 4
    deadline_s = 30.0

    async def combine(self, events: Gathered) -> Verdict:
        return Verdict(votes=[vote.choice for vote in events.all(Vote)])


class PartialJury(Jury):
    quorum = None

    async def incomplete(self, events: Gathered) -> Verdict:
        if Opened in self.needs:
            assert (Opened in events) is (Opened.event_type not in events.missing)
        failed = [failure.agent for failure in events.failures]
        return Verdict(
            votes=[vote.choice for vote in events.all(Vote)], lacks=[*events.missing, *failed]
        )


class PatientJury(Jury):
    deadline_s = None
    options = AgentOptions(idle_timeout_s=600)


class Advisers(Jury):
    async def combine(self, events: Gathered) -> Opinion:  # type: ignore[override]
        return Opinion(votes=[vote.choice for vote in events.all(Vote)])


class LaterVotesToo(Advisers):
    quorum = 2
    late = "again"


class StrangeJury(Jury):
    """Does what its last vote says, instead of combining."""

    needs = {Vote: 2}  # noqa: RUF012
    quorum = None

    async def combine(self, events: Gathered) -> Any:  # noqa: RET503 - one case hangs
        match [vote.choice for vote in events.all(Vote)][-1]:
            case "raise":
                raise LookupError("no law for it")
            case "hang":
                await asyncio.Event().wait()
            case "nonsense":
                return "guilty"
            case "tired":
                raise TimeoutError("its own")
            case other:
                return Verdict(votes=[other])


class OneVoteEach(Jury):
    needs = {Vote: 2}  # noqa: RUF012
    quorum = None

    def identity(self, event: Event) -> str:
        return event.source


class Asker(Agent):
    """Waits for the result of the conversation that it is part of."""

    got: ClassVar[list[Event]] = []

    @on(Opened)
    async def open(self, _: Opened) -> None:
        correlation = self.context.correlation_id
        assert correlation is not None
        self.got[:] = await wait_for_events(self, Jury, correlation, timeout=10)


class Openings(AggregatorAgent):
    needs = (Opened,)

    async def combine(self, events: Gathered) -> None:
        assert not events.missing


class Three(Jury):
    needs = {Vote: 3}  # noqa: RUF012
    quorum = None


class PartialThree(PartialJury):
    needs = {Vote: 3}  # noqa: RUF012


class Elsewhere(Agent):
    """Votes itself; the third time when its gate is open."""

    begun: ClassVar[list[str]] = []
    gate: ClassVar[asyncio.Event]

    @on(Prompt)
    async def ask(self, _: Prompt) -> AsyncGenerator[Event]:
        self.begun.append(str(self.context.correlation_id))
        for number in range(2):
            yield Vote(choice=str(number))
        await self.gate.wait()
        yield Vote(choice="2")


def scenario(
    jury: type[AggregatorAgent], test: Callable[[ManagerClient, LocalRuntime], Awaitable[None]]
) -> None:
    """Run a test with this jury on two hosts, in virtual time."""

    async def whole() -> None:
        Juror.asked = 0
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("court", [Clerk, Juror, jury], entry=Clerk))
            await test(manager, runtime)

    run(whole())


def now() -> float:
    return asyncio.get_running_loop().time()


async def ended(manager: ManagerClient, prompt: str) -> tuple[RunStatus, Any, float]:
    """Return how a run ended, and after how long."""
    began = now()
    done = await manager.prompt(prompt)
    result = done.result if done.error is None else (done.error.type, done.error.message)
    return done.status, result, now() - began


OK, FAILED = RunStatus.SUCCEEDED, RunStatus.FAILED


def test_so_many_of_a_type_and_a_quorum_of_all() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        status, result, took = await ended(manager, "+ a=1 b=2 c=3")
        assert (status, result, took < 2) == (OK, {"votes": ["1", "2", "3"], "lacks": []}, True)
        # Surplus votes do not make up for the missing opening, nor do they count for the quorum.
        _, result, _ = await ended(manager, "a=1 b=2 c=3 d=4 e=5")
        assert result["votes"] == ["1", "2", "3", "4"]

    scenario(Jury, test)


def test_at_the_deadline_the_error_names_what_is_missing() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        began = now()
        done = await manager.prompt("a=1 b=2")
        assert round(now() - began) == 30
        assert done.status is FAILED
        assert done.error is not None
        assert (done.error.type, done.error.agent) == ("Incomplete", f"jury/{done.correlation_id}")
        for name in (Opened.event_type, Vote.event_type, "30 s"):
            assert name in done.error.message
        assert done.error.path[-1] == f"Vote at jury/{done.correlation_id}"

    scenario(Jury, test)


def test_at_the_deadline_there_may_be_a_partial_result() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        status, result, took = await ended(manager, "a=1 b=2")
        assert (status, result["votes"]) == (OK, ["1", "2"])
        assert result["lacks"] == [Opened.event_type, Vote.event_type]
        assert round(took) == 30
        status, result, took = await ended(manager, "+ a=1 b=2 c=3 d=4 e=5")
        assert (status, result, took < 2) == (OK, {"votes": list("12345"), "lacks": []}, True)

    scenario(PartialJury, test)


def test_when_each_event_has_come_or_failed_it_ends_at_once() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        for prompt in ("+ a=1 b=- c=3 d=4 e=5", "+ a=1 c=3 d=4 e=5 b=-", "b=- a=1 c=3 d=4 e=5 +"):
            status, result, took = await ended(manager, prompt)
            assert (status, took < 2) == (OK, True)
            assert result == {"votes": ["1", "3", "4", "5"], "lacks": [Vote.event_type, "juror/b"]}
        # Of one that neither comes nor fails nothing is known before the deadline.
        _, result, took = await ended(manager, "+ a=1 b=- c=3 d=4")
        assert (result["votes"], round(took)) == (["1", "3", "4"], 30)

    scenario(PartialJury, test)


@pytest.mark.parametrize("jury", [Jury, PatientJury])
def test_a_quorum_bears_failed_branches_up_to_a_point(jury: type[Jury]) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        status, result, _ = await ended(manager, "+ a=1 b=- c=3 d=- e=5")
        assert (status, sorted(result["votes"])) == (OK, ["1", "3", "5"])
        status, (kind, message), took = await ended(manager, "+ a=1 b=- c=- d=- e=5")
        assert (status, kind, took < 2) == (FAILED, "Incomplete", True)
        assert "juror/b failed: ValueError: b is ill" in message

    scenario(jury, test)


def test_only_those_who_need_its_event_hear_of_a_failed_branch() -> None:
    async def whole() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("court", [Clerk, Juror, Jury, Openings], entry=Clerk))
            await manager.prompt("a=- b=- c=-")
            assert len(await manager.agents("jury")) == 1
            assert await manager.agents("openings") == []

    run(whole())


def test_a_branch_that_only_raises_fails_the_run_with_its_own_error() -> None:
    class Silent(Agent):
        @on(Asked, key="field:juror")
        async def vote(self, asked: Asked) -> Vote:
            if asked.choice == "-":
                raise ValueError(f"{asked.juror} is ill")
            return Vote(choice=asked.choice)

    async def whole() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("court", [Clerk, Silent, Jury], entry=Clerk))
            status, (kind, message), took = await ended(manager, "+ a=- b=2 c=3")
            assert (status, kind, took > 29) == (FAILED, "ValueError", True)
            assert message == "a is ill"  # not that it was incomplete

    run(whole())


def test_late_events_may_be_combined_again() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        await ended(manager, "a=1 b=2 … c=3 … + … d=4 e=5 … f=6")
        opinions = [opinion.votes for opinion in runtime.events(Opinion)]
        assert opinions == [
            ["1", "2"],
            ["1", "2", "3"],
            ["1", "2", "3"],  # and the opening
            ["1", "2", "3", "4"],
            ["1", "2", "3", "4", "5"],
            ["2", "3", "4", "5", "6"],  # five are needed: the last ones
        ]

    scenario(LaterVotesToo, test)


def test_after_it_was_given_up_late_events_may_still_make_it() -> None:
    class Twice(LaterVotesToo):
        options = AgentOptions(name="twice")

        async def incomplete(self, events: Gathered) -> Opinion:
            return Opinion(votes=[], lacks=list(events.missing))

    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        await ended(manager, "a=1 … b=2")
        assert [opinion.votes for opinion in runtime.events(Opinion)] == [[], ["1", "2"]]

    scenario(Twice, test)


def test_late_events_are_ignored_otherwise_and_the_result_stays() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        done = await manager.prompt("a=1 b=2 c=3 d=4 … e=5 f=6")
        advisers = manager.handle(Advisers, done.correlation_id)
        assert (await advisers.call(Advisers.gathering)).ignored == 2
        (opinion,) = runtime.events(Opinion)
        assert opinion.votes == ["1", "2", "3", "4"]

    scenario(Advisers, test)


def test_events_after_the_end_of_their_conversation_do_not_come() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        done = await manager.prompt("a=1 b=2 c=3 d=4 … e=5 f=6")
        assert done.result == {"votes": ["1", "2", "3", "4"], "lacks": []}
        jury = manager.handle(Jury, done.correlation_id)
        assert (await jury.call(Jury.gathering)).ignored == 0

    scenario(Jury, test)


def test_what_makes_events_the_same_can_be_said() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        _, result, _ = await ended(manager, "a=1 a=2 a=3 b=4")
        assert result["votes"] == ["1", "4"]

    scenario(OneVoteEach, test)


def test_an_event_published_twice_counts_once() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        _, result, took = await ended(manager, "+ a=1@ b=2@")
        assert (result["votes"], took > 29) == (["1", "2"], True)

    scenario(PartialJury, test)


# Those who wait


def test_waiters_have_deadlines_of_their_own() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        cause = asyncio.create_task(manager.prompt("+ a=1 b=2 … c=3"))
        await ManualClock().advance(1)
        (row,) = await manager.agents("patient_jury")
        correlation = AgentId.parse(row["agent"]).key
        waiting = [
            asyncio.create_task(wait_for_events(manager, PatientJury, correlation, timeout))
            for timeout in (5, 100, None, 100)
        ]
        await ManualClock().advance(1)
        status = await manager.handle(PatientJury, correlation).call(PatientJury.gathering)
        assert (status.waiting, status.ended) == (4, False)
        waiting[3].cancel()  # one that gives up disturbs nobody either
        with pytest.raises(DeadlineExceeded):
            await waiting[0]
        for waiter in waiting[1:3]:
            (verdict,) = await waiter
            assert isinstance(verdict, Verdict)
            assert (verdict.votes, verdict.correlation_id) == (["1", "2", "3"], correlation)
        assert waiting[3].cancelled()
        await cause
        # Who comes afterwards has it at once, as long as it is remembered.
        before = now()
        (verdict,) = await wait_for_events(manager, PatientJury, correlation, 5)
        assert (verdict.votes, now() - before < 1) == (["1", "2", "3"], True)  # type: ignore[attr-defined]
        await ManualClock().advance(700)
        assert await manager.agents("patient_jury") == []
        with pytest.raises(DeadlineExceeded):
            await wait_for_events(manager, PatientJury, correlation, 5)

    scenario(PatientJury, test)


def test_an_agent_may_wait_and_the_published_event_is_the_one_that_waiters_get() -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("court", [Clerk, Juror, Jury, Asker], entry=Clerk))
            await manager.prompt("+ a=1 b=2 c=3")
            assert Asker.got == runtime.events(Verdict)
            assert Asker.got[0].causation_id is not None

    run(whole())


def test_waiters_hear_of_errors() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        done = await manager.prompt("a=1 b=raise")
        assert done.error is not None
        assert (done.error.type, done.error.message) == ("LookupError", "no law for it")
        with pytest.raises(LookupError, match="no law"):
            await wait_for_events(manager, StrangeJury, done.correlation_id, 5)

    scenario(StrangeJury, test)


# What goes wrong


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [
        ("hang", "DeadlineExceeded", "combine did not reply within 30 s"),
        ("nonsense", "PayloadError", "StrangeJury.combine returned str"),
        ("tired", "TimeoutError", "its own"),
    ],
)
def test_a_combine_that_hangs_or_returns_nonsense_fails_the_run(
    choice: str, kind: str, message: str
) -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        status, (error, told), took = await ended(manager, f"a=1 b={choice}")
        assert (status, error) == (FAILED, kind)
        assert message in told
        assert took <= 31
        errors = {"hang": DeadlineExceeded, "nonsense": PayloadError, "tired": TimeoutError}
        (row,) = await manager.agents("strange_jury")
        with pytest.raises(errors[choice]):
            await wait_for_events(manager, StrangeJury, AgentId.parse(row["agent"]).key, 5)

    scenario(StrangeJury, test)


@pytest.mark.parametrize("jury", [Three, PartialThree])
def test_when_its_host_dies_the_run_is_tried_again_and_no_part_is_taken_for_the_whole(
    jury: type[Jury],
) -> None:
    async def whole() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("court", [Elsewhere, jury]))
            done, gatherer = await begin_apart(manager, runtime, jury)
            victim = runtime.host_of(gatherer)
            assert victim is not None
            assert (await manager.handle(jury, gatherer.key).gathering()).missing
            await runtime.kill_host(victim)
            await ManualClock().advance(5)
            Elsewhere.gate.set()
            ended = await done
            assert (ended.status, ended.result) == (OK, {"votes": ["0", "1", "2"], "lacks": []})
            assert Elsewhere.begun == [gatherer.key, f"{gatherer.key}#2"]

    run(whole())


async def begin_apart(
    manager: ManagerClient, runtime: LocalRuntime, jury: type[Jury]
) -> tuple[asyncio.Task[Run], AgentId]:
    """Begin runs until one has its jury on another host than its entry; return that one."""
    for number in range(100):
        entry = AgentId("elsewhere", f"e{number}")
        Elsewhere.gate = asyncio.Event()
        Elsewhere.begun.clear()
        done = asyncio.create_task(manager.prompt("go", agent=entry))
        await ManualClock().advance(1)
        gatherer = AgentId(jury.agent_type.name, Elsewhere.begun[0])
        if runtime.host_of(gatherer) != runtime.host_of(entry):
            return done, gatherer
        Elsewhere.gate.set()
        await done
    raise AssertionError("All slots are on one host.")


def test_without_a_deadline_the_run_is_tried_again_as_a_whole() -> None:
    async def test(manager: ManagerClient, runtime: LocalRuntime) -> None:
        done = asyncio.create_task(manager.prompt("+ a=1 b=2 … c=3", agent=AgentId("clerk", "c")))
        await ManualClock().advance(1)
        (row,) = await manager.agents("patient_jury")
        victim = runtime.host_of(AgentId.parse(row["agent"]))
        assert victim is not None
        await runtime.kill_host(victim)
        ended = await done
        assert (ended.status, ended.result) == (OK, {"votes": ["1", "2", "3"], "lacks": []})
        assert Juror.asked > 3

    scenario(PatientJury, test)


def test_nothing_is_left_of_conversations_whether_they_complete_or_not() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        prompts = ["+ a=1 b=2 c=3", "+ a=1", "a=-", "+ b=- c=- d=- e=- f=-"] * 50
        runs = await asyncio.gather(*(manager.prompt(prompt) for prompt in prompts))
        assert sum(done.status is OK for done in runs) == 50
        assert len(await manager.agents("jury", 1000)) == 200
        await ManualClock().advance(400)
        assert await manager.agents("jury", 1000) == []

    scenario(Jury, test)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"needs": {Vote: 0}}, "needs"),
        ({"needs": Vote}, "needs"),
        ({"quorum": 7}, "quorum"),
        ({"quorum": 0}, "quorum"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"late": "sometimes"}, "late"),
        ({"options": AgentOptions(concurrency=1)}, "concurrency"),
    ],
)
def test_settings_are_checked_where_the_class_is_defined(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        type("Wrong", (Jury,), settings)


def test_combine_may_yield_or_be_an_ordinary_function() -> None:
    class Yields(Jury):
        needs = {Vote: 1}  # noqa: RUF012
        quorum = None

        async def combine(self, events: Gathered) -> Any:
            for vote in events:
                yield Verdict(votes=[vote.event_id])

    class Ordinary(Jury):
        needs = {Opened: 1}  # noqa: RUF012
        quorum = None

        def combine(self, events: Gathered) -> Iterator[Verdict]:  # type: ignore[override]
            return (Verdict(votes=[str(len(events))]) for _ in events)

    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        assert (await ended(manager, "a=1"))[0] is OK

    scenario(Yields, test)
    scenario(Ordinary, test)


def test_gathered_says_what_it_does_not_have() -> None:
    vote = Vote(choice="1")
    gathered = Gathered((vote,), missing=(Opened.event_type,))
    assert (vote in gathered, Vote(choice="1") in gathered, Opened in gathered) == (
        True,
        False,
        False,
    )
    with pytest.raises(KeyError, match="Opened"):
        gathered[Opened]


def test_the_error_of_an_incomplete_one_has_its_fields() -> None:
    async def test(manager: ManagerClient, _runtime: LocalRuntime) -> None:
        done = await manager.prompt("+")
        with pytest.raises(Incomplete) as caught:
            await wait_for_events(manager, Jury, done.correlation_id)
        assert caught.value.missing == (Vote.event_type,)
        assert caught.value.agent == f"jury/{done.correlation_id}"

    scenario(Jury, test)
