"""What is there when all is over: runs, their events, and the states of agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from agentray import ManagerClient, Run, RunStatus
from agentray.ids import AgentId
from agentray.store.base import Store
from tests.chaos.history import TERMINAL, Kept
from tests.chaos.load import Load

_PAGE = 1000
_LOOK_S = 0.2


async def read_back(load: Load, store: Store, manager: ManagerClient, patience_s: float) -> None:
    """Complete a load's history by what is kept.

    Args:
        load: has ended.
        store: of the cluster.
        manager: asks the agents for what they counted.
        patience_s: how long all runs together may still take to their ends.
    """
    history = load.history
    runs = dict.fromkeys(told.run for told in history.told)
    kept: dict[str, Kept] = {}
    until = asyncio.get_running_loop().time() + patience_s
    for run_id in runs:
        stored = await store.get_run(run_id)
        while (
            stored is not None
            and stored.run.status.value not in TERMINAL
            and asyncio.get_running_loop().time() < until
        ):
            await asyncio.sleep(_LOOK_S)
            stored = await store.get_run(run_id)
        if stored is None:
            continue
        events = [event async for event in _events(store, run_id)]
        kept[run_id] = Kept(
            stored.run.status.value,
            [offset for offset, _ in events],
            [kind for _, kind in events],
            stored.run.result,
            "" if stored.run.error is None else str(stored.run.error),
        )
        _count(load, stored.run)
    history.kept = kept
    history.counters = await _counters(manager, sorted({*history.acknowledged, *history.doubtful}))


def _count(load: Load, run: Run) -> None:
    """Say which effects a run must have had, and may have had."""
    history = load.history
    succeeded = run.status is RunStatus.SUCCEEDED
    for counter in load.effects.get(run.id, ()):
        history.acknowledged[counter] += succeeded
        history.doubtful[counter] += not succeeded
        if run.id in load.repeated:
            history.doubtful[counter] += run.attempt - 1


async def _events(store: Store, run_id: str) -> AsyncIterator[tuple[int, str]]:
    after = -1
    while page := await store.run_events(run_id, after=after, limit=_PAGE):
        for event in page:
            yield event.offset, event.kind
        after = page[-1].offset


async def _counters(manager: ManagerClient, names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = await manager.handle(AgentId.parse(name)).total()
    return found
