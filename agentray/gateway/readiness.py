"""What a gateway waits for before it takes prompts."""

from __future__ import annotations

from agentray.protocol.snapshot import Snapshot


def missing(snapshot: Snapshot) -> list[str]:
    """Return what is missing, in words; an empty list: prompts can be served.

    A pool that the cluster has no room for may stay pending for days. Its own agents answer nobody
    until then, and say why; those of the other pools are not kept from their work by it.

    Args:
        snapshot: the state of the cluster as the gateway knows it.
    """
    if not snapshot.types:
        return ["no app is deployed"]
    used = {v.pool for v in snapshot.types.values() if not (v.stopped or v.isolated)}
    pools = [pool for pool in snapshot.pools.values() if pool.name in used]
    pending = [pool for pool in pools if pool.pending]
    if pending and len(pending) == len(pools):
        return [f"the pool {pool.name!r} is pending: {pool.pending}" for pool in pending]
    return [
        f"slots of the pool {pool.name!r} without a host"
        for pool in pools
        if None in pool.slots and not pool.pending
    ]
