"""The lives of runs at random, over both stores: hosts, people, operators and deadlines at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from agentray.core.lifecycle import TERMINAL, TRANSITIONS, UNFINISHED
from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus
from agentray.store.base import CommitOutcome, Effects, RunEnd, Store, StoredRun
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from agentray.store.run_ends import UnworkedEnd
from agentray.store.run_progress import Resumption, Suspension, UsageWrite
from tests.contract.samples import at, empty, host, lease, new_run

T = TypeVar("T")

WHY = RunError(type="Cancelled", message="It was cancelled.")
ASKED = Question(id="qst_1", question="Really?", agent="greeter/ada", asked_at=at(0))
TERMINAL_KINDS = {status.value for status in TERMINAL}
UNWORKED = sorted(TERMINAL - {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.BUDGET_EXCEEDED})


@dataclass
class Seen:
    """A run as it was last looked at."""

    stored: StoredRun
    events: list[RunEvent]


class Lives(RuleBasedStateMachine):
    """Does what may happen to runs, and looks after each step at what became of all of them."""

    loop: asyncio.AbstractEventLoop
    store: Store

    runs = Bundle[str]("runs")

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Seen] = {}
        self.by_host: set[str] = set()  # what a host has just written may have begun unseen
        self.epoch = 0
        self.do(self.store.put_host(host("h1")))
        self.lease_anew()

    def do(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.loop.run_until_complete(awaited())

    def look(self, run_id: str) -> Seen:
        stored = self.do(self.store.get_run(run_id))
        assert stored is not None
        return Seen(stored, self.do(self.store.run_events(run_id)))

    def effects(self, run_id: str, *kinds: str, epoch: int | None = None, **more: Any) -> Effects:
        first = len(self.seen[run_id].events)
        told = [RunEvent(offset=first + n, kind=k, time=at(n)) for n, k in enumerate(kinds)]
        self.by_host.add(run_id)
        of = self.epoch if epoch is None else epoch
        return Effects("default", 0, of, events={run_id: told}, **more)

    # What may happen

    @rule(target=runs)
    def admit(self) -> str:
        new = new_run(input={"prompt": "x", "timeout_s": 5})
        self.do(self.store.admit([new]))
        self.seen[new.id] = self.look(new.id)
        assert self.seen[new.id].stored.run.status is RunStatus.QUEUED
        return new.id

    @rule()
    def lease_anew(self) -> None:
        (held,) = self.do(self.store.assign_slots([lease("h1")]))
        assert held.epoch > self.epoch
        self.epoch = held.epoch

    @rule(run=runs)
    def begin(self, run: str) -> None:
        self.do(self.store.mark_running({run: at(1)}, "h1"))

    @rule(run=runs)
    def take_up(self, run: str) -> None:
        before = self.seen[run].stored.run
        retried = self.do(self.store.retry_run(run))
        assert retried is not None
        moved = before.status in {RunStatus.QUEUED, RunStatus.RUNNING}
        assert retried.run.attempt == before.attempt + moved

    @rule(run=runs, number=st.integers(0, 3), stale=st.booleans())
    def tell(self, run: str, number: int, stale: bool) -> None:
        epoch = self.epoch - 1 if stale else None
        told = self.effects(run, *["progress"] * number, epoch=epoch)
        (outcome,) = self.do(self.store.commit("h1", [told]))
        ended = self.seen[run].stored.run.status in TERMINAL
        if stale:
            assert outcome is CommitOutcome.FENCED
        else:
            late = ended and number > 0
            wanted = CommitOutcome.ALREADY_ENDED if late else CommitOutcome.COMMITTED
            assert outcome is wanted

    @rule(run=runs, status=st.sampled_from(sorted(TERMINAL)), stale=st.booleans())
    def end(self, run: str, status: RunStatus, stale: bool) -> None:
        end = RunEnd(run, status, None, None, at(1), at(2))
        epoch = self.epoch - 1 if stale else None
        told = self.effects(run, status.value, epoch=epoch, end=end)
        (outcome,) = self.do(self.store.commit("h1", [told]))
        ended = self.seen[run].stored.run.status in TERMINAL
        if stale:
            assert outcome is CommitOutcome.FENCED
        else:
            wanted = CommitOutcome.ALREADY_ENDED if ended else CommitOutcome.COMMITTED
            assert outcome is wanted

    @rule(run=runs)
    def ask(self, run: str) -> None:
        if self.seen[run].stored.run.status is RunStatus.WAITING:
            return  # no host works on it
        told = self.effects(run, "waiting")
        suspension = Suspension(run, [ASKED], at(1))
        outcome = self.do(self.store.suspend_run("h1", told, suspension))
        ended = self.seen[run].stored.run.status in TERMINAL
        assert (outcome is CommitOutcome.COMMITTED) == (not ended)

    @rule(run=runs)
    def answer(self, run: str) -> None:
        before = self.seen[run]
        given = Answer(question=ASKED, value=True, answered_at=at(3))
        told = RunEvent(offset=len(before.events), kind="answered", time=at(3))
        resumption = Resumption(run, [], (*before.stored.answers, given), told)
        resumed = self.do(self.store.resume_run(resumption))
        assert resumed == (before.stored.run.status is RunStatus.WAITING)

    @rule(run=runs)
    def want_cancelled(self, run: str) -> None:
        asked = self.do(self.store.request_cancel(run, at(4)))
        assert asked is not None
        unfinished = self.seen[run].stored.run.status not in TERMINAL
        assert asked.cancelled == (unfinished or self.seen[run].stored.cancelled)

    @rule(
        run=runs,
        status=st.sampled_from(UNWORKED),
        which=st.sets(st.sampled_from(sorted(UNFINISHED))),
    )
    def end_without_host(self, run: str, status: RunStatus, which: set[RunStatus]) -> None:
        ended = self.do(self.store.end_unworked([UnworkedEnd(run, status, WHY, at(5))], which))
        assert bool(ended) == (self.seen[run].stored.run.status in which)

    @rule(run=runs, tokens=st.integers(0, 9))
    def spend(self, run: str, tokens: int) -> None:
        if self.seen[run].stored.run.status in TERMINAL:
            return  # hosts keep what was used before the end
        used = Usage(tokens=tokens)
        attempt = self.seen[run].stored.run.attempt
        self.do(self.store.put_usage([UsageWrite(run, attempt, used)]))

    @rule(run=consumes(runs))
    def forget(self, run: str) -> None:
        """Look at it no more; others of it go on."""
        del self.seen[run]

    # What must be true

    @invariant()
    def every_run_lives_by_the_table(self) -> None:
        for run_id, before in self.seen.items():
            now = self.look(run_id)
            self._check_move(before.stored.run, now.stored.run, run_id in self.by_host)
            self._check_events(before, now)
            assert now.stored.run.attempt >= before.stored.run.attempt
            assert (now.stored.run.question is not None) == (
                now.stored.run.status is RunStatus.WAITING
            )
            self.seen[run_id] = now
        self.by_host.clear()

    def _check_move(self, before: Run, now: Run, by_host: bool) -> None:
        if before.status in TERMINAL:
            assert now == before, "what has ended does not change"
            return
        # A host tells that it has begun some time after it has.
        ways = {before.status, RunStatus.RUNNING} if by_host else {before.status}
        legal = {before.status} | {after for way in ways for after in TRANSITIONS[way]}
        assert now.status in legal, f"{before.status} to {now.status}"
        assert (now.finished_at is not None) == (now.status in TERMINAL)

    def _check_events(self, before: Seen, now: Seen) -> None:
        assert [event.offset for event in now.events] == list(range(len(now.events)))
        assert now.stored.events == len(now.events)
        assert now.events[: len(before.events)] == before.events
        terminal = [event.kind for event in now.events if event.kind in TERMINAL_KINDS]
        if now.stored.run.status in TERMINAL:
            assert terminal == [now.stored.run.status.value]
            assert now.events[-1].kind == terminal[0], "nothing comes after the end"
        else:
            assert terminal == []


@pytest.mark.parametrize(("kind", "examples"), [("memory", 60), ("postgres", 12)])
def test_runs_live_by_the_table_whatever_happens(
    kind: str, examples: int, request: pytest.FixtureRequest
) -> None:
    loop = asyncio.new_event_loop()
    store: Store = MemoryStore()
    if kind == "postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        store = PostgresStore(dsn)
        loop.run_until_complete(store.open())
        loop.run_until_complete(empty(dsn))

    class OfThisStore(Lives):
        pass

    OfThisStore.loop, OfThisStore.store = loop, store
    try:
        run_state_machine_as_test(
            OfThisStore,
            settings=settings(
                max_examples=examples,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
    finally:
        loop.run_until_complete(store.close())
        loop.close()
