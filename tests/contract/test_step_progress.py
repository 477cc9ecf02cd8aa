"""Runs that are durable per step: what they use is counted once, and what they ask is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentray.core.budgets import exceeded
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import RunError, RunEvent, RunStatus
from agentray.store.base import Store, StoredRun
from agentray.store.run_ends import UnworkedEnd
from agentray.store.run_progress import Resumption, UsageWrite
from agentray.store.steps import NewRunEvent, StepEnd
from tests.contract.samples import at, serve
from tests.contract.test_steps import (
    COMMITTED,
    GONE,
    begin,
    commit,
    left,
    n_of,
    new,
    outcomes,
    step,
)

TEN = Usage(tokens=10, tool_calls=1, cost=0.25)


@pytest.fixture(autouse=True)
async def served(store: Store) -> None:
    """A host with two slots."""
    await serve(store, slots=[0, 1])


def question(number: int = 1) -> Question:
    """A question."""
    details = {"b": number, "a": [number]}
    return Question(
        id=f"qst_{number}",
        question=f"What is {number}?",
        details=details,
        agent="greeter/ada",
        asked_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def get(store: Store, run_id: str) -> StoredRun:
    """A run as it is kept."""
    stored = await store.get_run(run_id)
    assert stored is not None
    return stored


async def kinds(store: Store, run_id: str) -> list[str]:
    """The kinds of a run's events, whose offsets have no gap."""
    told = await store.run_events(run_id)
    assert [event.offset for event in told] == list(range(len(told)))
    return [event.kind for event in told]


async def answer(store: Store, run_id: str, value: object = "yes") -> None:
    """Answer what a run asks."""
    stored = await get(store, run_id)
    asked, *others = stored.questions
    answers = [*stored.answers, Answer(question=asked, value=value, answered_at=at(7))]
    told = RunEvent(offset=stored.events, kind="answered", time=at(7), data={})
    assert await store.resume_run(Resumption(run_id, others, answers, told))


# Budgets


async def test_what_a_step_uses_is_counted_in_its_transaction_once(store: Store):
    run_id = await begin(store, new(), new())
    used = step(run_id, handled=1, n=1, spent=[(1, TEN)])

    first, again = await commit(store, used, used)
    assert (first.outcome, first.usage, first.end) == (COMMITTED, TEN, None)
    assert (again.outcome, again.usage) == (GONE, None)
    assert outcomes(await commit(store, used)) == [GONE]
    assert (await get(store, run_id)).run.usage == TEN

    # What is told of a message that is gone has been counted; what no message used counts.
    late = step(run_id, spent=[(1, TEN), (None, Usage(tokens=1)), (None, Usage(tokens=2))])
    (told,) = await commit(store, late)
    assert told.usage == TEN.plus(Usage(tokens=3))

    (last,) = await commit(store, step(run_id, handled=2, spent=[(2, TEN)]))
    assert last.end is not None
    assert last.end.status is RunStatus.SUCCEEDED
    ended = await get(store, run_id)
    assert ended.run.usage == Usage(tokens=23, tool_calls=2, cost=0.5)
    (event,) = await store.run_events(run_id)
    assert Usage.model_validate(event.data["usage"]) == ended.run.usage


async def test_a_budget_that_is_exceeded_ends_its_run_in_the_same_transaction(store: Store):
    run_id = await begin(store, new(), new(), budget=Budget(tokens=15))
    (told,) = await commit(store, step(run_id, handled=1, emitted=[new()], spent=[(1, TEN)]))
    assert told.end is None

    (told,) = await commit(
        store, step(run_id, handled=2, n=2, emitted=[new(), new()], spent=[(2, TEN)])
    )

    assert (told.outcome, told.usage) == (COMMITTED, TEN.plus(TEN))
    assert told.end is not None
    why = "Its budget of 15 tokens is exceeded: it used 20."
    assert (told.end.status, told.end.errors) == (
        RunStatus.BUDGET_EXCEEDED,
        (RunError(type="BudgetExceeded", message=why),),
    )
    stored = await get(store, run_id)
    assert (stored.run.status, stored.run.error) == (told.end.status, told.end.errors[0])
    assert stored.run.usage == TEN.plus(TEN)
    assert await n_of(store) == 2
    assert await left(store) == []
    assert await kinds(store, run_id) == ["budget_exceeded"]
    assert outcomes(await commit(store, step(run_id, handled=3, n=3))) == [GONE]


