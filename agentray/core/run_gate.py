"""The gate of a host: so many runs at once, and the others in the order in which they came."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")


class RunGate(Generic[K, W]):
    """Which runs are let in, and which wait."""

    __slots__ = ("_closed", "_inside", "_limit", "_waiting")

    def __init__(self, limit: int | None) -> None:
        """Make a gate.

        Args:
            limit: most runs inside at once; None: any number.
        """
        self._limit = limit
        self._inside: set[K] = set()
        self._waiting: dict[K, W] = {}  # in order
        self._closed = False

    def enter(self, run: K, work: W) -> bool:
        """Ask for a run to be let in; False: it waits until `leave` returns its work."""
        if self._limit is None or len(self._inside) < self._limit:
            self._inside.add(run)
            return True
        self._waiting[run] = work
        return False

    def leave(self, run: K) -> W | None:
        """Let a run go, from inside or from those that wait; one that is neither is no harm.

        Returns:
            The work of the run that is let in instead; None: none is.
        """
        self._waiting.pop(run, None)
        if run not in self._inside:
            return None
        self._inside.remove(run)
        if self._closed or not self._waiting:
            return None
        following = next(iter(self._waiting))
        self._inside.add(following)
        return self._waiting.pop(following)

    def waits(self, run: K) -> bool:
        """Whether a run waits to be let in."""
        return run in self._waiting

    def close(self) -> None:
        """Let nobody in any more who waits."""
        self._closed = True

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)
