"""Blame: which agents may have killed a host, and which of them go into quarantine.

Who was under way is suspected: the agent whose turn had just begun, if code in the process brought
the death about, else all. Suspects are tried alone from then on (one of them at a time on each
host), until they have finished something without killing their host. So the one that does it is
soon the only suspect under way, and guilty: that counts for an hour, whatever it finishes. What
several are suspected of counts against none of them.

A death that anybody could have brought about, such as a SIGKILL, proves nothing: who finishes
something afterwards is cleared of it. Nor is anybody tried alone for the first one: to let all
that was under way wait for each other would make each loss of a host slow for the innocent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from agentray.core.deaths import INNOCENT, OWN_DOING, DeathCause

PERIOD_S = 3600.0
"""A death of which an agent is guilty counts for so long."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is held against an agent.

    Attributes:
        guilty: when hosts died of it, in seconds.
        suspected: hosts that died while it was the only suspect under way, since it last finished
            something.
        alone: it is tried alone.
    """

    guilty: tuple[float, ...] = ()
    suspected: int = 0
    alone: bool = False

    def deaths(self, now: float) -> int:
        """Return how many deaths count against it."""
        return self.suspected + sum(now - then < PERIOD_S for then in self.guilty)


@dataclass(frozen=True, slots=True)
class Scene:
    """What was going on when a host died.

    Attributes:
        cause: of its death.
        now: the agent whose turn had just begun.
        turns: agents that were in the midst of something.
        loops: agents that had loops.
    """

    cause: DeathCause
    now: str | None = None
    turns: Collection[str] = ()
    loops: Collection[str] = ()


def blame(scene: Scene, known: Mapping[str, Suspicion], now: float) -> dict[str, Suspicion]:
    """Return what is held against agents after a death, of those for whom it has changed.

    Args:
        scene: of the death.
        known: what is held against agents so far.
        now: the time of the death, in seconds.
    """
    if scene.cause in INNOCENT:
        return {}
    begun = {scene.now} if scene.now is not None else set[str]()
    own_doing = scene.cause in OWN_DOING
    # Loops never finish anything that would clear them of what others did.
    under_way = {*scene.turns, *begun} or (set(scene.loops) if own_doing else set[str]())
    # Those that were suspected before were tried alone: it was one of them, not the newcomers.
    candidates = {agent for agent in under_way if agent in known} or under_way
    if own_doing and begun <= candidates:
        candidates = begun or candidates
    held = {
        agent: replace(known.get(agent, Suspicion()), alone=own_doing or agent in known)
        for agent in sorted(candidates)
    }
    if len(held) != 1:
        return held
    agent, before = next(iter(held.items()))
    sure = own_doing and (agent in known or len(under_way) == 1)
    return {agent: _guilty(before, now) if sure else _suspected(before)}


def _guilty(before: Suspicion, now: float) -> Suspicion:
    recent = tuple(then for then in before.guilty if now - then < PERIOD_S)
    return replace(before, guilty=(*recent, now))


def _suspected(before: Suspicion) -> Suspicion:
    return replace(before, suspected=before.suspected + 1)


def cleared(before: Suspicion, now: float) -> Suspicion | None:
    """Return what is left against an agent that has finished something; None: nothing."""
    recent = tuple(then for then in before.guilty if now - then < PERIOD_S)
    return replace(before, guilty=recent, suspected=0) if recent else None
