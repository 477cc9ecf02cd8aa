"""Groups of agents: which of them are stopped and started when one has ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is started again with a member that has ended: itself, all, or those that came after it."""

MemberRestart = Literal["permanent", "transient", "temporary"]
"""When a member is started again: however it ended, when it failed, never."""


@dataclass(frozen=True, slots=True)
class Restart:
    """What a group does about the end of a member.

    Attributes:
        stop: members to be stopped, in this order.
        start: members to be started afterwards, in this order.
    """

    stop: tuple[str, ...]
    start: tuple[str, ...]


def counts(restart: MemberRestart, *, failed: bool) -> bool:
    """Whether a member's end is to be mended, and counts against the group's intensity.

    Args:
        restart: the member's policy.
        failed: it failed; else somebody shut it down.
    """
    return restart == "permanent" or (restart == "transient" and failed)


def plan(
    strategy: Strategy, members: Sequence[str], ended: str, gone: Collection[str] = ()
) -> Restart:
    """Return what is done when a member has ended whose end is to be mended.

    Args:
        strategy: of the group.
        members: all of them, in the order in which they start.
        ended: the member.
        gone: members that have ended and are not started again.
    """
    first = members.index(ended)
    match strategy:
        case "one_for_one":
            concerned = [ended]
        case "one_for_all":
            concerned = list(members)
        case "rest_for_one":
            concerned = list(members[first:])
    start = tuple(member for member in concerned if member not in gone)
    return Restart(tuple(member for member in reversed(start) if member != ended), start)
