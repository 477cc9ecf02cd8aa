"""Runs that go on where another one has ended, in both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

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

from agentray.ids import AgentId
from agentray.protocol.runs import RunStatus
from agentray.store.base import Admission, AppRow, CommitOutcome, NewRun, Store
from agentray.store.continuations import Continuation
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from agentray.store.retention import PruneQuery
from agentray.store.sessions import Refusal
from tests.contract.samples import at, effects, empty, end, new_run, serve, state

T = TypeVar("T")
MUCH = 1_000_000
SIZE = len('{"n":10}')  # of the states here, as both stores write them


def fresh(run_id: str = "") -> NewRun:
    """A run of an agent that nobody else has."""
    new = new_run(run_id)
    return new_run(new.id, agent=AgentId("counter", new.id))


def after(former: NewRun, *, max_bytes: int = MUCH, named: bool = False, **fields: Any) -> NewRun:
    """A run that goes on with another one."""
    new = new_run(agent=former.agent, slot=former.slot, **fields)
    branch = None if named else AgentId(former.agent.type, new.id)
    going_on = Continuation(former.id, branch, branch_slot=7, max_bytes=max_bytes)
    return new_run(new.id, agent=former.agent, slot=former.slot, goes_on=going_on, **fields)


async def admit(store: Store, new: NewRun) -> Admission:
    (admission,) = await store.admit([new])
    return admission


async def agent_of(store: Store, new: NewRun) -> AgentId:
    admission = await admit(store, new)
    assert admission.created
    stored = await store.get_run(new.id)
    assert stored is not None
    assert str(stored.agent) == admission.run.agent
    return stored.agent


async def finish(store: Store, new: NewRun, agent: AgentId, n: int) -> NewRun:
    """Let a run succeed, and its agent keep a state; return the run with its agent."""
    done = await store.commit("h1", [effects(end=end(new.id), states=[state(n, agent)])])
    assert done == [CommitOutcome.COMMITTED]
    return new_run(new.id, agent=agent)


async def ended(store: Store, n: int) -> NewRun:
    new = fresh()
    return await finish(store, new, await agent_of(store, new), n)


async def state_of(store: Store, agent: AgentId) -> Any:
    found = await store.load_states([agent])
    return found[agent].state["n"] if agent in found else None


@pytest.fixture
async def serving(store: Store) -> Store:
    await serve(store)
    return store


async def test_the_first_goes_on_in_the_same_agent_and_the_next_ones_branch(serving: Store):
    first = await ended(serving, 1)
    main = after(first)
    assert await agent_of(serving, main) == first.agent
    await finish(serving, main, first.agent, 2)

    branch = after(first)
    agent = await agent_of(serving, branch)
    assert agent == AgentId("counter", branch.id)
    stored = await serving.get_run(branch.id)
    assert stored is not None
    assert stored.slot == 7
    assert (await state_of(serving, agent), await state_of(serving, first.agent)) == (1, 2)

    # A branch has a main line of its own.
    gone_on = await finish(serving, branch, agent, 5)
    assert await agent_of(serving, after(gone_on)) == agent
    other = after(gone_on)
    assert await state_of(serving, await agent_of(serving, other)) == 5


async def test_of_two_at_once_one_branches(serving: Store):
    first = await ended(serving, 1)
    admissions = await serving.admit([after(first), after(first)])
    agents = [admission.run.agent for admission in admissions]
    assert str(first.agent) in agents
    assert len(set(agents)) == 2
    rows = await asyncio.gather(*(serving.admit([after(first)]) for _ in range(8)))
    branches = [row[0].run.agent for row in rows]
    assert len({*branches, *agents}) == 10
    for agent in branches:
        assert await state_of(serving, AgentId.parse(agent)) == 1


async def test_an_agent_without_a_state_branches_without_one(serving: Store):
    first = fresh()
    agent = await agent_of(serving, first)
    await serving.commit("h1", [effects(end=end(first.id))])
    await agent_of(serving, main := after(first))
    await finish(serving, main, agent, 3)
    branched = await agent_of(serving, after(first))
    assert branched != agent
    assert await state_of(serving, branched) is None


async def test_who_names_the_agent_gets_it_as_it_is(serving: Store):
    first = await ended(serving, 1)
    assert await agent_of(serving, after(first, named=True)) == first.agent
    assert await agent_of(serving, after(first, named=True)) == first.agent
    branched = await agent_of(serving, after(first))
    assert await state_of(serving, branched) == 1


async def test_nobody_goes_on_with_what_has_not_ended_or_is_not_kept(serving: Store):
    under_way = fresh()
    await admit(serving, under_way)
    first = await ended(serving, 1)
    wrong = new_run(first.id, agent=AgentId("counter", "other"))
    for former in (under_way, fresh(), wrong):
        admission = await admit(serving, new := after(former))
        assert (admission.created, admission.refused) == (False, Refusal.GONE)
        assert await serving.get_run(new.id) is None

    # It goes with the run.
    await admit(serving, after(first))
    assert await serving.forget_run(first.id)
    assert (await admit(serving, after(first))).refused is Refusal.GONE


async def test_a_repetition_finds_the_first_one_and_branches_nothing(serving: Store):
    first = await ended(serving, 1)
    main = after(first, idempotency_key="k", digest="d")
    assert await agent_of(serving, main) == first.agent
    for again in (main, after(first, idempotency_key="k", digest="d")):
        admission = await admit(serving, again)
        assert (admission.created, admission.run.id) == (False, main.id)
    assert (await admit(serving, after(first, idempotency_key="k", digest="e"))).conflict
    branch = after(first, idempotency_key="l", digest="d")
    agent = await agent_of(serving, branch)
    admission = await admit(serving, after(first, idempotency_key="l", digest="d"))
    assert (admission.created, admission.run.agent) == (False, str(agent))


async def test_the_oldest_states_of_an_agent_are_dropped_where_there_is_too_much(serving: Store):
    runs = [await ended(serving, 10)]
    agent = runs[0].agent
    for n in range(11, 15):
        new = after(runs[-1], max_bytes=2 * SIZE)
        assert await agent_of(serving, new) == agent
        runs.append(await finish(serving, new, agent, n))
    other = await ended(serving, 10)
    await admit(serving, after(other, max_bytes=2 * SIZE))

    outcomes = [await admit(serving, after(run, max_bytes=2 * SIZE)) for run in runs[:-1]]
    dropped = [outcome.refused for outcome in outcomes]
    assert dropped == [Refusal.DROPPED, Refusal.DROPPED, None, None]
    kept = [await state_of(serving, AgentId.parse(each.run.agent)) for each in outcomes[2:]]
    assert kept == [12, 13]
    assert (await admit(serving, after(other))).created
    # In the agent itself everybody may go on who names it; and the newest one is never dropped.
    assert await agent_of(serving, after(runs[0], named=True)) == agent
    assert await agent_of(serving, after(runs[-1], max_bytes=1)) == agent
    assert await state_of(serving, await agent_of(serving, after(runs[-1], max_bytes=1))) == 14


async def test_states_go_with_their_app(serving: Store):
    first = await ended(serving, 1)
    await admit(serving, after(first))
    await serving.put_app(AppRow("counts", b"", "", "", "running", at(0)))
    await serving.delete_app("counts", ["counter"], states=True)
    assert (await admit(serving, after(first))).refused is Refusal.DROPPED


async def test_what_is_pruned_takes_its_noted_state_along(postgres: PostgresStore, connection: Any):
    await serve(postgres)
    first = await ended(postgres, 1)
    await admit(postgres, after(first))
    assert await connection.fetchval("SELECT count(*) FROM noted_states") == 1
    query = PruneQuery(RunStatus.SUCCEEDED, at(100), None, at(100))
    assert await postgres.prune_runs(query, limit=10) == 1
    assert await connection.fetchval("SELECT count(*) FROM noted_states") == 0


@dataclass
class Asked:
    """A run as it ought to be."""

    new: NewRun
    agent: AgentId
    after: int | None = None  # the state of its agent when it was first gone on with
    begun_with: int | None = None
    ended: bool = False
    gone_on_with: bool = False


class Conversations(RuleBasedStateMachine):
    """Asks, goes on, branches and forgets at random, and compares with how it is meant."""

    loop: asyncio.AbstractEventLoop
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Asked] = []
        self.states: dict[AgentId, int] = {}

    def do(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.loop.run_until_complete(awaited())

    @rule()
    def ask(self) -> None:
        new = fresh()
        self.runs.append(Asked(new, self.do(agent_of(self.store, new))))

    @precondition(lambda self: any(not run.ended for run in self.runs))
    @rule(data=st.data(), n=st.integers(0, 99))
    def end(self, data: st.DataObject, n: int) -> None:
        run = data.draw(st.sampled_from([run for run in self.runs if not run.ended]))
        self.do(finish(self.store, run.new, run.agent, n))
        self.states[run.agent], run.ended = n, True

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), twice=st.booleans())
    def go_on(self, data: st.DataObject, twice: bool) -> None:
        former = data.draw(st.sampled_from(self.runs))
        known = new_run(former.new.id, agent=former.agent)
        news = [after(known) for _ in range(1 + twice)]
        for new, admission in zip(news, self.do(self.store.admit(news)), strict=True):
            assert (admission.refused is Refusal.GONE) is not former.ended
            if not former.ended:
                continue
            if former.gone_on_with:
                agent = AgentId("counter", new.id)
                assert former.after is not None
                self.states[agent] = former.after
            else:
                former.gone_on_with, former.after = True, self.states[former.agent]
                agent = former.agent
            assert admission.run.agent == str(agent)
            self.runs.append(Asked(new, agent))

    @precondition(lambda self: any(run.ended for run in self.runs))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([run for run in self.runs if run.ended]))
        assert self.do(self.store.forget_run(run.new.id))
        self.runs.remove(run)
        known = new_run(run.new.id, agent=run.agent)
        assert self.do(admit(self.store, after(known))).refused is Refusal.GONE

    @invariant()
    def nobody_meets_another(self) -> None:
        under_way = [run.agent for run in self.runs if not run.ended]
        assert len(under_way) == len(set(under_way))
        for agent, n in self.states.items():
            assert self.do(state_of(self.store, agent)) == n


@pytest.mark.parametrize(("kind", "examples"), [("memory", 40), ("postgres", 8)])
def test_conversations_never_meet_whatever_is_asked(
    kind: str, examples: int, request: pytest.FixtureRequest
) -> None:
    store: Store = MemoryStore()
    with asyncio.Runner() as runner:
        if kind == "postgres":
            dsn: str = request.getfixturevalue("postgres_dsn")
            store = PostgresStore(dsn)
            runner.run(store.open())
            runner.run(empty(dsn))
        runner.run(serve(store))

        class OfThisStore(Conversations):
            pass

        OfThisStore.loop, OfThisStore.store = runner.get_loop(), store
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
            runner.run(store.close())
