"""Leadership: which of several managers works.

One row in the Store says who leads, since which epoch, and until when. It is read, decided about
here, and written only if nobody else has written meanwhile. Times are seconds by the Store's clock,
the one clock that all candidates share.

Whoever takes the lead raises the epoch. What the manager before it still writes names an older one
and is refused in its own transaction, so it does not matter how late that one finds out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

LEASE_S = 10.0
"""How long a lead that is not renewed is respected by others than the same actor, restarted."""

RENEW_S = 2.0
"""How often the working manager renews it."""

RESTART_S = 30.0
"""How long a manager that was deposed may take to come back before it is deposed again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A manager that wants to work.

    Attributes:
        place: what it has in common with the one that Ray restarts in its stead, and with nobody
            else: of these Ray runs one only.
        about: what people call it.
    """

    place: str
    about: str


@dataclass(frozen=True, slots=True)
class Lead:
    """Who leads.

    Attributes:
        epoch: rises with every change of who leads.
        place: of the leading manager; see `Candidate`.
        about: what people call it.
        renewals: how often it has renewed the lead.
        expires_at: from then on another one may take it.
        cluster: names the cluster that this Store belongs to, for ever.
    """

    epoch: int
    place: str
    about: str
    renewals: int
    expires_at: float
    cluster: str


class Standing(StrEnum):
    """What is there of the manager that a lead names."""

    ITSELF = "itself"  # its actor, at work or not; or nobody can tell
    ANOTHER = "another"  # one that will take the lead
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Take:
    """The candidate leads, once this is written in place of what was found."""

    lead: Lead


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody can say yet whether the one that leads is alive: look again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Yield:
    """Another one works."""

    to: Lead


def claim(
    candidate: Candidate, found: Lead | None, seen: Lead | None, now: float, cluster: str
) -> Take | Wait | Yield:
    """Decide what a candidate does.

    Args:
        candidate: it.
        found: the row as it is; None: nobody has ever led.
        seen: as the candidate found it at its first look; None: this is the first.
        now: the Store's time.
        cluster: a new name, for a Store that has none.
    """
    if found is None:
        return Take(Lead(1, candidate.place, candidate.about, 0, now + LEASE_S, cluster))
    if found.place == candidate.place or found.expires_at <= now:
        taken = replace(found, epoch=found.epoch + 1, renewals=0, expires_at=now + LEASE_S)
        return Take(replace(taken, place=candidate.place, about=candidate.about))
    if seen is not None and (seen.epoch, seen.renewals) != (found.epoch, found.renewals):
        return Yield(found)
    return Wait(min(found.expires_at - now, RENEW_S / 2))


def renew(mine: Lead, found: Lead | None, now: float) -> Take | Yield | None:
    """Decide what the leading manager does when its lead is to be renewed.

    A lead that has run out and that nobody has taken is still its own.

    Returns:
        None: the row is gone, and with it the whole cluster's memory.
    """
    if found is None:
        return None
    if found.epoch != mine.epoch:
        return Yield(found)
    return Take(replace(found, renewals=found.renewals + 1, expires_at=now + LEASE_S))


def given_up(mine: Lead, now: float) -> Lead:
    """Return what a manager writes that stops: the next one need not wait."""
    return replace(mine, place="", renewals=mine.renewals + 1, expires_at=now)


def depose(found: Lead | None, seen: Lead | None, now: float) -> Lead | None:
    """Decide whether a manager is to be ended and started again since it does not work.

    It has not renewed its lead in time, and neither between two looks: at the first one the Store
    may just have come back. Of those who look one writes the answer and ends it. From then on the
    manager, should it wake up, is refused; the one that Ray starts in its place leads at once.

    Args:
        found: the row as it is.
        seen: as it was at the look before, some `RENEW_S` ago; None: there was none.
        now: the Store's time.

    Returns:
        What to write first; None: it works, was stopped, or nobody can say yet.
    """
    if found is None or not found.place or found != seen or found.expires_at > now:
        return None
    return replace(found, epoch=found.epoch + 1, renewals=0, expires_at=now + RESTART_S)
