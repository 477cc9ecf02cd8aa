"""What was seen while things were killed, and whether it is what is promised. Pure.

A history has what clients were told (acceptances, answers, acknowledged effects) and what the Store
has at the end. The checker returns each broken promise in one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TERMINAL = frozenset({"succeeded", "failed", "dead", "cancelled", "timed_out", "budget_exceeded"})


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of a run, at some moment.

    Attributes:
        run: its id.
        key: idempotency key, with which it was asked for; "": none.
        status: it had then.
    """

    run: str
    key: str
    status: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A run as the Store has it at the end.

    Attributes:
        status: of it.
        offsets: of its events, in the order in which they are read.
        kinds: of these events.
        result: as JSON values.
        error: in words.
    """

    status: str
    offsets: Sequence[int]
    kinds: Sequence[str]
    result: Any = None
    error: str = ""


@dataclass(slots=True)
class History:
    """All that was seen.

    Attributes:
        told: to clients, in order.
        kept: runs by id.
        acknowledged: effects on each counter that were acknowledged.
        doubtful: effects on each counter of which nobody knows: their callers got an error.
        counters: as they are at the end.
        wanted: results of runs that nothing may keep from succeeding.
    """

    told: list[Told] = field(default_factory=list[Told])
    kept: Mapping[str, Kept] = field(default_factory=dict[str, Kept])
    acknowledged: Counter[str] = field(default_factory=Counter[str])
    doubtful: Counter[str] = field(default_factory=Counter[str])
    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    wanted: dict[str, Any] = field(default_factory=dict[str, Any])


def broken_promises(history: History) -> list[str]:
    """Return what is not as promised, each in one sentence; [] when all is."""
    return [
        *_accepted_once(history),
        *_ended_once(history),
        *_results(history),
        *_stories(history),
        *_effects(history),
    ]


def _accepted_once(history: History) -> list[str]:
    runs: dict[str, set[str]] = {}
    for told in history.told:
        if told.key:
            runs.setdefault(told.key, set()).add(told.run)
    return [f"The key {k} was accepted as {sorted(v)}." for k, v in runs.items() if len(v) > 1]


def _ended_once(history: History) -> list[str]:
    found: list[str] = []
    for run in dict.fromkeys(told.run for told in history.told):
        kept = history.kept.get(run)
        if kept is None:
            found.append(f"The run {run} was accepted, and is lost.")
            continue
        if kept.status not in TERMINAL:
            found.append(f"The run {run} has not ended: it is {kept.status}.")
        ends = {t.status for t in history.told if t.run == run and t.status in TERMINAL}
        if ends - {kept.status}:
            found.append(f"The run {run} was told as {sorted(ends)} and is kept as {kept.status}.")
    return found


def _results(history: History) -> list[str]:
    found: list[str] = []
    for run, wanted in history.wanted.items():
        kept = history.kept.get(run)
        if kept is None or kept.status not in TERMINAL:
            continue  # that is told already
        if (kept.status, kept.result) != ("succeeded", wanted):
            got = kept.error or kept.result
            found.append(f"The run {run} is {kept.status} with {got}, not {wanted}.")
    return found


def _stories(history: History) -> list[str]:
    found: list[str] = []
    for run, kept in history.kept.items():
        if list(kept.offsets) != list(range(len(kept.offsets))):
            found.append(f"The events of {run} have gaps or repeats: {list(kept.offsets)}.")
        ends = [kind for kind in kept.kinds if kind in TERMINAL]
        if kept.status in TERMINAL and ends != [kept.status]:
            found.append(f"The run {run} is {kept.status}, and its events say {ends}.")
        if ends and kept.kinds[-1] not in TERMINAL:
            found.append(f"The run {run} has events after its end: {kept.kinds[-1]}.")
    return found


def _effects(history: History) -> list[str]:
    found: list[str] = []
    for name in sorted({*history.acknowledged, *history.doubtful, *history.counters}):
        least = history.acknowledged[name]
        most = least + history.doubtful[name]
        there = history.counters.get(name, 0)
        if not least <= there <= most:
            found.append(f"The counter {name} is {there}: {least} to {most} were acknowledged.")
    return found
