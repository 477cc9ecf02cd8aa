"""Agent types whose pool has changed with their code: their agents end what they do, and move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentray.ids import SLOTS
from agentray.runtime.catalog import Catalog
from agentray.runtime.placements import Placements, until_stored
from agentray.runtime.redrive import Redriver


async def resettle(
    app: str,
    catalog: Catalog,
    placements: Placements,
    redriver: Redriver,
    reconciling: asyncio.Lock,
) -> Callable[[], None]:
    """Let the agents of an app leave the pools that its newest code does not name for them.

    Their pools are drained and leased anew, so that no host there writes for them any more; other
    agents of these pools wait meanwhile.

    Returns:
        What is to be called as soon as everybody has been told where they live now.
    """
    types, left = catalog.leaving(app)
    if not types:
        catalog.moved(app)
        return lambda: None
    seats = {seat for agent, seat in placements.seats.by_agent().items() if agent.type in types}
    places = [place for place in (*left, *seats) if place in placements.pools]
    try:
        for place in places:
            await placements.drain(place)
        async with reconciling:
            slots = {place: range(SLOTS) for place in places if place in placements.pools}
            await until_stored(lambda: placements.renew(slots))
            catalog.moved(app)
            for seat in seats:
                placements.seats.free(seat)
            placements.sync()
    finally:
        for place in places:
            placements.drained(place)

    def told() -> None:
        for place in places:
            redriver.slots_moved(place, range(SLOTS))

    return told
