"""Dead letters of one host: events that nobody wants are counted, told and kept."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agentray.errors import PayloadError, StoreUnavailable
from agentray.events import Event
from agentray.ids import new_id
from agentray.runtime.tasks import TaskSet
from agentray.store.base import DeadLetter, Store

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Letters that wait to be written; more are counted and told, and not kept."""

_BATCH = 500
_STORE_RETRY_S = 0.5
_CLOSE_S = 5.0


class DeadLetters:
    """Takes letters at any rate, and writes them in batches in the background.

    Attributes:
        count: since the host began.
        of_types: the same by type of event.
    """

    def __init__(self, store: Store) -> None:
        self.count = 0
        self.of_types: Counter[str] = Counter()
        self._store = store
        self._tasks = TaskSet("dead letters")
        self._waiting: list[DeadLetter] = []
        self._lost = 0
        self._writer: asyncio.Task[None] | None = None

    def add(self, event: Event, reason: str) -> None:
        """Keep an event; a typo in a subscription must not go unseen."""
        self.count += 1
        self.of_types[event.event_type] += 1
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
            return
        letter = DeadLetter(
            new_id("dead"),
            "event",
            reason,
            event.event_type,
            _payload(event),
            event.correlation_id,
            datetime.now(UTC),
        )
        self._waiting.append(letter)
        if self._writer is None or self._writer.done():
            self._writer = self._tasks.spawn(self._write(), name="write dead letters")

    async def _write(self) -> None:
        while self._waiting:
            batch = self._waiting[:_BATCH]
            try:
                await self._store.add_dead_letters(batch)
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "dead_letters_wait"})
                await asyncio.sleep(_STORE_RETRY_S)
                continue
            except PayloadError:
                await self._write_one_by_one(batch)
            del self._waiting[: len(batch)]
            self._tell(batch)

    async def _write_one_by_one(self, batch: Sequence[DeadLetter]) -> None:
        """Write a batch of which one cannot be kept: not even by its correlation id."""
        for letter in batch:
            try:
                await self._store.add_dead_letters([letter])
            except PayloadError as error:
                logger.warning("%s", error, extra={"action": "dead_letter_not_kept"})

    def _tell(self, batch: Sequence[DeadLetter]) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            extra = {"action": "dead_letters_not_kept", "count": lost}
            logger.warning("%d dead letters were too many to be kept", lost, extra=extra)
        of_type = Counter((letter.target, letter.reason) for letter in batch)
        for (target, reason), many in of_type.items():
            last = next(letter for letter in reversed(batch) if letter.target == target)
            logger.warning(
                "%s: %s (%d times)",
                target,
                reason,
                many,
                extra={
                    "action": "dead_letter",
                    "count": many,
                    "correlation_id": last.correlation_id,
                },
            )

    async def close(self) -> None:
        """Write what waits, as far as the Store lets it, and end."""
        if self._writer is not None and not self._writer.done():
            await asyncio.wait((self._writer,), timeout=_CLOSE_S)
        await self._tasks.close()

    async def abandon(self) -> None:
        """End without writing, as the end of the process would."""
        await self._tasks.close()


def _payload(event: Event) -> dict[str, Any]:
    try:
        return event.to_json()
    except PayloadError as error:
        return {"event_type": event.event_type, "unreadable": str(error)}