async def test_a_step_that_answers_has_used_too_much_before_that(store: Store):
    run_id = await begin(store, new(), new(), budget=Budget(tokens=5))
    (told,) = await commit(
        store, step(run_id, handled=1, answer=("done",), closes=True, spent=[(1, TEN)])
    )
    assert told.end is not None
    assert (told.end.status, told.end.result) == (RunStatus.BUDGET_EXCEEDED, None)
    stored = await get(store, run_id)
    assert (stored.run.status, stored.run.result) == (RunStatus.BUDGET_EXCEEDED, None)


async def test_a_run_that_has_its_result_succeeds_whatever_it_has_used(store: Store):
    run_id = await begin(store, new(), new(), budget=Budget(tokens=5))
    (told,) = await commit(store, step(run_id, handled=1, answer=("done",), closes=True))
    assert told.end is None
    (told,) = await commit(store, step(run_id, handled=2, spent=[(2, TEN)]))
    assert told.end is not None
    assert (told.end.status, told.end.result) == (RunStatus.SUCCEEDED, "done")


async def test_a_run_that_is_stopped_counts_what_was_under_way_once(store: Store):
    run_id = await begin(store, new(), new())
    await commit(store, step(run_id, handled=1, spent=[(1, TEN)]))
    error = RunError(type="BudgetExceeded", message="It has used too much.")
    stop: dict[str, Any] = {
        "drops": RunStatus.BUDGET_EXCEEDED,
        "errors": [error],
        "spent": [(1, TEN), (2, TEN)],
    }

    (told,) = await commit(store, step(run_id, **stop))

    assert told.end is not None
    assert (told.end.status, told.end.errors) == (RunStatus.BUDGET_EXCEEDED, (error,))
    assert (await get(store, run_id)).run.usage == TEN.plus(TEN)


async def test_the_time_of_work_is_written_beside_what_steps_have_used(store: Store):
    run_id = await begin(store, new())
    await commit(store, step(run_id, spent=[(None, TEN)]))
    used = Usage(wall_s=2.5, tokens=99)
    await store.put_usage([UsageWrite(run_id, 1, used, only_time=True)])
    assert (await get(store, run_id)).run.usage == TEN.plus(Usage(wall_s=2.5))

    other = await begin(store, new())
    await store.put_usage([UsageWrite(other, 1, used, only_time=True)])
    assert (await get(store, other)).run.usage == Usage(wall_s=2.5)
    await commit(store, step(other, handled=2 - 1, spent=[(1, TEN)]))
    assert (await get(store, other)).run.usage == TEN.plus(Usage(wall_s=2.5))


limits = st.none() | st.integers(0, 30)
costs = st.sampled_from([0.0, 0.25, 1.0, 2.5])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=limits,
    tool_calls=limits,
    cost=st.none() | costs,
    uses=st.lists(
        st.builds(Usage, tokens=st.integers(0, 20), tool_calls=st.integers(0, 20), cost=costs),
        min_size=1,
        max_size=4,
    ),
)
async def test_both_stores_exceed_a_budget_when_its_rule_says_so(
    store: Store, tokens: int | None, tool_calls: int | None, cost: float | None, uses: list[Usage]
):
    budget = Budget(tokens=tokens, tool_calls=tool_calls, cost=cost)
    run_id = await begin(store, *[new() for _ in uses], new(), budget=budget)
    total = Usage()
    for number, used in enumerate(uses, 1):
        (told,) = await commit(store, step(run_id, handled=number, spent=[(number, used)]))
        total = total.plus(used)
        assert told.usage == total
        why = exceeded(budget, total)
        if why is not None:
            assert told.end is not None
            assert [error.message for error in told.end.errors] == [why]
            return
        assert told.end is None


# Questions


async def ask(store: Store, *numbers: int, **about: Any) -> tuple[str, StepEnd]:
    """Let a run ask, and wait."""
    run_id = await begin(store)
    asked = [question(number) for number in numbers]
    (told,) = await commit(store, step(run_id, handled=1, n=1, asked=asked, **about))
    assert told.end is not None
    return run_id, told.end


