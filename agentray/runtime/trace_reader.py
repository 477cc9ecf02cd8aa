"""Reading traces, which are written right behind the ends of their runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from agentray.core.lifecycle import TERMINAL
from agentray.errors import UnknownRun
from agentray.protocol.traces import RunTrace
from agentray.store.base import Store

BEHIND_S = 2.0
"""How long after a run's end its trace may still be on its way."""

_PAUSE_S = 0.02


async def read_trace(store: Store, run_id: str) -> RunTrace | None:
    """Return the trace of a run; of one that ended a moment ago, as soon as it is there.

    Returns:
        None when the run has not ended, and when its trace was dropped or forgotten.

    Raises:
        UnknownRun: there is none of this id.
    """
    run = None
    while (found := await store.get_trace(run_id)) is None:
        if run is None:
            stored = await store.get_run(run_id)
            if stored is None:
                raise UnknownRun(run_id)
            run = stored.run
        ended = run.finished_at if run.status in TERMINAL else None
        if ended is None or datetime.now(UTC) - ended > timedelta(seconds=BEHIND_S):
            return None
        await asyncio.sleep(_PAUSE_S)
    return found
