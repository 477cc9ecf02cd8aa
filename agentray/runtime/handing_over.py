"""Handing runs that were accepted to their hosts."""

from __future__ import annotations

import logging

from agentray.errors import AgentrayError
from agentray.runtime.ports import RunDispatcher
from agentray.store.base import NewRun

logger = logging.getLogger(__name__)


async def hand_over(dispatcher: RunDispatcher, run: NewRun) -> None:
    """Hand a run to its host; where that fails, the manager does, as with every accepted run."""
    try:
        await dispatcher.run(run)
    except (AgentrayError, LookupError) as error:
        extra = {"action": "run_waits", "run": run.id}
        logger.warning("run stays queued: %s", error, extra=extra)
