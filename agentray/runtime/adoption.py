"""Adoption: what a manager that comes back makes of a host that was started before it."""

from __future__ import annotations

import logging

from agentray.runtime.catalog import Catalog
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.placements import Placements
from agentray.runtime.ports import HostGone, HostUnreachable
from agentray.runtime.seats import pool_of
from agentray.store.base import HostRow

logger = logging.getLogger(__name__)

OUTDATED = -1
"""A generation that no pool has: such a host is replaced, as one whose code has changed."""


async def generation_of(
    keeper: HostKeeper, row: HostRow, placements: Placements, catalog: Catalog
) -> int:
    """Return the generation of an adopted host; code that it lacks is loaded.

    The manager may have died in the midst of a deployment, or of a change of the pool.
    """
    pool = placements.pools.get(pool_of(row.pool))
    if pool is None:
        return 0
    if row.made_for and row.made_for != pool.spec.host_digest:
        return _outdated(row, "its pool demands something else now")
    there, wanted = keeper.info.get("code", {}), catalog.digests(row.pool)
    changed = [app for app, digest in wanted.items() if there.get(app, digest) != digest]
    if changed:
        return _outdated(row, f"it has other code of {', '.join(changed)}")
    missing = {app: code for app, code in catalog.code(row.pool).items() if app not in there}
    if missing:
        try:
            await keeper.load(missing)
        except (HostGone, HostUnreachable) as error:  # its probes tell what becomes of it
            logger.warning("load: %s", error, extra={"action": "load_failed", "host": row.id})
    return pool.generation


def _outdated(row: HostRow, why: str) -> int:
    logger.info(
        "adopted host is replaced: %s", why, extra={"action": "host_outdated", "host": row.id}
    )
    return OUTDATED
