"""Placement: which host leases which slot.

Slots are spread evenly, and move as little as that allows: a moved slot makes its agents start
anew somewhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def plan_slots(
    slots: Sequence[str | None], hosts: Sequence[str], pinned: Mapping[int, str] | None = None
) -> dict[int, str]:
    """Return the slots that must change hands, with their new hosts.

    Args:
        slots: the present host of each slot; None: nobody.
        hosts: the hosts that may lease, in a stable order.
        pinned: hosts that slots were given to by hand; of no effect for hosts that may not lease.

    Returns:
        New host by slot. Afterwards no host has more than one slot more than another, unless that
        many were given to it by hand, and only as many slots have moved as that needs. Empty when
        there are no hosts: leases stay as they are until somebody can take them.
    """
    if not hosts:
        return {}
    held: dict[str, list[int]] = {host: [] for host in hosts}
    by_hand = {slot: host for slot, host in (pinned or {}).items() if host in held}
    orphans: list[int] = []
    for slot, host in enumerate(slots):
        if slot in by_hand:
            continue
        if host in held:
            held[host].append(slot)
        else:
            orphans.append(slot)
    share = _shares(len(slots), held, by_hand)
    for host in hosts:
        orphans.extend(held[host][share[host] :])
        del held[host][share[host] :]
    moves = {slot: host for slot, host in by_hand.items() if slots[slot] != host}
    pending = iter(orphans)
    for host in hosts:
        for _ in range(share[host] - len(held[host])):
            moves[next(pending)] = host
    return moves


def _shares(
    slots: int, held: Mapping[str, Sequence[int]], by_hand: Mapping[int, str]
) -> dict[str, int]:
    """Return how many slots each host shall hold beside those that it was given by hand."""
    given = Counter(by_hand.values())
    hosts, left = set(held), slots
    share: dict[str, int] = {}
    # Who was given more than an even share gets nothing else, and the others share what is left.
    while too_much := [host for host in hosts if given[host] * len(hosts) > left]:
        for host in too_much:
            hosts.discard(host)
            share[host] = 0
        left = slots - sum(given[host] for host in share)
    quota, extra = divmod(left, max(1, len(hosts)))
    # The hosts that hold most keep the larger share, so that fewer slots move.
    by_load = sorted((h for h in held if h in hosts), key=lambda h: -len(held[h]) - given[h])
    for rank, host in enumerate(by_load):
        share[host] = quota + (rank < extra) - given[host]
    return share
