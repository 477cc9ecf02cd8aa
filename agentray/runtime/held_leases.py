"""The leases of a host: for what it takes messages, and for what it may still write.

A slot that is given up is left in two steps: from then on no message is taken for it, and when its
agents are done nothing is written for it any more. An epoch that was given up never comes back:
whoever leases the slot to this host again does so with a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

Lease = tuple[str, int]
"""Pool and slot."""


class HeldLeases:
    """The leases of one host, with their epochs."""

    def __init__(self) -> None:
        self.held: dict[Lease, int] = {}  # messages are taken for these
        self._ending: dict[Lease, int] = {}  # given up; what is under way may still be written
        self._given_up: dict[Lease, int] = {}  # and not leased anew since

    def __contains__(self, lease: Lease) -> bool:
        return lease in self.held

    def __len__(self) -> int:
        return len(self.held)

    def update(self, epochs: Mapping[Lease, int]) -> set[Lease]:
        """Take what the manager says; return what was held before and is as it was.

        What this host has given up, it has not got back: the manager does not know it yet.
        """
        before = self.held
        self._given_up = _same(self._given_up, epochs)
        self._ending = _same(self._ending, epochs)
        self.held = {
            lease: epoch for lease, epoch in epochs.items() if self._given_up.get(lease) != epoch
        }
        return set(_same(before, self.held))

    def give_up(self, leases: Iterable[Lease]) -> None:
        """Take no more messages; what is under way may be written until `end`."""
        for lease in leases:
            epoch = self.held.pop(lease, None)
            if epoch is not None:
                self._ending[lease] = self._given_up[lease] = epoch

    def end(self, leases: Collection[Lease]) -> None:
        """Write nothing more for what was given up."""
        for lease in leases:
            self._ending.pop(lease, None)

    def fenced(self, lease: Lease, epoch: int) -> bool:
        """Note that the Store refuses an epoch; return whether it was held."""
        if self._ending.get(lease) == epoch:
            del self._ending[lease]
        if self.held.get(lease) != epoch:
            return False
        self._given_up[lease] = self.held.pop(lease)
        return True

    def clear(self) -> None:
        """Hold nothing, and write nothing more."""
        self.give_up(list(self.held))
        self._ending.clear()

    def ending(self, lease: Lease) -> bool:
        """Whether a slot was given up, and what is under way may still be written."""
        return lease in self._ending

    def epoch(self, lease: Lease) -> int | None:
        """Return the epoch with which something may be written; None: nothing may."""
        epoch = self.held.get(lease)
        return self._ending.get(lease) if epoch is None else epoch

    def missed(self) -> list[tuple[str, int, int]]:
        """Return pool, slot and epoch of what the manager believes to be held, and is not."""
        return [
            (*lease, epoch) for lease, epoch in self._given_up.items() if lease not in self._ending
        ]


def _same(one: Mapping[Lease, int], other: Mapping[Lease, int]) -> dict[Lease, int]:
    return {lease: epoch for lease, epoch in one.items() if other.get(lease) == epoch}
