"""Runs that wait for an answer and go on, and what they have used, in both stores."""

from __future__ import annotations

from typing import Any

import pytest

from agentray.errors import PayloadError, UnknownRun
from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import RunEvent, RunStatus
from agentray.store.base import CommitOutcome, Store
from agentray.store.run_progress import Resumption, Suspension, UsageWrite
from tests.contract.samples import ADA, admit_one, at, effects, end, events, serve, state

ASKED = Question(
    id="qst_1",
    question="Really? \0 é",
    answer_schema={"type": "boolean"},
    details={"amount": 1e16},
    agent="greeter/ada",
    asked_at=at(3),
)
NEXT = Question(id="qst_2", question="And this?", agent="greeter/bob", asked_at=at(3))


def suspension(run_id: str, *questions: Question) -> Suspension:
    return Suspension(run_id, questions or (ASKED,), at(1))


def resumption(run_id: str, offset: int, *left: Question, value: Any = True) -> Resumption:
    answer = Answer(question=ASKED, value=value, key="k", answered_at=at(5))
    told = RunEvent(offset=offset, kind="answered", time=at(5), data={"value": value})
    return Resumption(run_id, left, (answer,), told)


async def waiting(store: Store, *questions: Question) -> str:
    """A run that waits, with two events."""
    await serve(store)
    run_id = await admit_one(store)
    wanted = effects(events={run_id: events(0, 2)}, states=[state(1)])
    outcome = await store.suspend_run("h1", wanted, suspension(run_id, *questions))
    assert outcome is CommitOutcome.COMMITTED
    return run_id


async def test_a_waiting_run_shows_its_question_and_keeps_the_state(store: Store):
    run_id = await waiting(store)

    stored = await store.get_run(run_id)
    assert stored is not None
    assert stored.run.status is RunStatus.WAITING
    assert (stored.run.question, stored.questions, stored.answers) == (ASKED, (ASKED,), ())
    assert (stored.run.started_at, stored.events) == (at(1), 2)
    assert await store.load_states([ADA]) == {ADA: state(1)}
    (listed,) = await store.list_runs(status=RunStatus.WAITING)
    assert listed == stored.run


async def test_nobody_works_on_a_waiting_run(store: Store):
    run_id = await waiting(store)
    assert await store.unfinished_runs(created_before=at(99)) == []
    retried = await store.retry_run(run_id)
    assert retried is not None
    assert (retried.run.status, retried.run.attempt) == (RunStatus.WAITING, 1)
    await store.mark_running({run_id: at(9)}, "h1")
    assert (await store.count_runs()) == {RunStatus.WAITING: 1}


async def test_an_answer_lets_it_go_on_in_the_same_attempt(store: Store):
    run_id = await waiting(store, ASKED, NEXT)

    assert await store.resume_run(resumption(run_id, 2, NEXT))

    stored = await store.get_run(run_id)
    assert stored is not None
    assert (stored.run.status, stored.run.attempt) == (RunStatus.QUEUED, 1)
    assert stored.run.question is None
    assert stored.questions == (NEXT,)
    (answer,) = stored.answers
    assert (answer.question, answer.value, answer.key) == (ASKED, True, "k")
    assert [event.kind for event in await store.run_events(run_id)][-1] == "answered"
    assert [each.run.id for each in await store.unfinished_runs(created_before=at(99))] == [run_id]

    began = stored.run.started_at
    assert began is not None
    await store.mark_running({run_id: at(50)}, "h2")
    resumed = await store.get_run(run_id)
    assert resumed is not None
    assert (resumed.run.status, resumed.run.started_at) == (RunStatus.RUNNING, began)
    await store.retry_run(run_id)
    await store.mark_running({run_id: at(60)}, "h2")
    again = await store.get_run(run_id)
    assert again is not None
    assert (again.run.attempt, again.run.started_at) == (2, at(60))


@pytest.mark.parametrize("offset", [1, 3])
async def test_who_looked_at_another_moment_of_the_run_is_told_so(store: Store, offset: int):
    run_id = await waiting(store)
    assert not await store.resume_run(resumption(run_id, offset))
    assert await store.resume_run(resumption(run_id, 2))
    assert not await store.resume_run(resumption(run_id, 3)), "it does not wait any more"
    assert not await store.resume_run(resumption("run_0", 0))
    assert len(await store.run_events(run_id)) == 3


async def test_an_answer_without_json_writes_nothing(store: Store):
    run_id = await waiting(store)
    with pytest.raises(PayloadError):
        await store.resume_run(resumption(run_id, 2, value=float("nan")))
    assert len(await store.run_events(run_id)) == 2


async def test_who_may_not_write_lets_no_run_wait(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    fenced = effects(7, events={run_id: events(0, 1)}, states=[state(1)])
    outcome = await store.suspend_run("h1", fenced, suspension(run_id))
    assert outcome is CommitOutcome.FENCED
    assert await store.load_states([ADA]) == {}
    assert await store.count_runs() == {RunStatus.QUEUED: 1}
    unknown = effects(events={"run_0": events(0, 1)})
    with pytest.raises(UnknownRun):
        await store.suspend_run("h1", unknown, suspension("run_0"))


async def test_an_ended_run_does_not_wait(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.commit("h1", [effects(end=end(run_id))])
    late = effects(events={run_id: events(0, 1)})
    outcome = await store.suspend_run("h1", late, suspension(run_id))
    assert outcome is CommitOutcome.ALREADY_ENDED
    assert await store.count_runs() == {RunStatus.SUCCEEDED: 1}


async def test_usage_is_shown_and_outlives_attempts(store: Store):
    run_id, other = await admit_one(store), await admit_one(store)
    used = Usage(wall_s=1.5, tokens=12, tool_calls=1, cost=0.25)
    await store.put_usage([UsageWrite(run_id, 1, used), UsageWrite("run_0", 1, used)])
    retried = await store.retry_run(run_id)
    assert retried is not None
    assert retried.run.usage == used

    late = Usage(tokens=1)
    await store.put_usage([UsageWrite(run_id, 1, late)])
    stored, untouched = await store.get_run(run_id), await store.get_run(other)
    assert stored is not None
    assert stored.run.usage == used, "an earlier attempt does not write over it"
    assert untouched is not None
    assert untouched.run.usage is None
    await store.put_usage([])
