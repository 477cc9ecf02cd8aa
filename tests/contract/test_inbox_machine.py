"""The messages of runs at random, over both stores: delivered, committed, lost, delivered again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from agentray.ids import AgentId
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import RunEvent, RunStatus
from agentray.store.base import CommitOutcome, Effects, StateWrite, Store
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from agentray.store.run_progress import Resumption
from agentray.store.steps import KeptMessage, NewMessage, Step, StepCommitted
from tests.contract.samples import admit_one, at, connect, effects, empty, host, lease

T = TypeVar("T")

AGENTS = [AgentId("greeter", key) for key in ("ada", "bob", "eve")]
HOSTS = ("h1", "h2")
SLOT = 0
QUESTION = Question(id="qst_1", question="Well?", agent="greeter/ada", asked_at=at(0))
Message = tuple[str, int]
"""Run and number."""


@dataclass
class Work:
    """A run as it should be."""

    messages: dict[int, AgentId] = field(default_factory=dict[int, AgentId])
    held: set[int] = field(default_factory=set[int])
    emitted: int = 0
    closed: bool = False
    ended: RunStatus | None = None
    budget: int | None = None
    used: int = 0
    questions: int = 0  # that are open
    waits: bool = False
    answers: int = 0
    resumed: int = 0  # with so many of these
    told: list[str] = field(default_factory=list[str])  # kinds of its events


@dataclass(frozen=True)
class Delivery:
    """A message in the hands of one life of a host."""

    message: Message
    agent: AgentId
    by: str
    epoch: int


def new(agent: AgentId) -> NewMessage:
    return NewMessage(agent, SLOT, '{"n":1}', "[]")


class Inbox(RuleBasedStateMachine):
    """Does with messages what hosts do that live and die, and looks after each step at all."""

    loop: asyncio.AbstractEventLoop
    store: Store

    runs = Bundle[str]("runs")
    deliveries = Bundle[Delivery]("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[str, Work] = {}
        self.effects: defaultdict[AgentId, list[list[str | int]]] = defaultdict(list)
        self.epoch = 0
        self.host = HOSTS[1]
        for name in HOSTS:
            self.do(self.store.put_host(host(name)))
        self.crash()

    def do(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.loop.run_until_complete(awaited())

    def commit(self, by: str, *batch: Effects) -> list[StepCommitted]:
        return self.do(self.store.commit_steps(by, batch))

    def kept(self) -> list[KeptMessage]:
        return self.do(self.store.load_messages(["greeter"], [SLOT]))

    # What may happen

    @rule(
        target=runs,
        to=st.lists(st.sampled_from(AGENTS), max_size=3),
        budget=st.none() | st.integers(0, 5),
    )
    def begin(self, to: list[AgentId], budget: int | None) -> str:
        run_id = self.do(admit_one(self.store))
        self.work[run_id] = Work(budget=budget)
        self.begin_again(run_id, to)
        return run_id

    @rule(target=runs)
    def begin_and_wait(self) -> str:
        run_id = self.do(admit_one(self.store))
        self.work[run_id] = Work()
        self.begin_again(run_id, AGENTS[:1])
        self.ask(run_id)
        self.handle([Delivery((run_id, 1), AGENTS[0], self.host, self.epoch)], [], False)
        return run_id

    @rule(run=runs, to=st.lists(st.sampled_from(AGENTS), max_size=3))
    def begin_again(self, run: str, to: list[AgentId]) -> None:
        work = self.work[run]
        first = work.emitted == 0 and work.ended is None
        budget = None if work.budget is None else Budget(tokens=work.budget)
        emitted = [new(agent) for agent in to]
        step = Step(run, at(1), begins="fail", emitted=emitted, budget=budget)
        (told,) = self.commit(self.host, effects(self.epoch, step=step))
        if first:
            self.expect(told, CommitOutcome.COMMITTED)
            self.emit(work, to, told)
            self.may_end(work, told)
        else:
            self.expect(told, CommitOutcome.GONE)

    @rule()
    def crash(self) -> None:
        """Another host leases the slot; what the former one works on is not committed yet."""
        self.host = HOSTS[self.host == HOSTS[0]]
        (held,) = self.do(self.store.assign_slots([lease(self.host)]))
        self.epoch = held.epoch

    @rule(target=deliveries, run=runs, which=st.integers(0, 9))
    def deliver(self, run: str, which: int) -> Delivery:
        """Let a host have a message: one that is kept, or one that is long gone."""
        kept = {message.number: message.agent for message in self.kept() if message.run_id == run}
        numbers = sorted(kept)
        number = numbers[which % len(numbers)] if numbers else which
        agent = kept.get(number, AGENTS[0])
        return Delivery((run, number), agent, self.host, self.epoch)

    @rule(
        batch=st.lists(deliveries, min_size=1, max_size=4),
        to=st.lists(st.sampled_from(AGENTS), max_size=2),
        closes=st.sampled_from([False, False, False, True]),
        spends=st.sampled_from([0, 0, 1, 3]),
        asks=st.sampled_from([False, False, True]),
    )
    def handle(
        self,
        batch: list[Delivery],
        to: list[AgentId],
        closes: bool,
        spends: int = 0,
        asks: bool = False,
    ) -> None:
        """Commit what one host has handled; a message may be among it twice, or come too late."""
        by = batch[0].by
        batch = [each for each in batch if each.by == by]
        steps: list[Effects] = []
        expected: list[CommitOutcome] = []
        done: set[Message] = set()
        for each in batch:
            run_id, number = each.message
            if each.epoch != self.epoch:
                expected.append(CommitOutcome.FENCED)
            elif each.message in done or number not in self.work[run_id].messages:
                expected.append(CommitOutcome.GONE)
            else:
                expected.append(CommitOutcome.COMMITTED)
                done.add(each.message)
            seen = [*self.effects[each.agent], [run_id, number]]
            if expected[-1] is CommitOutcome.COMMITTED:
                self.effects[each.agent] = seen
            step = Step(
                run_id,
                at(2),
                handled=number,
                emitted=[new(agent) for agent in to],
                closes=closes,
                answer=({"by": number},) if closes else None,
                spent=[(number, Usage(tokens=spends))] if spends else (),
                asked=[QUESTION] if asks else (),
            )
            states = [StateWrite(each.agent, {"seen": seen})]
            steps.append(effects(each.epoch, states=states, step=step))
        told = self.commit(by, *steps)
        for each, one, outcome in zip(batch, told, expected, strict=True):
            self.expect(one, outcome)
            if outcome is CommitOutcome.COMMITTED:
                work = self.work[each.message[0]]
                self.emit(work, to, one)
                work.closed = work.closed or closes
                work.used += spends
                work.questions += asks
        for each in done:
            self.take_out(each)
        touched = dict.fromkeys(run_id for run_id, _ in done)
        for run_id in touched:
            ends = [one for each, one in zip(batch, told, strict=True) if each.message[0] == run_id]
            self.may_end(self.work[run_id], *ends)

    @rule(one=deliveries, settles=st.booleans())
    def hold(self, one: Delivery, settles: bool) -> None:
        """Keep a message until later; or handle it, and with it all that its agent holds."""
        run_id, number = one.message
        work = self.work[run_id]
        held = {n for n in work.held if work.messages.get(n) == one.agent}
        others = sorted(held - {number})
        seen = [*self.effects[one.agent], [run_id, number]] if settles else None
        step = Step(
            run_id,
            at(3),
            handled=number,
            holds=None if settles else [*others, number],
            settles=others if settles else (),
        )
        states = [] if seen is None else [StateWrite(one.agent, {"seen": seen})]
        (told,) = self.commit(one.by, effects(one.epoch, states=states, step=step))
        if one.epoch != self.epoch:
            self.expect(told, CommitOutcome.FENCED)
        elif number not in work.messages:
            self.expect(told, CommitOutcome.GONE)
        else:
            self.expect(told, CommitOutcome.COMMITTED)
            if seen is None:
                work.held.add(number)
            else:
                self.effects[one.agent] = seen
                for each in (number, *others):
                    self.take_out((run_id, each))
            self.may_end(work, told)

    @rule(run=runs, status=st.sampled_from([RunStatus.CANCELLED, RunStatus.DEAD]))
    def drop(self, run: str, status: RunStatus) -> None:
        """End a run whatever is left of it."""
        step = Step(run, at(4), drops=status)
        (told,) = self.commit(self.host, effects(self.epoch, step=step))
        work = self.work[run]
        if work.ended is not None:
            self.expect(told, CommitOutcome.GONE)
            return
        self.expect(told, CommitOutcome.COMMITTED)
        assert told.end is not None
        assert told.end.status is status
        self.ends(work, status)

    @rule(run=runs)
    def ask(self, run: str) -> None:
        """Ask something outside of any message."""
        work = self.work[run]
        step = Step(run, at(5), asked=[QUESTION])
        (told,) = self.commit(self.host, effects(self.epoch, step=step))
        self.expect(told, CommitOutcome.COMMITTED)
        if work.ended is None:
            work.questions += 1
            self.may_end(work, told)

    @rule(run=runs)
    def answer(self, run: str) -> None:
        """Tell a run what it asks, if it does."""
        work = self.work[run]
        stored = self.do(self.store.get_run(run))
        assert stored is not None
        told = RunEvent(offset=stored.events, kind="answered", time=at(5), data={})
        answer = Answer(question=QUESTION, value=1, answered_at=at(5))
        change = Resumption(run, stored.questions[1:], [*stored.answers, answer], told)
        assert self.do(self.store.resume_run(change)) == work.waits
        if work.waits:
            work.waits = False
            work.questions -= 1
            work.answers += 1
            work.told.append("answered")

    @rule(run=runs, late=st.booleans())
    def go_on(self, run: str, late: bool) -> None:
        """Go on with the last answer of a run; somebody may have done so before."""
        work = self.work[run]
        resumes = work.answers - late
        if resumes < 1:
            return
        step = Step(run, at(6), resumes=resumes, emitted=[new(AGENTS[0])])
        (told,) = self.commit(self.host, effects(self.epoch, step=step))
        if work.ended is not None or resumes <= work.resumed:
            self.expect(told, CommitOutcome.GONE)
            return
        self.expect(told, CommitOutcome.COMMITTED)
        work.resumed = resumes
        self.emit(work, [AGENTS[0]], told)
        self.may_end(work, told)

    @rule(run=runs, tokens=st.integers(1, 3), number=st.integers(1, 4))
    def spend(self, run: str, tokens: int, number: int) -> None:
        """Count what a message used, if it is there, and what none did."""
        work = self.work[run]
        used = Usage(tokens=tokens)
        step = Step(run, at(6), spent=[(number, used), (number, used), (None, used)])
        (told,) = self.commit(self.host, effects(self.epoch, step=step))
        self.expect(told, CommitOutcome.COMMITTED)
        if work.ended is None:
            work.used += tokens * (1 + (number in work.messages))
            self.may_end(work, told)

    # What should come of it

    def expect(self, told: StepCommitted, outcome: CommitOutcome) -> None:
        assert told.outcome is outcome
        if outcome is not CommitOutcome.COMMITTED:
            assert told.end is None
            assert set(told.numbers) <= {None}

    def emit(self, work: Work, to: Iterable[AgentId], told: StepCommitted) -> None:
        for agent, number in zip(to, told.numbers, strict=True):
            if work.closed:
                assert number is None
            else:
                work.emitted += 1
                assert number == work.emitted
                work.messages[work.emitted] = agent

    def take_out(self, message: Message) -> None:
        run_id, number = message
        self.work[run_id].messages.pop(number)
        self.work[run_id].held.discard(number)

    def may_end(self, work: Work, *told: StepCommitted) -> None:
        """The step after which only held messages are left ends the run, and tells it once."""
        ends = [each.end.status for each in told if each.end is not None]
        if work.budget is not None and work.used > work.budget and not work.closed:
            self.ends(work, RunStatus.BUDGET_EXCEEDED)
        elif work.waits or work.resumed < work.answers or not set(work.messages) <= work.held:
            # What waits already may be told to do so, once more.
            assert ends in ([], [RunStatus.WAITING]) if work.waits else ends == []
            return
        elif work.questions and not work.closed:
            work.waits = True
            work.told.append("waiting")
            assert ends == [RunStatus.WAITING]
            return
        else:
            self.ends(work, RunStatus.SUCCEEDED)
        assert ends == [work.ended]

    def ends(self, work: Work, status: RunStatus) -> None:
        work.ended = status
        work.waits = False
        work.messages.clear()
        work.told.append(status.value)

    @invariant()
    def every_message_has_had_one_effect(self) -> None:
        kept = self.do(self.store.load_states(AGENTS))
        for agent in AGENTS:
            seen: list[list[str | int]] = kept[agent].state["seen"] if agent in kept else []
            assert seen == self.effects[agent]
            assert len({tuple(each) for each in seen}) == len(seen)

    @invariant()
    def what_is_left_is_what_was_not_handled(self) -> None:
        left = {(m.run_id, m.number): m.agent for m in self.kept()}
        assert left == {
            (run_id, number): agent
            for run_id, work in self.work.items()
            for number, agent in work.messages.items()
        }

    @invariant()
    def each_run_ends_once(self) -> None:
        for run_id, work in self.work.items():
            stored = self.do(self.store.get_run(run_id))
            assert stored is not None
            kinds = [event.kind for event in self.do(self.store.run_events(run_id))]
            assert kinds == work.told
            assert (stored.run.usage.tokens if stored.run.usage else 0) == work.used
            assert (stored.run.finished_at is None) == (work.ended is None)
            if work.ended is not None:
                assert stored.run.status is work.ended
            else:
                assert (stored.run.status is RunStatus.WAITING) == work.waits

    def teardown(self) -> None:
        """Handle all that is left: each run ends, and leaves nothing."""
        while any(work.ended is None for work in self.work.values()):
            while kept := self.kept():
                first = kept[0]
                message = (first.run_id, first.number)
                self.handle([Delivery(message, first.agent, self.host, self.epoch)], [], False)
            for run, work in self.work.items():
                if work.ended is None:
                    self.answer(run)
                    self.go_on(run, late=False)
        self.every_message_has_had_one_effect()
        self.each_run_ends_once()
        assert all(work.ended is not None for work in self.work.values())


def check(machine: type[Inbox], examples: int, loop: asyncio.AbstractEventLoop) -> None:
    machine.loop = loop
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_in_memory():
    class InMemory(Inbox):
        def __init__(self) -> None:
            self.store = MemoryStore()
            super().__init__()

    loop = asyncio.new_event_loop()
    try:
        check(InMemory, 100, loop)
    finally:
        loop.close()


def test_in_postgresql(postgres_dsn: str):
    loop = asyncio.new_event_loop()
    opened = PostgresStore(postgres_dsn)

    async def rows_left() -> int:
        connection = await connect(postgres_dsn)
        try:
            return await connection.fetchval(
                "SELECT (SELECT count(*) FROM step_runs) + (SELECT count(*) FROM step_messages)"
            )
        finally:
            await connection.close()

    class InPostgres(Inbox):
        def __init__(self) -> None:
            self.store = opened
            loop.run_until_complete(empty(postgres_dsn))
            super().__init__()

        def teardown(self) -> None:
            super().teardown()
            assert self.do(rows_left()) == 0

    try:
        loop.run_until_complete(opened.open())
        check(InPostgres, 12, loop)
    finally:
        loop.run_until_complete(opened.close())
        loop.close()
