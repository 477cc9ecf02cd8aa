"""What agents say as they go, and what they answer in the end, as one text that only grows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray.compat.openai.streams import Preview
from agentray.protocol.runs import EventKind, RunEvent


def event(kind: str, **data: Any) -> RunEvent:
    return RunEvent(offset=0, kind=kind, time=datetime.now(UTC), data=data)


def text(piece: str) -> RunEvent:
    return event(EventKind.TEXT_DELTA, text=piece)


LOST = event(EventKind.ATTEMPT_LOST, attempt=1)


@pytest.mark.parametrize(
    ("events", "result", "said"),
    [
        ([], "all", "all"),
        ([text("al"), text("l")], "all", "all"),
        ([text("al")], "all", "all"),
        ([text("al"), LOST, text("a"), text("ll")], "all", "all"),
        ([text("al"), LOST, text("all")], "all", "all"),
        ([text("al"), LOST, LOST, text("a"), LOST, text("all")], "all", "all"),
        ([LOST, text("all")], "all", "all"),
        ([text("other")], "all", "other\n\nall"),
        ([text("ab"), LOST, text("a"), text("c")], "ac", "ab\n\nac"),
        ([text("all\n")], "all", "all\n"),
        ([text("all")], "", "all"),
        ([event(EventKind.PROGRESS, message="half"), text("")], "all", "all"),
    ],
)
def test_what_was_said_is_not_said_again(events: list[RunEvent], result: str, said: str):
    preview = Preview()
    pieces = [preview.hear(each) for each in events]
    assert "".join(pieces) + preview.rest(result) == said


@given(st.text(min_size=1), st.lists(st.integers(0, 20)), st.data())
def test_any_cut_of_the_same_text_in_any_attempts_is_that_text(
    whole: str, attempts: list[int], data: st.DataObject
):
    preview, said = Preview(), ""
    for length in [*attempts, len(whole)]:
        left = whole[:length]
        while left:
            piece = left[: data.draw(st.integers(1, len(left)))]
            left = left[len(piece) :]
            said += preview.hear(text(piece))
        said += preview.hear(LOST)
    assert said + preview.rest(whole) == whole
