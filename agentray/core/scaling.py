"""Scaling: how many hosts a pool with a least and a most number of them shall have.

It grows when its hosts have had too much to do for a moment, and shrinks when fewer of them would
have sufficed for a good while, with room to spare. Between the two lies a band in which nothing
changes: a load that stays as it is never makes a pool go up and down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

GROW_AFTER_S = 2.0
"""How long the load must be too high: a burst that is over sooner starts no process."""

SHRINK_AFTER_S = 60.0
"""How long the load must have been low: a host costs a second to start again, and its agents' way
back into memory."""

ROOMY = 0.7
"""A pool shrinks only when the load would fill at most this part of the hosts that remain."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pool may be.

    Attributes:
        least: hosts.
        most: hosts.
        load_per_host: messages under way that one host is for.
    """

    least: int
    most: int
    load_per_host: float


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a pool shall be, and what speaks for a change.

    Attributes:
        wanted: hosts.
        over_since: since when more were needed without a pause; None: they are not.
        needed: the least that was needed meanwhile.
        under_since: since when fewer would have done without a pause; None: they would not.
        enough: the most that was needed meanwhile.
    """

    wanted: int
    over_since: float | None = None
    needed: int = 0
    under_since: float | None = None
    enough: int = 0


def next_scale(scale: Scale, limits: Limits, load: float, now: float) -> Scale:
    """Return the scale after an observation.

    Args:
        scale: after the last one.
        limits: of the pool; they may have changed since.
        load: messages under way and waiting at all hosts of the pool together.
        now: in seconds of a clock that does not go back.
    """
    within = min(max(scale.wanted, limits.least), limits.most)
    if within != scale.wanted:
        scale = Scale(within)
    needed = min(math.ceil(load / limits.load_per_host), limits.most)
    if needed > scale.wanted:
        return _grown(scale, needed, now)
    enough = max(math.ceil(load / (limits.load_per_host * ROOMY)), limits.least)
    if enough < scale.wanted:
        return _shrunk(scale, enough, now)
    return Scale(scale.wanted)


def _grown(scale: Scale, needed: int, now: float) -> Scale:
    since = scale.over_since
    if since is None:
        return Scale(scale.wanted, over_since=now, needed=needed)
    needed = min(scale.needed, needed)
    return replace(scale, needed=needed) if now - since < GROW_AFTER_S else Scale(needed)


def _shrunk(scale: Scale, enough: int, now: float) -> Scale:
    since = scale.under_since
    if since is None:
        return Scale(scale.wanted, under_since=now, enough=enough)
    enough = max(scale.enough, enough)
    return replace(scale, enough=enough) if now - since < SHRINK_AFTER_S else Scale(enough)
