"""Prompts of a session at random, over both stores: people, hosts and fail-overs at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentray.core.lifecycle import UNFINISHED
from agentray.ids import AgentId
from agentray.protocol.runs import RunError, RunStatus
from agentray.protocol.sessions import Session, SessionPolicy
from agentray.store.base import CommitOutcome, NewRun, Store
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from agentray.store.run_ends import UnworkedEnd
from agentray.store.sessions import Beginning, Refusal
from tests.contract.samples import at, effects, empty, end, host, lease, new_run, state

T = TypeVar("T")
WHY = RunError(type="Cancelled", message="It was cancelled.")
_numbers = count()


@dataclass
class Prompted:
    """A prompt as it ought to be."""

    new: NewRun
    held: bool
    unwanted: bool = False  # somebody asked for its end
    ended: bool = False
    rolled_back: bool = False


class Turns(RuleBasedStateMachine):
    """Does what may happen in a session, and compares with how it is meant."""

    loop: asyncio.AbstractEventLoop
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.session = f"s{next(_numbers)}"
        self.agent = AgentId("greeter", self.session)
        self.prompts: list[Prompted] = []
        self.state: int | None = None
        self.before: int | None = None  # the last run that began
        self.rolling_back = False
        self.epoch = 0
        made = Session(id=self.session, agent=str(self.agent), created_at=at(0), updated_at=at(0))
        assert self.do(self.store.create_session(made))
        self.do(self.store.put_host(host("h1")))
        self.lease_anew()

    def do(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.loop.run_until_complete(awaited())

    @property
    def unfinished(self) -> list[Prompted]:
        return [each for each in self.prompts if not each.ended]

    @property
    def under_way(self) -> Prompted | None:
        return next((each for each in self.unfinished if not each.held), None)

    # What may happen

    @rule()
    def lease_anew(self) -> None:
        (held,) = self.do(self.store.assign_slots([lease("h1")]))
        self.epoch = held.epoch

    @rule(policy=st.sampled_from(SessionPolicy))
    def prompt(self, policy: SessionPolicy) -> None:
        given = {"prompt": "x", "session": self.session, "access": "public"}
        new = new_run(agent=self.agent, input=given, policy=policy)
        unfinished = self.unfinished
        (admission,) = self.do(self.store.admit([new]))
        if unfinished and policy is SessionPolicy.REJECT:
            assert (admission.created, admission.refused) == (False, Refusal.BUSY)
            assert admission.run.id == unfinished[0].new.id
            return
        if policy in {SessionPolicy.INTERRUPT, SessionPolicy.ROLLBACK}:
            self.rolling_back |= policy is SessionPolicy.ROLLBACK and self.under_way is not None
            for each in unfinished:
                each.unwanted = True
                each.rolled_back |= policy is SessionPolicy.ROLLBACK
        held = bool(unfinished) or self.rolling_back
        assert (admission.created, admission.held, admission.refused) == (True, held, None)
        self.prompts.append(Prompted(new, held))
        if not held:
            self.before = self.state

    @precondition(lambda self: self.prompts)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.prompts))
        (admission,) = self.do(self.store.admit([known.new]))
        assert (admission.created, admission.refused) == (False, None)
        assert admission.held == (known.held and not known.ended)

    @precondition(lambda self: self.prompts)
    @rule(data=st.data(), stale=st.booleans())
    def begin(self, data: st.DataObject, stale: bool) -> None:
        wanted = data.draw(st.sampled_from(self.prompts))
        slot = lease(epoch=self.epoch - stale)
        begun = self.do(self.store.begin_in_session("h1", slot, wanted.new.id, at(1)))
        first = bool(self.unfinished) and self.unfinished[0] is wanted
        if stale:
            assert begun is Beginning.FENCED
        elif first and wanted.held and not wanted.unwanted:
            assert begun is Beginning.BEGUN
            self.state = self.before if self.rolling_back else self.state
            self.before, self.rolling_back, wanted.held = self.state, False, False
        else:
            assert begun is Beginning.NOT_YET

    @precondition(lambda self: self.under_way)
    @rule(number=st.integers(0, 99), ends=st.booleans())
    def work(self, number: int, ends: bool) -> None:
        """A host keeps what a run has done so far, or its end with it."""
        run = self.under_way
        assert run is not None
        ended = end(run.new.id) if ends else None
        told = effects(self.epoch, states=[state(number, self.agent)], end=ended)
        (outcome,) = self.do(self.store.commit("h1", [told]))
        assert outcome is CommitOutcome.COMMITTED
        self.state, run.ended = number, ends

    @precondition(lambda self: any(each.unwanted for each in self.unfinished))
    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        unwanted = [each for each in self.unfinished if each.unwanted]
        run = data.draw(st.sampled_from(unwanted))
        over = UnworkedEnd(run.new.id, RunStatus.CANCELLED, WHY, at(2))
        assert len(self.do(self.store.end_unworked([over], UNFINISHED))) == 1
        run.ended = True

    @precondition(lambda self: self.prompts)
    @rule(data=st.data())
    def take_up(self, data: st.DataObject) -> None:
        """A host died, or somebody believes so."""
        run = data.draw(st.sampled_from(self.prompts))
        before = self.do(self.store.get_run(run.new.id))
        retried = self.do(self.store.retry_run(run.new.id))
        assert before is not None
        assert retried is not None
        again = not run.held and not run.ended
        assert retried.run.attempt == before.run.attempt + again
        assert retried.delayed == (run.held)

    @rule()
    def copy(self) -> None:
        target = f"c{next(_numbers)}"
        agent = AgentId("greeter", target)
        made = Session(id=target, agent=str(agent), created_at=at(0), updated_at=at(0))
        assert self.do(self.store.copy_session(self.session, made))
        wanted = self.before if self.under_way or self.rolling_back else self.state
        assert self.state_of(agent) == wanted
        found = self.do(self.store.session_runs(target, rolled_back=True, limit=999))
        ended = [(n, p) for n, p in enumerate(self.prompts, 1) if p.ended]
        assert [(e.number, e.run.id) for e in found] == [(n, p.new.id) for n, p in ended]

    # What must be true

    def state_of(self, agent: AgentId) -> int | None:
        found = self.do(self.store.load_states([agent]))
        return found[agent].state["n"] if agent in found else None

    @invariant()
    def one_at_a_time_in_their_order(self) -> None:
        front = self.do(self.store.session_front(self.session, limit=999))
        assert [(r.run.id, r.delayed, r.cancelled) for r in front.runs] == [
            (each.new.id, each.held, each.unwanted) for each in self.unfinished
        ]
        assert sum(not run.delayed for run in front.runs) <= 1
        assert all(run.delayed for run in front.runs[1:])
        if front.runs:
            assert front.rolling_back == self.rolling_back
        due = [run.run.id for run in self.do(self.store.due_in_sessions(limit=99_999))]
        held = next((each for each in self.unfinished if each.held), None)
        before = self.unfinished[: self.unfinished.index(held)] if held else []
        ours = {each.new.id for each in self.prompts}
        wanted = {held.new.id} if held and all(each.unwanted for each in before) else set[str]()
        assert ours.intersection(due) == wanted

    @invariant()
    def state_and_history_are_as_they_are_meant(self) -> None:
        assert self.state_of(self.agent) == self.state
        found = self.do(self.store.session_runs(self.session, rolled_back=True, limit=999))
        assert [(each.number, each.run.id, each.rolled_back) for each in found] == [
            (number, each.new.id, each.rolled_back) for number, each in enumerate(self.prompts, 1)
        ]


@pytest.mark.parametrize(("kind", "examples"), [("memory", 40), ("postgres", 5)])
def test_prompts_of_a_session_take_turns_whatever_happens(
    kind: str, examples: int, request: pytest.FixtureRequest
) -> None:
    loop = asyncio.new_event_loop()
    store: Store = MemoryStore()
    if kind == "postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        store = PostgresStore(dsn)
        loop.run_until_complete(store.open())
        loop.run_until_complete(empty(dsn))

    class OfThisStore(Turns):
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
