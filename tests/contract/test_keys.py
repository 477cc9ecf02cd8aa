"""API keys, and what tenants see of runs, schedules and dead letters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentray.core.owners import owner_of
from agentray.errors import PayloadError
from agentray.protocol.letters import DeadLetter, LetterKind, LetterQuery, LetterReason
from agentray.protocol.runs import RunStatus
from agentray.protocol.schedules import Schedule, ScheduleSpec, ScheduleStatus
from agentray.store.base import Store
from agentray.store.keys import ApiKey
from agentray.store.letters import StoredLetter
from tests.contract.samples import T0, admit_one, at, effects, end, serve

KEY = ApiKey("key_1", "ab12", "laptop", frozenset({"read", "admin"}), T0)
ACME = owner_of("key_9", "acme")


async def test_a_key_is_found_by_its_digest_even_when_revoked(store: Store):
    await store.put_key(KEY)
    assert await store.find_key("ab12") == KEY
    assert await store.find_key("ab13") is None

    assert await store.revoke_key("key_1", at(1)) == replace(KEY, revoked_at=at(1))
    assert await store.find_key("ab12") == replace(KEY, revoked_at=at(1))


async def test_a_key_is_revoked_once(store: Store):
    await store.put_key(KEY)
    first = await store.revoke_key("key_1", at(1))
    assert await store.revoke_key("key_1", at(2)) == first
    assert await store.get_key("key_1") == first
    assert await store.revoke_key("key_2", at(1)) is None
    assert await store.get_key("key_2") is None


async def test_keys_are_listed_newest_first_of_all_or_of_a_tenant(store: Store):
    keys = [
        replace(KEY, id=f"key_{n}", digest=str(n), tenant="acme" if n % 2 else "") for n in range(5)
    ]
    for key in keys:
        await store.put_key(key)
    assert await store.list_keys() == keys[::-1]
    assert await store.list_keys(limit=2, before="key_3") == [keys[2], keys[1]]
    assert await store.list_keys(tenant="acme") == [keys[3], keys[1]]
    assert await store.list_keys(tenant="other") == []


async def test_a_name_that_is_no_text_is_refused(store: Store):
    with pytest.raises(PayloadError):
        await store.put_key(replace(KEY, name="\0"))
    assert await store.list_keys() == []


async def test_runs_are_listed_of_a_tenant(store: Store):
    await serve(store)
    await admit_one(store, owner="key_9")
    ended = await admit_one(store, owner=ACME)
    other = await admit_one(store, owner=owner_of("key_9", "acme2"))
    queued = await admit_one(store, owner=ACME)
    await store.commit("h1", [effects(end=end(ended))])

    assert [run.id for run in await store.list_runs(tenant="acme")] == [queued, ended]
    assert [run.id for run in await store.list_runs(tenant="acme", before=queued)] == [ended]
    assert [run.id for run in await store.list_runs(tenant="acme2")] == [other]
    for status, run_id in ((RunStatus.QUEUED, queued), (RunStatus.SUCCEEDED, ended)):
        assert [r.id for r in await store.list_runs(tenant="acme", status=status)] == [run_id]
    assert len(await store.list_runs()) == 4
    assert await store.list_runs(tenant="nobody") == []


async def test_the_letter_of_a_dead_run_belongs_to_the_owner_of_the_run(store: Store):
    await serve(store)
    dead = await admit_one(store, owner=ACME)
    await store.commit("h1", [effects(end=end(dead, RunStatus.DEAD))])
    event = DeadLetter(
        id="dead_1",
        kind=LetterKind.EVENT,
        reason=LetterReason.NO_SUBSCRIBER,
        target="shop.Typo",
        name="shop.Typo",
        created_at=T0,
    )
    await store.add_dead_letters([StoredLetter(event, "default")])

    (letter,) = await store.list_dead_letters(LetterQuery(tenant="acme"))
    stored = await store.get_dead_letter(letter.id)
    assert stored is not None
    assert (letter.run_id, stored.owner) == (dead, ACME)
    assert await store.list_dead_letters(LetterQuery(tenant="other")) == []
    assert await store.purge_dead_letters(LetterQuery(tenant="other")) == 0
    assert await store.purge_dead_letters(LetterQuery(tenant="acme")) == 1
    assert [left.id for left in await store.list_dead_letters()] == ["dead_1"]


async def test_schedules_are_listed_of_a_tenant(store: Store):
    for name, owner in (("a", ACME), ("b", "key_9"), ("c", ACME)):
        schedule = Schedule(
            id=name,
            status=ScheduleStatus.ACTIVE,
            spec=ScheduleSpec(prompt="Hello", every_s=60),
            next_at=at(60),
            created_at=T0,
            updated_at=T0,
            owner=owner,
            uid=f"sched_{name}",
        )
        assert await store.write_schedule(schedule, revision=None)
        changed = schedule.model_copy(update={"revision": 2})
        assert await store.write_schedule(changed, revision=1)

    assert [s.id for s in await store.list_schedules(tenant="acme")] == ["a", "c"]
    assert [s.id for s in await store.list_schedules(tenant="acme", after="a")] == ["c"]
    assert [s.id for s in await store.list_schedules()] == ["a", "b", "c"]
