"""Dead letters of one host: what came to nothing with nobody there to hear of it.

They are counted, told in the log, and kept, so that they can be looked at and tried once more. Who
waits for a message gets an error instead, and a run has errors of its own: neither makes a letter.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from agentray.errors import (
    AgentFailed,
    AgentStopped,
    ChannelClosed,
    DeadlineExceeded,
    DeploymentStopped,
    HostDied,
    Overloaded,
    PayloadError,
    StoreUnavailable,
)
from agentray.events import Event
from agentray.ids import AgentId, new_id
from agentray.protocol.codec import decode, encode, text_of
from agentray.protocol.envelope import Envelope, Kind
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import RunError
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store
from agentray.store.letters import StoredLetter

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Letters that wait to be written; more are counted and told, and not kept."""

MAX_BYTES = 100_000
"""Of the content of one letter; one with more is kept without it, and cannot be tried again."""

MAX_NAMES = 1000
"""Names by which letters are counted; what comes beyond them is counted as `other`."""

_MAX_ERROR_CHARS = 2000

_BATCH = 500
_STORE_RETRY_S = 0.5
_CLOSE_S = 5.0


class DeadLetters:
    """Takes letters at any rate, and writes them in batches in the background.

    Attributes:
        count: since the host began.
        counts: the same, by reason and by the name of the event, action or agent type.
        lost: of these, how many were too many to be kept.
    """

    def __init__(
        self, store: Store, pool_of: Callable[[AgentId], str | None] = lambda _: None
    ) -> None:
        """Make it.

        Args:
            store: where they are kept.
            pool_of: in which pool an agent lives, whose hosts can read what it sends and gets.
        """
        self.count = 0
        self.counts: Counter[tuple[LetterReason, str]] = Counter()
        self.lost = 0
        self._store = store
        self._pool_of = pool_of
        self._tasks = TaskSet("dead letters")
        self._waiting: list[StoredLetter] = []
        self._untold = 0
        self._writer: asyncio.Task[None] | None = None

    def by_reason(self) -> dict[str, int]:
        """Return how many there were, by reason."""
        found: Counter[str] = Counter()
        for (reason, _), count in self.counts.items():
            found[reason.value] += count
        return dict(found)

    # Taking in

    def unwanted(self, event: Event, sender: AgentId | None) -> None:
        """Keep an event without a subscriber; a typo in a subscription must not go unseen."""
        self._event(LetterReason.NO_SUBSCRIBER, event, event.event_type, sender, None)

    def undelivered(self, target: AgentId, event: Event, error: BaseException) -> None:
        """Keep an event that did not get to a subscriber, and that belongs to no run."""
        self._event(_reason_of(error), event, str(target), _source(event), error)

    def failed(self, envelope: Envelope, payload: object, error: BaseException) -> None:
        """Keep an event that belongs to no run, or what was told, whose handler failed."""
        reason = LetterReason.HANDLER_FAILED
        if isinstance(payload, Event):
            self._event(reason, payload, str(envelope.target), envelope.sender, error)
        else:
            self._message(reason, envelope, error)

    def untold(self, envelope: Envelope, error: BaseException) -> None:
        """Keep what was told and queued, as its sender knows, and did not get its turn."""
        self._message(_reason_of(error), envelope, error)

    def dead_run(self, agent: AgentId) -> None:
        """Count a run that has died; its letter is written with its end."""
        self._counted(LetterReason.RUN_DEAD, agent.type)

    def _counted(self, reason: LetterReason, name: str) -> bool:
        """Count a letter; return whether there is room for it."""
        self.count += 1
        known = (reason, name) in self.counts or len(self.counts) < MAX_NAMES
        self.counts[reason, name if known else "other"] += 1
        if len(self._waiting) < MAX_WAITING:
            return True
        if reason is not LetterReason.RUN_DEAD:
            self.lost += 1
            self._untold += 1
        return False

    def _event(
        self,
        reason: LetterReason,
        event: Event,
        target: str,
        sender: AgentId | None,
        error: BaseException | None,
    ) -> None:
        if not self._counted(reason, event.event_type):
            return
        payload, content = _contents(event)
        lives = sender if reason is LetterReason.NO_SUBSCRIBER else AgentId.parse(target)
        self._keep(
            LetterKind.EVENT, reason, target, event.event_type, payload, content,
            lives, sender, event.correlation_id, error,
        )  # fmt: skip

    def _message(self, reason: LetterReason, envelope: Envelope, error: BaseException) -> None:
        if not self._counted(reason, envelope.name):
            return
        target = AgentId(*envelope.target)
        # In one piece: what is too large for that is too large to be kept.
        content = envelope.payload if isinstance(envelope.payload, bytes) else None
        kind = LetterKind.EVENT if envelope.kind == Kind.EVENT else LetterKind.MESSAGE
        self._keep(
            kind, reason, str(target), envelope.name, {}, content,
            target, envelope.sender, envelope.correlation_id or "", error,
        )  # fmt: skip

    def _keep(  # noqa: PLR0913, PLR0917 - all that a letter says
        self,
        kind: LetterKind,
        reason: LetterReason,
        target: str,
        name: str,
        payload: dict[str, Any],
        content: bytes | None,
        lives: AgentId | None,
        sender: AgentId | None,
        correlation_id: str,
        error: BaseException | None,
    ) -> None:
        """Let a letter be written; `content` is None where it cannot be kept."""
        kept = None if content is not None and len(content) > MAX_BYTES else content
        letter = DeadLetter(
            id=new_id("dead"),
            kind=kind,
            reason=reason,
            target=target,
            name=name,
            payload=payload,
            sender=None if sender is None else str(AgentId(*sender)),
            correlation_id=correlation_id,
            error=None if error is None else _told(error, target),
            created_at=datetime.now(UTC),
            retryable=kept is not None,
        )
        pool = None if lives is None else self._pool_of(lives)
        self._waiting.append(StoredLetter(letter, pool or "default", kept or b""))
        if self._writer is None or self._writer.done():
            self._writer = self._tasks.spawn(self._write(), name="write dead letters")

    # Writing

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
            self._tell([stored.letter for stored in batch])

    async def _write_one_by_one(self, batch: Sequence[StoredLetter]) -> None:
        """Write a batch of which one cannot be kept: not even by its correlation id."""
        for letter in batch:
            try:
                await self._store.add_dead_letters([letter])
            except PayloadError as error:
                logger.warning("%s", error, extra={"action": "dead_letter_not_kept"})

    def _tell(self, batch: Sequence[DeadLetter]) -> None:
        lost, self._untold = self._untold, 0
        if lost:
            extra = {"action": "dead_letters_not_kept", "count": lost}
            logger.warning("%d dead letters were too many to be kept", lost, extra=extra)
        alike = Counter((letter.target, letter.reason) for letter in batch)
        for (target, reason), many in alike.items():
            last = next(letter for letter in reversed(batch) if letter.target == target)
            logger.warning(
                "%s: %s (%d times)",
                target,
                reason.value,
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


def _reason_of(error: BaseException) -> LetterReason:
    match error:
        case Overloaded():
            return LetterReason.MAILBOX_FULL
        case AgentFailed():
            return LetterReason.AGENT_FAILED
        case AgentStopped() | DeploymentStopped():
            return LetterReason.AGENT_STOPPED
        case DeadlineExceeded():
            return LetterReason.EXPIRED
        case HostDied() | ChannelClosed():
            return LetterReason.HOST_LOST
        case _:
            return LetterReason.UNDELIVERABLE


def _contents(event: Event) -> tuple[dict[str, Any], bytes | None]:
    """Return an event as JSON and b""; as no JSON and a pickle where it has none."""
    try:
        payload = event.to_json()
        size = len(repr(payload))
    except PayloadError as error:
        named = {"event_type": event.event_type}
        try:
            return named | {"unreadable": str(error)}, encode(event, f"event {event.event_type}")
        except PayloadError:
            return named | {"unreadable": str(error)}, None
    if size > MAX_BYTES:
        return {"event_type": event.event_type, "unreadable": f"it has {size:,} characters"}, None
    return payload, b""


def _source(event: Event) -> AgentId | None:
    """Return the agent that published an event, where one did."""
    agent_type, slash, key = event.source.partition("/")
    return AgentId(agent_type, key) if slash else None


def _told(error: BaseException, target: str) -> RunError:
    message = text_of(error)[:_MAX_ERROR_CHARS]
    return RunError(type=type(error).__name__, message=message, agent=target)


def read_payload(payload: object) -> object:
    """Return what a message for an event handler carries; as it came where it cannot be read."""
    if not isinstance(payload, bytes):
        return payload
    try:
        return decode(payload)
    except Exception:  # noqa: BLE001 - that is why its handler failed: code of the user's
        return payload