async def test_a_run_of_which_nothing_but_a_question_is_left_waits(store: Store):
    run_id = await begin(store, new(), new())
    (told,) = await commit(store, step(run_id, handled=1, n=1, asked=[question()]))
    assert told.end is None
    assert (await get(store, run_id)).run.question is None

    (told,) = await commit(store, step(run_id, handled=2, at=at(8)))

    assert told.end is not None
    assert (told.end.status, told.end.question) == (RunStatus.WAITING, question())
    assert (told.end.at, told.end.answered, told.events) == (at(8), 0, 1)
    waiting = await get(store, run_id)
    assert (waiting.run.status, waiting.run.question) == (RunStatus.WAITING, question())
    assert (waiting.run.started_at, waiting.run.finished_at) == (at(1), None)
    assert await n_of(store) == 1
    (event,) = await store.run_events(run_id)
    assert (event.kind, event.time) == ("waiting", at(8))
    assert event.data == {"question": question().model_dump(mode="json")}
    assert [each.run.id for each in await store.settled_runs([run_id])] == [run_id]
    assert await store.unfinished_runs(created_before=at(99)) == []


async def test_it_goes_on_with_each_answer_once_and_then_asks_the_next_question(store: Store):
    run_id, _ = await ask(store, 1, 2)
    await answer(store, run_id)
    # What is written of it before it goes on does not end it.
    (told,) = await commit(store, step(run_id, events=[NewRunEvent("resumed", at(7), {})]))
    assert told.end is None

    go_on = step(run_id, resumes=1, emitted=[new()])
    first, again = await commit(store, go_on, go_on)
    assert (first.outcome, first.numbers, again.outcome) == (COMMITTED, [2], GONE)
    assert outcomes(await commit(store, go_on)) == [GONE]
    assert await left(store) == [2]

    (told,) = await commit(store, step(run_id, handled=2))
    assert told.end is not None
    assert (told.end.question, told.end.answered) == (question(2), 1)

    await answer(store, run_id)
    await commit(store, step(run_id, resumes=2, emitted=[new()]))
    (told,) = await commit(store, step(run_id, handled=3, answer=("done",)))
    assert told.end is not None
    assert (told.end.status, told.end.result) == (RunStatus.SUCCEEDED, "done")
    assert await kinds(store, run_id) == [
        "waiting", "answered", "resumed", "waiting", "answered", "succeeded",
    ]  # fmt: skip
    assert outcomes(await commit(store, step(run_id, resumes=3))) == [GONE]


async def test_what_is_written_of_a_run_that_waits_leaves_it_waiting(store: Store):
    run_id, _ = await ask(store, 1)
    (told,) = await commit(store, step(run_id, emitted=[new()], spent=[(None, TEN)]))
    assert told.usage == TEN
    await commit(store, step(run_id, handled=2))
    waiting = await get(store, run_id)
    assert (waiting.run.status, waiting.run.usage) == (RunStatus.WAITING, TEN)
    assert await kinds(store, run_id) == ["waiting"]


@pytest.mark.parametrize(
    ("on_error", "about", "status"),
    [
        ("fail", {"answer": ("done",)}, RunStatus.SUCCEEDED),
        ("fail", {"errors": [RunError(type="Oops", message="oops")]}, RunStatus.FAILED),
        ("collect", {"errors": [RunError(type="Oops", message="oops")]}, RunStatus.WAITING),
    ],
)
async def test_a_result_or_an_error_that_counts_goes_before_a_question(
    store: Store, on_error: str, about: dict[str, Any], status: RunStatus
):
    run_id = await begin(store, on_error=on_error)
    (told,) = await commit(store, step(run_id, handled=1, asked=[question()], **about))
    assert told.end is not None
    assert told.end.status is status


@pytest.mark.parametrize("by_host", [True, False])
async def test_a_run_that_waits_can_be_ended(store: Store, by_host: bool):
    run_id, _ = await ask(store, 1)
    if by_host:
        (told,) = await commit(store, step(run_id, drops=RunStatus.CANCELLED))
        assert told.end is not None
    else:
        error = RunError(type="TimedOut", message="too late")
        end = UnworkedEnd(run_id, RunStatus.TIMED_OUT, error, at(9))
        assert await store.end_unworked([end], [RunStatus.WAITING])
    ended = await get(store, run_id)
    assert ended.run.status is (RunStatus.CANCELLED if by_host else RunStatus.TIMED_OUT)
    assert outcomes(await commit(store, step(run_id, resumes=1, emitted=[new()]))) == [GONE]
    assert await left(store) == []
