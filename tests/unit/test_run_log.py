"""The events of a run under way: shown at once, kept a moment later, in the same order and once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import EventKind, RunEvent
from agentray.runtime.run_log import MAX_TEXT, RunLog

NOW = datetime(2026, 1, 15, tzinfo=UTC)


def texts(events: list[RunEvent] | None) -> list[str]:
    assert events is not None
    return [event.data["text"] for event in events]


async def test_what_is_said_before_anybody_looks_is_one_event():
    log = RunLog(0, durable=True)
    for word in ("to ", "be ", "or"):
        log.add_text("poet/a", word)
    log.add_text("poet/b", "not")
    shown = log.shown(-1, 10, live=True)
    assert texts(shown) == ["to be or", "not"]
    assert [(e.offset, e.attempt) for e in shown or ()] == [(0, 1), (1, 1)], "not kept yet"
    log.add_text("poet/b", " to be")
    assert texts(log.shown(1, 10, live=True)) == [" to be"], "what was seen grows no more"
    log.add_text("poet/b", "x" * MAX_TEXT)
    assert [len(text) for text in texts(log.take())] == [8, 3, 6, MAX_TEXT]


async def test_ends_are_shown_when_they_are_kept():
    log = RunLog(0, durable=True)
    log.add("started", {"attempt": 1})
    log.add("succeeded", {}, final=True)
    assert [e.kind for e in log.shown(-1, 10, live=True) or ()] == ["started"]
    assert log.shown(-1, 10, live=False) == [], "nothing is kept"
    taken = log.take()
    log.written(len(taken))
    for live in (True, False):
        shown = log.shown(-1, 10, live=live)
        assert shown == taken
        assert [e.attempt for e in shown or ()] == [None, None]


async def test_what_follows_the_beginning_at_once_is_shown_with_it():
    log = RunLog(0, durable=True)
    log.add("queued", {})
    log.add("started", {"attempt": 1})
    waiting = asyncio.create_task(log.after(-1, 60.0, live=True))
    await asyncio.sleep(0)
    log.add_text("poet/a", "to be")
    await waiting
    shown = log.shown(-1, 10, live=True)
    assert [event.kind for event in shown or ()] == ["queued", "started", "text_delta"]
    log.add("started", {"attempt": 1})
    await log.after(2, 60.0, live=True)
    assert [event.kind for event in log.shown(2, 10, live=True) or ()] == ["started"]


async def test_who_keeps_up_never_has_to_read_the_store_and_memory_is_bounded():
    log = RunLog(0, durable=True)
    seen = -1
    for number in range(1000):
        log.add("progress", {"n": number})
        shown = log.shown(seen, 10, live=True)
        assert shown is not None
        assert [e.data["n"] for e in shown] == [number]
        seen = shown[-1].offset
        log.written(len(log.take()))
    assert log.shown(0, 10, live=True) is None, "the Store has the old ones"
    assert len(log.kept()) < 100


async def test_after_what_was_said_more_is_gathered_unless_the_run_ends():
    log = RunLog(0, durable=True)
    log.add_text("poet/a", "to ")
    await log.after(-1, 5.0, live=True)
    assert texts(log.shown(-1, 10, live=True)) == ["to "]
    waiting = asyncio.create_task(log.after(0, 60.0, live=True))
    for word in ("be ", "or ", "not"):
        await asyncio.sleep(0)
        log.add_text("poet/a", word)
    await waiting
    assert texts(log.shown(0, 10, live=True)) == ["be or not"]
    waiting = asyncio.create_task(log.after(1, 60.0, live=True))
    log.end()
    await waiting


@given(st.lists(st.sampled_from(("say", "tell", "take", "keep", "look")), max_size=60))
def test_whoever_looks_whenever_sees_every_event_once_in_order(story: list[str]):
    async def play() -> None:
        log = RunLog(3, durable=True)
        seen: list[RunEvent] = []
        kept: list[RunEvent] = []
        cursor = Cursor(2)
        on_their_way: list[RunEvent] = []

        def look() -> None:
            nonlocal cursor
            for event in log.shown(cursor.offset, 1000, live=True) or ():
                assert cursor.precedes(event)
                cursor = Cursor.at(event)
                seen.append(event)

        for number, step in enumerate([*story, "take", "keep", "look"]):
            match step:
                case "say":
                    log.add_text("poet/a", f"{number} ")
                case "tell":
                    log.add("progress", {"n": number})
                case "take":
                    on_their_way += log.take()
                case "keep":
                    kept += on_their_way
                    log.written(len(on_their_way))
                    on_their_way.clear()
                case _:
                    look()
        shown = [event.model_copy(update={"attempt": None}) for event in seen]
        assert shown == kept
        assert [event.offset for event in kept] == list(range(3, 3 + len(kept)))

    asyncio.run(play())


def event(offset: int, kind: str, **data: object) -> RunEvent:
    return RunEvent(offset=offset, kind=kind, time=NOW, data=dict(data))


class TestCursor:
    def test_its_text(self):
        for cursor in (Cursor(0), Cursor(17), Cursor(7, 2)):
            assert Cursor.parse(str(cursor)) == cursor
        for text in ("", "-1", "x", "1.", ".1", "1.x", "1.2.3", " 1", "1\n", "٣", "9" * 19):
            assert Cursor.parse(text) is None, text

    def test_it_goes_back_to_what_has_taken_the_place_of_what_was_seen(self):
        kept = [event(n, "progress") for n in range(3)]
        lost = [*kept, event(3, "attempt_lost", attempt=1), event(4, "started", attempt=2)]
        assert Cursor(5, 1).going_back(lost) == Cursor(2)
        assert Cursor(5).going_back(lost) is None, "what was kept stays"
        assert Cursor(5, 2).going_back(lost) is None, "it belongs to the next attempt"
        assert Cursor(2, 1).going_back(lost) is None, "it was kept before its attempt was lost"
        assert Cursor(5, 1).going_back([*kept, event(3, "cancelled")]) == Cursor(2)
        assert Cursor(5, 1).going_back(kept) is None, "they may still be on their way"


def test_a_log_says_whether_nothing_is_to_be_written_but_a_beginning() -> None:
    log = RunLog(0, durable=True)
    assert not log.only_begun
    log.add(EventKind.STARTED, {})
    assert log.only_begun
    log.add_text("ada", "It")
    assert not log.only_begun
    log.take()
    assert not log.only_begun
    quiet = RunLog(0, durable=True)
    quiet.add(EventKind.STARTED, {})
    quiet.written(len(quiet.take()))
    assert not quiet.only_begun
