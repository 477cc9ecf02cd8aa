"""Sessions, and the order of the prompts in them, in both stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentray.core.lifecycle import UNFINISHED
from agentray.errors import PayloadError
from agentray.ids import AgentId
from agentray.protocol.access import AccessLevel
from agentray.protocol.runs import RunError, RunStatus
from agentray.protocol.sessions import Session, SessionPolicy, SessionQuery
from agentray.store.base import Admission, NewRun, Store
from agentray.store.retention import PruneQuery
from agentray.store.run_ends import UnworkedEnd
from agentray.store.sessions import Beginning, Refusal
from tests.contract.samples import at, effects, end, lease, new_run, serve, state

WHY = RunError(type="Cancelled", message="It was cancelled.")
AGENT = AgentId("greeter", "s1")
INTERRUPT, ROLLBACK = SessionPolicy.INTERRUPT, SessionPolicy.ROLLBACK


def session(session_id: str = "s1", **fields: Any) -> Session:
    said: dict[str, Any] = {"owner": "key_1", "created_at": at(0), "updated_at": at(0)}
    said |= {"agent": f"greeter/{session_id}"} | fields
    if (ttl_s := fields.get("ttl_s")) is not None:
        said.setdefault("expires_at", at(ttl_s))
    return Session(id=session_id, **said)


def prompt(session_id: str = "s1", text: str = "hello", **fields: Any) -> NewRun:
    level = fields.pop("access", "public")
    given = {"prompt": text, "session": session_id, "access": level}
    said: dict[str, Any] = {"agent": AgentId("greeter", session_id), **fields}
    return new_run(input=given, **said)


async def admit(store: Store, new: NewRun) -> Admission:
    (admission,) = await store.admit([new])
    return admission


async def begun(store: Store, new: NewRun) -> Beginning:
    return await store.begin_in_session("h1", lease(epoch=1), new.id, at(5))


async def finish(store: Store, new: NewRun, *states: Any) -> None:
    """Let a run succeed, and its agent keep a state."""
    await store.commit("h1", [effects(end=end(new.id), states=states)])


async def cancel(store: Store, *runs: NewRun) -> None:
    ends = [UnworkedEnd(new.id, RunStatus.CANCELLED, WHY, at(6)) for new in runs]
    assert len(await store.end_unworked(ends, UNFINISHED)) == len(runs)


async def state_of(store: Store, agent: AgentId = AGENT) -> Any:
    found = await store.load_states([agent])
    return found[agent].state if agent in found else None


async def history(store: Store, session_id: str = "s1", **which: Any) -> list[tuple[int, str]]:
    return [(each.number, each.prompt) for each in await store.session_runs(session_id, **which)]


# Sessions


async def test_a_session_is_kept_as_it_was_made(store: Store):
    made = session(
        access_level=AccessLevel.WRITE,
        title="Ünïcode",
        labels={"team": "blue"},
        metadata={"nul": "\0", "deep": [1, {"a": None}]},
        ttl_s=60.0,
        tenant="acme",
    )

    assert await store.create_session(made)

    assert await store.get_session("s1", at(1)) == made
    assert await store.get_session("s2", at(1)) is None


async def test_an_id_and_an_agent_are_for_one_session(store: Store):
    assert await store.create_session(session())

    assert not await store.create_session(session(agent="greeter/other"))
    assert not await store.create_session(session("s2", agent="greeter/s1"))
    assert await store.create_session(session("s2"))


async def test_the_session_of_an_agent_is_found_until_it_is_forgotten(store: Store):
    made = session(tenant="acme")
    await store.create_session(made)
    agent = AgentId.parse(made.agent)

    assert await store.session_of_agent(agent) == made
    assert await store.session_of_agent(AgentId(agent.type, "other")) is None
    await store.delete_session(made.id, at(1))
    assert (await store.session_of_agent(agent)) is not None


async def test_what_cannot_be_stored_is_refused(store: Store):
    wrongs: list[dict[str, Any]]
    wrongs = [{"title": "a\0"}, {"labels": {"a": "x\0"}}, {"metadata": {"a": {1, 2}}}]
    for wrong in wrongs:
        with pytest.raises(PayloadError):
            await store.create_session(session(**wrong))
    assert await store.get_session("s1", at(1)) is None


async def test_sessions_are_listed_from_the_last_id_on_and_by_what_they_have(store: Store):
    for n in range(5):
        labels = {"n": str(n), "odd": str(n % 2)}
        await store.create_session(session(f"s{n}", labels=labels, owner=f"key_{n % 2}"))
    await store.create_session(session("t1", tenant="acme"))
    await store.create_session(session("o1", agent="other/o1"))

    async def ids(query: SessionQuery, **page: Any) -> list[str]:
        return [each.id for each in await store.list_sessions(query, at(1), **page)]

    assert await ids(SessionQuery()) == ["t1", "s4", "s3", "s2", "s1", "s0", "o1"]
    assert await ids(SessionQuery(), limit=2, before="s3") == ["s2", "s1"]
    assert await ids(SessionQuery(tenant="acme")) == ["t1"]
    assert await ids(SessionQuery(owner="key_0", agent_type="greeter")) == ["s4", "s2", "s0"]
    assert await ids(SessionQuery(labels={"odd": "1"})) == ["s3", "s1"]
    assert await ids(SessionQuery(labels={"odd": "1", "n": "3"})) == ["s3"]
    assert await ids(SessionQuery(agent_type="other")) == ["o1"]
    assert await ids(SessionQuery(agent_type="greeter", agent_key="s2")) == ["s2"]


async def test_a_change_names_the_version_that_it_has_read(store: Store):
    await store.create_session(session(ttl_s=60))

    changed = session(title="new", access_level=AccessLevel.WRITE, ttl_s=10, updated_at=at(3))
    written = await store.update_session(changed, 1)

    assert written is not None
    assert (written.version, written.title, written.expires_at) == (2, "new", at(13))
    assert await store.get_session("s1", at(4)) == written
    assert await store.update_session(changed, 1) is None
    assert await store.update_session(session("s9"), 1) is None


async def test_an_expired_session_is_unknown_and_is_forgotten(store: Store):
    await serve(store)
    await store.create_session(session(ttl_s=10))
    await store.create_session(session("s2"))
    new = prompt(created_at=at(5))
    await admit(store, new)

    # It lives while its run does, and its time after that.
    assert await store.get_session("s1", at(99)) is not None
    assert await store.expire_sessions(at(99), limit=10) == 0
    await store.commit("h1", [effects(end=end(new.id, finished_at=at(100)))])
    assert await store.get_session("s1", at(109)) is not None
    assert await store.get_session("s1", at(111)) is None
    refused = await admit(store, prompt(created_at=at(111)))
    assert (refused.created, refused.refused) == (False, Refusal.UNKNOWN)

    assert await store.expire_sessions(at(111), limit=10) == 1
    assert [each.id for each in await store.gone_sessions()] == ["s1"]
    assert await store.forget_sessions(["s1", "s2"]) == 1
    assert await store.gone_sessions() == []
    assert await store.get_session("s2", at(111)) is not None
    assert (await store.get_run(new.id)) is not None


async def test_a_deleted_session_is_unknown_and_its_runs_are_to_end(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second = prompt(), prompt()
    await store.admit([first, second])

    assert not await store.delete_session("s1", at(1), version=7)
    assert await store.delete_session("s1", at(1), version=1)
    assert not await store.delete_session("s1", at(1))

    assert await store.get_session("s1", at(1)) is None
    assert (await admit(store, prompt())).refused is Refusal.UNKNOWN
    asked = await store.uncancelled_runs(at(2))
    assert {each.run.id for each in asked} == {first.id, second.id}
    assert await store.gone_sessions() == []  # its runs have not ended
    assert await store.forget_sessions(["s1"]) == 0
    await cancel(store, first, second)
    assert [each.id for each in await store.gone_sessions()] == ["s1"]


# The order of prompts


async def test_the_first_prompt_begins_and_those_after_it_wait_for_their_turn(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second, third = prompt(text="1"), prompt(text="2"), prompt(text="3")

    admissions = await store.admit([first, second])
    admissions += await store.admit([third])

    assert [(each.created, each.held) for each in admissions] == [
        (True, False), (True, True), (True, True),
    ]  # fmt: skip
    assert admissions[0].run.session == "s1"
    front = await store.session_front("s1")
    assert [each.run.id for each in front.runs] == [first.id, second.id, third.id]
    assert [each.delayed for each in front.runs] == [False, True, True]
    assert await begun(store, second) is Beginning.NOT_YET
    assert await store.due_in_sessions() == []
    await finish(store, first)
    assert [each.run.id for each in await store.due_in_sessions()] == [second.id]
    assert await begun(store, third) is Beginning.NOT_YET
    assert await begun(store, second) is Beginning.BEGUN
    assert await begun(store, second) is Beginning.NOT_YET
    found = await store.get_run(second.id)
    assert found is not None
    assert (found.delayed, found.run.attempt, found.run.status) == (False, 1, RunStatus.QUEUED)
    assert await history(store) == [(1, "1"), (2, "2"), (3, "3")]
    assert await history(store, after=1, limit=1) == [(2, "2")]


async def test_a_held_run_is_begun_by_nobody_else(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second = prompt(), prompt()
    await store.admit([first, second])

    retried = await store.retry_run(second.id)

    assert retried is not None
    assert (retried.delayed, retried.run.attempt) == (True, 1)
    unfinished = await store.unfinished_runs(created_before=at(99))
    assert [each.run.id for each in unfinished] == [first.id]
    assert await store.due_runs(at(99)) == []
    assert await store.next_due(at(0)) is None


async def test_only_the_holder_of_the_agent_begins_a_run(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second = prompt(), prompt()
    await store.admit([first, second])
    await finish(store, first)

    stale = await store.begin_in_session("h1", lease(epoch=7), second.id, at(5))
    stranger = await store.begin_in_session("h9", lease(epoch=1), second.id, at(5))

    assert (stale, stranger) == (Beginning.FENCED, Beginning.FENCED)
    assert await begun(store, second) is Beginning.BEGUN


async def test_a_prompt_that_does_not_wait_is_told_which_run_is_in_its_way(store: Store):
    await serve(store)
    await store.create_session(session())
    first = prompt()
    await admit(store, first)

    refused = await admit(store, prompt(policy=SessionPolicy.REJECT, idempotency_key="k"))

    assert (refused.created, refused.refused, refused.run.id) == (False, Refusal.BUSY, first.id)
    assert len(await history(store)) == 1
    await finish(store, first)
    begins = await admit(store, prompt(policy=SessionPolicy.REJECT, idempotency_key="k"))
    assert (begins.created, begins.held, begins.refused) == (True, False, None)


async def test_a_repeated_prompt_finds_its_run_whatever_its_policy(store: Store):
    await serve(store)
    await store.create_session(session())
    first = prompt(idempotency_key="k", policy=SessionPolicy.REJECT)
    second = prompt(idempotency_key="l")
    await store.admit([first, second])

    repeats = await store.admit(
        [
            prompt(idempotency_key="k", policy=SessionPolicy.REJECT),
            prompt(idempotency_key="l", policy=INTERRUPT),
            second,
            prompt(idempotency_key="l", digest="another"),
        ]
    )

    assert [each.run.id for each in repeats] == [first.id, second.id, second.id, second.id]
    assert [each.created for each in repeats] == [False] * 4
    assert [each.held for each in repeats] == [False, True, True, True]
    assert [each.conflict for each in repeats] == [False, False, False, True]
    assert [each.refused for each in repeats] == [None] * 4
    assert await store.uncancelled_runs(at(99)) == []
    assert len(await history(store)) == 2


async def test_an_unknown_session_and_another_level_are_told(store: Store):
    await store.create_session(session(access_level=AccessLevel.READ))

    unknown, other, level = await store.admit(
        [prompt("s9"), prompt(agent=AgentId("greeter", "x"), access="read"), prompt(access="write")]
    )
    fine = await admit(store, prompt(access="read"))

    assert [each.refused for each in (unknown, other, level, fine)] == [
        Refusal.UNKNOWN, Refusal.CHANGED, Refusal.CHANGED, None,
    ]  # fmt: skip
    assert await store.count_runs() == {RunStatus.QUEUED: 1}


async def test_prompts_with_and_without_sessions_are_admitted_together(store: Store):
    await store.create_session(session())
    await store.create_session(session("s2"))
    runs = [prompt(), new_run(), prompt("s2"), prompt(), new_run()]

    admissions = await store.admit(runs)

    assert [each.run.id for each in admissions] == [run.id for run in runs]
    assert [each.held for each in admissions] == [False, False, False, True, False]
    assert [each.run.session for each in admissions] == ["s1", None, "s2", "s1", None]


async def test_an_interrupting_prompt_waits_until_those_before_it_were_cancelled(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second, third = prompt(), prompt(), prompt(policy=INTERRUPT)
    await store.admit([first, second])
    await store.commit("h1", [effects(states=[state(1, AGENT)])])

    admission = await admit(store, third)

    assert (admission.created, admission.held) == (True, True)
    asked = await store.uncancelled_runs(at(99))
    assert {each.run.id for each in asked} == {first.id, second.id}
    assert [each.run.id for each in await store.due_in_sessions()] == [second.id]
    await cancel(store, first, second)
    assert [each.run.id for each in await store.due_in_sessions()] == [third.id]
    assert await begun(store, third) is Beginning.BEGUN
    assert await state_of(store) == {"n": 1}
    assert len(await history(store)) == 3


async def test_a_rollback_takes_the_state_back_to_before_the_run_under_way(store: Store):
    await serve(store)
    await store.create_session(session())
    zero, first, waiting = prompt(text="0"), prompt(text="1"), prompt(text="2")
    await admit(store, zero)
    await finish(store, zero, state(1, AGENT))
    await store.admit([first, waiting])
    await store.commit("h1", [effects(states=[state(2, AGENT)])])

    back = prompt(text="3", policy=ROLLBACK)
    await admit(store, back)
    assert (await store.session_front("s1")).rolling_back
    await cancel(store, first, waiting)
    assert await state_of(store) == {"n": 2}
    assert await begun(store, back) is Beginning.BEGUN

    assert await state_of(store) == {"n": 1}
    assert not (await store.session_front("s1")).rolling_back
    assert await history(store) == [(1, "0"), (4, "3")]
    assert await history(store, rolled_back=True) == [(1, "0"), (2, "1"), (3, "2"), (4, "3")]


async def test_a_rollback_of_the_first_run_leaves_no_state(store: Store):
    await serve(store)
    await store.create_session(session())
    first, back = prompt(), prompt(policy=ROLLBACK)
    await admit(store, first)
    await store.commit("h1", [effects(states=[state(2, AGENT)])])
    await admit(store, back)
    await cancel(store, first)

    assert await begun(store, back) is Beginning.BEGUN

    assert await state_of(store) is None


async def test_a_rollback_holds_although_the_one_that_asked_for_it_is_cancelled(store: Store):
    await serve(store)
    await store.create_session(session())
    first, back = prompt(), prompt(policy=ROLLBACK)
    await admit(store, first)
    await store.commit("h1", [effects(states=[state(2, AGENT)])])
    await admit(store, back)
    await cancel(store, first, back)

    later = prompt()
    assert (await admit(store, later)).held  # nobody begins before the state has gone back
    assert [each.run.id for each in await store.due_in_sessions()] == [later.id]
    assert await begun(store, later) is Beginning.BEGUN
    assert await state_of(store) is None


async def test_what_only_waited_is_cancelled_and_takes_no_state_back(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second = prompt(), prompt()
    await store.admit([first, second])
    await finish(store, first, state(1, AGENT))

    await admit(store, prompt(policy=ROLLBACK))

    assert not (await store.session_front("s1")).rolling_back
    assert await state_of(store) == {"n": 1}


# Copies


async def test_a_copy_has_the_history_and_goes_on_from_the_same_state(store: Store):
    await serve(store)
    await store.create_session(session())
    first = prompt(text="1")
    await admit(store, first)
    await finish(store, first, state(1, AGENT))

    assert await store.copy_session("s1", session("c1", copied_from="s1", created_at=at(3)))

    copy = await store.get_session("c1", at(4))
    assert copy is not None
    assert (copy.copied_from, copy.version) == ("s1", 1)
    twin = AgentId("greeter", "c1")
    assert await state_of(store, twin) == {"n": 1}
    await admit(store, second := prompt("c1", text="2"))
    await finish(store, second, state(2, twin))
    assert await history(store, "c1") == [(1, "1"), (2, "2")]
    assert await history(store) == [(1, "1")]
    assert (await state_of(store), await state_of(store, twin)) == ({"n": 1}, {"n": 2})


async def test_a_copy_of_a_busy_session_stands_before_the_run_under_way(store: Store):
    await serve(store)
    await store.create_session(session())
    zero, first, waiting = prompt(text="0"), prompt(text="1"), prompt(text="2")
    await admit(store, zero)
    await finish(store, zero, state(1, AGENT))
    await store.admit([first, waiting])
    await store.commit("h1", [effects(states=[state(2, AGENT)])])

    assert await store.copy_session("s1", session("c1"))

    assert await history(store, "c1") == [(1, "0")]
    assert await state_of(store, AgentId("greeter", "c1")) == {"n": 1}


async def test_a_copy_overwrites_nothing(store: Store):
    await store.create_session(session())
    await store.create_session(session("s2"))
    await store.put_states([state(9, AgentId("greeter", "c1"))])

    assert not await store.copy_session("s1", session("s2"))
    assert not await store.copy_session("s1", session("c1"))
    assert not await store.copy_session("s9", session("c2"))
    assert await state_of(store, AgentId("greeter", "c1")) == {"n": 9}
    assert await store.get_session("c1", at(1)) is None


async def test_pruned_runs_leave_the_histories(store: Store):
    await serve(store)
    await store.create_session(session())
    first, second = prompt(text="1"), prompt(text="2")
    await admit(store, first)
    await finish(store, first)
    await store.copy_session("s1", session("c1"))
    await admit(store, second)

    later = at(0) + timedelta(days=30)
    query = PruneQuery(RunStatus.SUCCEEDED, later, None, later)
    assert await store.prune_runs(query, limit=10) == 1

    assert await history(store) == [(2, "2")]
    assert await history(store, "c1") == []
