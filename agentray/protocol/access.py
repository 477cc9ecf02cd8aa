"""Access levels: what the tools of an agent may touch while it works on a run."""

from __future__ import annotations

from enum import StrEnum


class AccessLevel(StrEnum):
    """What tools may touch; each level includes those above it."""

    PUBLIC = "public"  # what everybody may see
    READ = "read"  # private data, without changing it
    WRITE = "write"  # private data, also changing it


_RANK = {level: rank for rank, level in enumerate(AccessLevel)}


def allows(given: str | None, needed: str | None) -> bool:
    """Whether something may run that needs a level.

    Args:
        given: the level of the run; None: nothing is restricted.
        needed: the level that it declares; None: it needs none.
    """
    if given is None or needed is None:
        return True
    return _RANK[AccessLevel(needed)] <= _RANK[AccessLevel(given)]
