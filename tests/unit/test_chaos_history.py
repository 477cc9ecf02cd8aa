"""The checker of histories finds each broken promise, and none in a good history."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos.history import History, Kept, Told, broken_promises

GOOD = Kept("succeeded", [0, 1, 2], ["queued", "started", "succeeded"])


def history(**changes: object) -> History:
    good = History(
        told=[Told("run_1", "key", "queued"), Told("run_1", "key", "succeeded")],
        kept={"run_1": GOOD},
        acknowledged=Counter({"ada": 3}),
        doubtful=Counter({"ada": 1}),
        counters={"ada": 4},
    )
    return replace(good, **changes)


def test_a_good_history_breaks_no_promise() -> None:
    assert broken_promises(history()) == []
    assert broken_promises(History()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"told": [Told("run_1", "k", "queued"), Told("run_2", "k", "queued")]}, "accepted as"),
        ({"told": [Told("run_9", "", "queued")]}, "run_9 was accepted, and is lost"),
        ({"kept": {"run_1": Kept("running", [0], ["queued"])}}, "has not ended"),
        ({"told": [Told("run_1", "", "failed")]}, "kept as succeeded"),
        ({"kept": {"run_1": replace(GOOD, offsets=[0, 2, 3])}}, "gaps or repeats"),
        ({"kept": {"run_1": replace(GOOD, offsets=[0, 1, 1])}}, "gaps or repeats"),
        (
            {"kept": {"run_1": Kept("succeeded", [0, 1], ["failed", "succeeded"])}},
            "its events say",
        ),
        ({"kept": {"run_1": Kept("succeeded", [0, 1], ["queued", "started"])}}, "its events say"),
        (
            {"kept": {"run_1": Kept("succeeded", [0, 1], ["succeeded", "progress"])}},
            "events after its end",
        ),
        ({"wanted": {"run_1": {"text": "hello"}}}, "is succeeded with None, not"),
        ({"counters": {"ada": 2}}, "The counter ada is 2: 3 to 4"),
        ({"counters": {"ada": 5}}, "The counter ada is 5: 3 to 4"),
        ({"counters": {}}, "The counter ada is 0: 3 to 4"),
    ],
)
def test_each_broken_promise_is_told(changes: dict[str, object], said: str) -> None:
    found = broken_promises(history(**changes))
    assert any(said in promise for promise in found), found
