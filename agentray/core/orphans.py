"""Orphans: actors of this cluster that nobody looks after, told from those of somebody else.

An actor's name says which cluster's it is. One that bears another cluster's name, or none, is
somebody else's, and is not even looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

_PREFIX = "agentray-"
_MARK = "@"


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something that is left over.

    Attributes:
        kind: `actor`: of a host that nobody supervises; `row`: of a host in the Store that is
            nobody's; `processes`: of a local cluster whose home is gone.
        name: of the actor, the host's id, or the cluster's mark.
        why: nobody needs it.
    """

    kind: Literal["actor", "row", "processes"]
    name: str
    why: str

    def as_json(self) -> dict[str, str]:
        """Return it as `{kind, name, why}`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KnownHost:
    """A host as the Store knows it."""

    id: str
    actor_name: str
    dead: bool
    reason: str = ""  # why it is dead


def actor_name(host_id: str, cluster: str) -> str:
    """Return the name of a host's actor."""
    return f"{_PREFIX}{host_id}{_MARK}{cluster}"


def orphans(
    actors: Collection[str],
    known: Sequence[KnownHost],
    supervised: Collection[str],
    cluster: str,
) -> list[Orphan]:
    """Return what is left over of hosts.

    Args:
        actors: names of those that live; read before `known`, and each host is known before its
            actor is made.
        known: all hosts of the Store, dead ones too.
        supervised: ids of those that the manager starts, watches or stops.
        cluster: which one this is.
    """
    by_actor: Mapping[str, KnownHost] = {host.actor_name: host for host in known}
    found: list[Orphan] = []
    for name in sorted(actors):
        host = by_actor.get(name)
        if host is None:
            ours = name.startswith(_PREFIX) and name.endswith(f"{_MARK}{cluster}")
            if ours:
                found.append(Orphan("actor", name, "no host in the Store has this actor"))
        elif host.dead and host.id not in supervised:
            found.append(Orphan("actor", name, f"its host is dead: {host.reason or 'no reason'}"))
    found.extend(
        Orphan("row", host.id, "the Store has it as alive, and the manager does not know it")
        for host in known
        if not host.dead and host.id not in supervised
    )
    return found
