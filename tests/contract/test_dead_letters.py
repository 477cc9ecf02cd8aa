"""Dead letters: kept, looked through, tried once more at most once at a time, forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentray.errors import PayloadError
from agentray.protocol.letters import DeadLetter, LetterKind, LetterQuery, LetterReason
from agentray.protocol.runs import RunError, RunStatus
from agentray.store.base import EndedRun, Store
from agentray.store.letters import StoredLetter, letter_id_of_run
from tests.contract.samples import ADA, T0, at, effects, end, new_run, serve

DIED = RunError(type="HostDied", message="Given up.")


def letter(number: int, content: bytes = b"", **fields: Any) -> StoredLetter:
    """A dead letter; later ones have greater ids."""
    about: dict[str, Any] = {
        "kind": LetterKind.EVENT,
        "reason": LetterReason.NO_SUBSCRIBER,
        "target": "shop.Ordered",
        "name": "shop.Ordered",
        "payload": {"event_type": "shop.Ordered", "n": "\0"},
        "sender": "shop/1",
        "correlation_id": "cor",
        "created_at": at(number),
    }
    return StoredLetter(
        DeadLetter(id=f"dead_{number:04}", **{**about, **fields}), "default", content
    )


def told(number: int, agent: str = "greeter/ada", **fields: Any) -> StoredLetter:
    """A dead letter of what was told."""
    about: dict[str, Any] = {
        "kind": LetterKind.MESSAGE,
        "reason": LetterReason.HANDLER_FAILED,
        "target": agent,
        "name": "greet",
        "payload": {},
        "error": RunError(type="ValueError", message="no", agent=agent),
    }
    return letter(number, b"\x80pickled", **{**about, **fields})


async def ids(store: Store, **query: Any) -> list[str]:
    return [found.id for found in await store.list_dead_letters(LetterQuery(**query))]


async def test_letters_are_kept_once_and_listed_newest_first(store: Store):
    first, second, third = letter(1), told(2), letter(3)
    await store.add_dead_letters([first, second])
    await store.add_dead_letters([third, first])

    assert await store.list_dead_letters() == [third.letter, second.letter, first.letter]
    assert await store.list_dead_letters(limit=2) == [third.letter, second.letter]
    assert await store.list_dead_letters(before=second.letter.id) == [first.letter]
    assert await store.get_dead_letter("dead_0002") == second
    assert await store.get_dead_letter("dead_9999") is None


async def test_letters_are_looked_for_by_what_they_are(store: Store):
    await store.add_dead_letters(
        [letter(1), told(2), told(3, "greeter/bob"), told(4, "greeterx/ada")]
    )
    assert await ids(store, kind=LetterKind.EVENT) == ["dead_0001"]
    assert await ids(store, reason=LetterReason.HANDLER_FAILED, agent="greeter") == [
        "dead_0003",
        "dead_0002",
    ]
    assert await ids(store, agent="greeter/ada") == ["dead_0002"]
    assert await ids(store, agent="shop.Ordered") == ["dead_0001"]
    assert await ids(store, until=at(2)) == ["dead_0001"]
    assert await ids(store, ids=["dead_0003", "dead_0001"]) == ["dead_0003", "dead_0001"]


async def test_a_letter_that_cannot_be_stored_keeps_none(store: Store):
    good = letter(1)
    bad: dict[str, Any]
    for bad in (
        {"target": "\0"},
        {"name": "\ud800"},
        {"payload": {"x": float("inf")}},
        {"sender": "a/\0"},
        {"correlation_id": "\0"},
    ):
        with pytest.raises(PayloadError):
            await store.add_dead_letters([good, letter(2, **bad)])
    assert await store.list_dead_letters() == []


async def test_of_many_that_try_a_letter_at_once_one_has_its_run_admitted(store: Store):
    await store.add_dead_letters([letter(1)])
    runs = [new_run() for _ in range(10)]
    winners = await asyncio.gather(
        *(store.retry_dead_letter("dead_0001", run, None) for run in runs)
    )
    (winner,) = set(winners)
    kept = {run.id for run in runs if await store.get_run(run.id) is not None}
    assert kept == {winner}
    (found,) = await store.list_dead_letters()
    assert found.retried_as == winner
    assert await ids(store, retried=False) == []
    assert await ids(store, retried=True) == ["dead_0001"]


async def test_a_letter_may_be_tried_again_by_who_knows_how_it_was_tried_before(store: Store):
    await store.add_dead_letters([letter(1)])
    first, second, third = new_run(), new_run(), new_run()
    assert await store.retry_dead_letter("dead_0001", first, None) == first.id
    # An answer that was lost: the same once more.
    assert await store.retry_dead_letter("dead_0001", first, None) == first.id
    assert await store.retry_dead_letter("dead_0001", second, first.id) == second.id
    assert await store.retry_dead_letter("dead_0001", third, first.id) == second.id
    assert await store.get_run(third.id) is None
    assert await store.retry_dead_letter("dead_9999", third, None) is None
    assert await store.get_run(third.id) is None


async def test_letters_are_purged_by_what_they_are(store: Store):
    await store.add_dead_letters([letter(1), told(2), letter(3), told(4)])
    assert await store.purge_dead_letters(LetterQuery(kind=LetterKind.EVENT), limit=1) == 1
    assert await ids(store) == ["dead_0004", "dead_0003", "dead_0002"]
    assert await store.purge_dead_letters(LetterQuery(ids=["dead_0002", "dead_0009"])) == 1
    assert await store.purge_dead_letters(LetterQuery(until=at(4))) == 1
    assert await ids(store) == ["dead_0004"]
    assert await store.purge_dead_letters(LetterQuery()) == 1
    assert await store.purge_dead_letters(LetterQuery()) == 0


async def test_the_oldest_make_room(store: Store):
    await store.add_dead_letters([letter(n) for n in range(10)])
    assert await store.prune_dead_letters(keep=4, limit=5) == 5
    assert await store.prune_dead_letters(keep=4, limit=5) == 1
    assert await store.prune_dead_letters(keep=4, limit=5) == 0
    assert await ids(store) == ["dead_0009", "dead_0008", "dead_0007", "dead_0006"]
    assert await store.prune_dead_letters(keep=0, limit=5) == 4


async def test_a_run_that_dies_leaves_a_letter_in_the_same_transaction(store: Store):
    await serve(store)
    prompt, event, fine = (
        new_run(),
        new_run(input={"event": {"event_type": "shop.Ordered"}}),
        new_run(),
    )
    await store.admit([prompt, event, fine])
    await store.retry_run(prompt.id)
    dead: dict[str, Any] = {
        "status": RunStatus.DEAD,
        "result": None,
        "error": DIED,
        "errors": (DIED, DIED),
    }
    await store.commit(
        "h1",
        [
            effects(end=end(prompt.id, **dead)),
            effects(end=replace(end(event.id, **dead), finished_at=at(3))),
            effects(end=end(fine.id)),
        ],
    )
    of_event, of_prompt = await store.list_dead_letters()
    assert of_prompt == DeadLetter(
        id=letter_id_of_run(prompt.id, at(2)),
        kind=LetterKind.RUN,
        reason=LetterReason.RUN_DEAD,
        target=str(ADA),
        name="agentray.events.Prompt",
        correlation_id="cor_1",
        run_id=prompt.id,
        attempts=2,
        error=DIED,
        created_at=at(2),
    )
    assert (of_event.run_id, of_event.name) == (event.id, "shop.Ordered")

    # An end that is committed twice buries it once, also when the letter was purged meanwhile.
    await store.purge_dead_letters(LetterQuery())
    await store.commit("h1", [effects(end=end(prompt.id, **dead))])
    assert await store.list_dead_letters() == []


async def test_a_run_may_die_whatever_text_its_input_has(store: Store):
    await serve(store)
    await store.admit([run := new_run(input={"event": {"event_type": "shop.Ordered", "x": "\0"}})])
    dead = end(run.id, status=RunStatus.DEAD, result=None, error=DIED, errors=(DIED,))
    await store.commit("h1", [effects(end=dead)])
    (found,) = await store.list_dead_letters()
    assert found.run_id == run.id


async def test_a_run_that_is_kept_at_its_end_and_is_dead_leaves_one_too(store: Store):
    new = new_run()
    dead = end(new.id, status=RunStatus.DEAD, result=None, error=DIED, errors=(DIED,))
    await store.keep_ended([EndedRun(new, dead)])
    await store.keep_ended([EndedRun(new, replace(dead, finished_at=at(9)))])
    (found,) = await store.list_dead_letters()
    assert (found.run_id, found.created_at, found.created_at > T0) == (new.id, at(2), True)
