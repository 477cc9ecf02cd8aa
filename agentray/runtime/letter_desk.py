"""The manager's part of dead letters: looked through, tried once more, forgotten, counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agentray.errors import UnknownDeadLetter
from agentray.protocol.letters import DeadLetter, LetterQuery
from agentray.protocol.runs import Run
from agentray.runtime.letter_retries import LetterRetries
from agentray.runtime.ports import RunDispatcher
from agentray.store.base import Store

logger = logging.getLogger(__name__)

SWEEP_S = 10.0
"""Between two looks for letters beyond those that are kept."""

BATCH = 1000
"""Letters that one statement forgets: it must not hold up the hosts' commits."""


class LetterDesk:
    """Looks after dead letters."""

    def __init__(self, store: Store, dispatcher: RunDispatcher, keep: int) -> None:
        """Make it.

        Args:
            store: where they are.
            dispatcher: hands the runs that try them once more to their hosts.
            keep: how many are kept, the newest.
        """
        self._store = store
        self._retries = LetterRetries(store, dispatcher)
        self._keep = keep
        self._swept_at: datetime | None = None
        self._pruned = 0
        self._of_gone: Counter[str] = Counter()  # of hosts that are gone, by reason

    async def list(self, query: LetterQuery, limit: int, before: str | None) -> list[DeadLetter]:
        """Return dead letters, newest first."""
        return await self._store.list_dead_letters(query, limit=limit, before=before)

    async def get(self, letter_id: str) -> DeadLetter:
        """Return a dead letter.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        stored = await self._store.get_dead_letter(letter_id) if "\0" not in letter_id else None
        if stored is None:
            raise UnknownDeadLetter(letter_id)
        return stored.letter

    async def retry(self, letter_id: str) -> Run:
        """See `LetterRetries.retry`."""
        return await self._retries.retry(letter_id)

    async def purge(self, query: LetterQuery) -> int:
        """Forget dead letters, also very many; return how many."""
        return await purge_all(self._store, query)

    async def sweep(self) -> None:
        """Forget the oldest beyond those that are kept, when the next look is due."""
        now = datetime.now(UTC)
        if self._swept_at is not None and now - self._swept_at < timedelta(seconds=SWEEP_S):
            return
        while True:
            pruned = await self._store.prune_dead_letters(keep=self._keep, limit=BATCH)
            self._pruned += pruned
            if pruned:
                extra = {"action": "dead_letters_pruned", "count": pruned}
                logger.warning("%d dead letters made room for newer ones", pruned, extra=extra)
            if pruned < BATCH:
                self._swept_at = now
                return

    # Counting

    def host_gone(self, info: Mapping[str, Any]) -> None:
        """Go on counting what a host had counted that is gone."""
        self._of_gone.update(info.get("dead_letters_by_reason", {}))

    def counts(self, hosts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return how many there were, for the status; `hosts` is what each host has told last."""
        reasons = self._of_gone.copy()
        for info in hosts:
            reasons.update(info.get("dead_letters_by_reason", {}))
        return {
            "dead_letters": reasons.total(),
            "dead_letters_by_reason": dict(sorted(reasons.items())),
            "dead_letters_pruned": self._pruned,
        }

    async def close(self) -> None:
        """Let go of what is under way."""
        await self._retries.close()


async def purge_all(store: Store, query: LetterQuery) -> int:
    """Forget dead letters, batch by batch; return how many.

    Only those that were there when it began: what dies meanwhile stays.
    """
    if query.until is None:
        query = replace(query, until=datetime.now(UTC))
    purged = 0
    while True:
        batch = await store.purge_dead_letters(query, limit=BATCH)
        purged += batch
        if batch < BATCH:
            return purged
