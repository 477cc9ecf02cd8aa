"""Reading a run's events in the Store from where somebody has come to."""

from __future__ import annotations

from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import RunEvent
from agentray.store.base import Store

_PAGE = 1000


async def events_after(
    store: Store, run_id: str, cursor: Cursor, limit: int = _PAGE
) -> list[RunEvent]:
    """Return the events in the Store that somebody has not seen.

    Where what was seen was lost with its attempt before it was kept, that is from the first event
    on that has taken its place: a new attempt begins, or the run has ended.

    Args:
        store: where they are kept.
        run_id: of the run.
        cursor: the last event that was seen.
        limit: most of them.

    Raises:
        StoreUnavailable: they cannot be read now.
    """
    if cursor.attempt is not None:
        cursor = await _where_to_go_on(store, run_id, cursor)
    return await store.run_events(run_id, after=cursor.offset, limit=limit)


async def _where_to_go_on(store: Store, run_id: str, cursor: Cursor) -> Cursor:
    """Read what the Store has of what was seen: seldom, and mostly short."""
    after = -1
    while after < cursor.offset:
        kept = await store.run_events(run_id, after=after, limit=_PAGE)
        if (back := cursor.going_back(kept)) is not None:
            return back
        if len(kept) < _PAGE:
            break
        after = kept[-1].offset
    return cursor
