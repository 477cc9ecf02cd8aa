"""What happens to a cluster, and when: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

CLUSTER: Mapping[str, int] = {
    "kill a host": 5,
    "stop a host": 4,
    "kill all hosts": 1,
    "kill the manager": 3,
    "kill the gateway": 2,
    "kill the database": 2,
}
"""How often each thing happens to a real cluster, beside the others."""

LOCAL: Mapping[str, int] = {
    "kill a host": 5,
    "cut a host off": 4,
    "kill all hosts": 1,
    "kill the manager": 3,
    "take the database away": 2,
}
"""The same in one process."""

_PAUSES_S = (0.2, 1.0, 2.5, 4.0, 7.0)
_LENGTHS_S = (0.5, 3.0, 8.0, 20.0)


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing that happens.

    Attributes:
        at_s: seconds from the beginning.
        what: happens.
        victim: which of those that there are then, modulo their number.
        for_s: how long it lasts, if it is something that lasts.
    """

    at_s: float
    what: str
    victim: int
    for_s: float


def plan(seed: int, seconds: float, kinds: Mapping[str, int]) -> list[Blow]:
    """Return what happens within some seconds, in order.

    Each kind comes once before the rest is left to chance, as far as the time suffices.
    """
    dice = random.Random(seed)
    first = list(kinds)
    dice.shuffle(first)
    blows: list[Blow] = []
    at_s = dice.uniform(0.5, 1.5)
    while at_s < seconds:
        what = first.pop() if first else dice.choices(list(kinds), list(kinds.values()))[0]
        for_s = dice.choice(_LENGTHS_S) * dice.uniform(0.8, 1.2)
        blows.append(Blow(at_s, what, dice.randrange(1000), min(for_s, seconds / 3)))
        at_s += dice.choice(_PAUSES_S) * dice.uniform(0.8, 1.2)
    return blows
