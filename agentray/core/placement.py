"""Placement: which host leases which slot.

Slots are spread evenly, and move as little as that allows: a moved slot makes its agents start
anew somewhere else.
"""

from __future__ import annotations

from collections.abc import Sequence


def plan_slots(slots: Sequence[str | None], hosts: Sequence[str]) -> dict[int, str]:
    """Return the slots that must change hands, with their new hosts.

    Args:
        slots: the present host of each slot; None: nobody.
        hosts: the hosts that may lease, in a stable order.

    Returns:
        New host by slot. Afterwards no host has more than one slot more than another, and only as
        many slots have moved as that needs. Empty when there are no hosts: leases stay as they
        are until somebody can take them.
    """
    if not hosts:
        return {}
    held: dict[str, list[int]] = {host: [] for host in hosts}
    orphans: list[int] = []
    for slot, host in enumerate(slots):
        if host in held:
            held[host].append(slot)
        else:
            orphans.append(slot)
    quota, extra = divmod(len(slots), len(hosts))
    # The hosts that hold most keep the larger share, so that fewer slots move.
    by_load = sorted(hosts, key=lambda host: -len(held[host]))
    share = {host: quota + (rank < extra) for rank, host in enumerate(by_load)}
    for host in hosts:
        orphans.extend(held[host][share[host] :])
        del held[host][share[host] :]
    moves: dict[int, str] = {}
    pending = iter(orphans)
    for host in hosts:
        for _ in range(share[host] - len(held[host])):
            moves[next(pending)] = host
    return moves
