"""The reply side of a link: what waits for a sender, and what it has not yet acknowledged.

Replies are decoupled from delivery. A batch is answered after a short grace with whatever is done;
the rest is fetched by one outstanding `collect`. So one slow handler does not hold back the
hundreds of fast ones that came in the same batch.

A response may be lost on the way. It is kept until the sender says that it came; a sender that
lost one asks again, and a batch that comes twice is taken in once. A request may also be late: one
that its own repetition has overtaken gets nothing, for nobody reads what it would get.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentray.protocol.envelope import Frame, Outcome, Packet, ReplyKind, pack, unpack

_VALUE = int(ReplyKind.VALUE)

GRACE_S = 0.002
"""How long a delivery waits for its own replies."""

MAX_CANCELLED = 10_000
"""Cancellations that are remembered although their message is not there: most came after it."""

COLLECT_S = 20.0
"""How long a `collect` waits for replies before its sender has to ask again."""

RUN_GRACE_S = 0.010
"""The same for a batch of nothing but runs: they end with a commit, and no quick reply waits for
the response, so that it may as well take them along."""


class Outbox:
    """Replies for one link. Its owner accepts messages; handlers put replies in."""

    __slots__ = (
        "_batches",
        "_collect_number",
        "_collector",
        "_delivering",
        "_floor",
        "_ready",
        "_sequence",
        "_unacknowledged",
        "active",
        "busy_at",
        "cancelled",
        "last_used",
    )

    def __init__(self, now: float) -> None:
        self.active: dict[int, Any] = {}
        """What is under way for this link, by message id: so that it can be cancelled."""
        self.last_used = now
        self.busy_at = now
        """When something was under way, as far as its owner has looked."""
        self._ready: list[tuple[Any, ...] | int] = []
        self._sequence = 0
        self._unacknowledged: dict[int, list[tuple[Any, ...] | int]] = {}
        self._batches: dict[int, int] = {}  # latest attempt by number of the batch
        self._floor = 0  # batches below it are answered, and forgotten
        self._collect_number = 0  # the newest fetching of replies
        self._collector: asyncio.Future[None] | None = None
        self._delivering: list[Delivery] = []
        self.cancelled: dict[int, None] = {}
        """Ids of messages that were cancelled while they were not under way: most had ended."""

    @property
    def disposable(self) -> bool:
        """Whether nothing is under way for it."""
        return not self.active and not self._delivering and self._collector is None

    @property
    def unfetched(self) -> bool:
        """Whether there are replies that its sender has not taken."""
        return bool(self._ready)

    def is_new(self, request: Frame) -> bool | None:
        """Remember a batch.

        Returns:
            Whether its messages have not come before; None for a request that its own repetition
            has overtaken.
        """
        if request.floor > self._floor:
            self._floor = request.floor
            for number in [number for number in self._batches if number < self._floor]:
                del self._batches[number]
        latest = self._batches.get(request.number)
        if request.number < self._floor or (latest is not None and request.attempt < latest):
            return None
        self._batches[request.number] = request.attempt
        return latest is None

    def cancelled_before(self, message_id: int) -> None:
        """Remember the cancellation of a message that is not under way; it may be yet to come."""
        self.cancelled[message_id] = None
        if len(self.cancelled) > MAX_CANCELLED:
            del self.cancelled[next(iter(self.cancelled))]

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Put in a reply."""
        if kind == _VALUE and payload is None and outcome is None:
            self._ready.append(message_id)  # as it is for most events: done, and nothing to tell
        else:
            self._ready.append((message_id, int(kind), payload, outcome))
        if self._delivering:
            for delivery in self._delivering:
                if message_id in delivery.waiting:
                    delivery.answered(message_id)
        else:
            self._wake_collector()

    def hurry(self) -> None:
        """Let what is there leave now, also where a delivery waits for other replies."""
        for delivery in self._delivering:
            delivery.finish()

    def begin(self, message_ids: set[int]) -> Delivery:
        """Begin a delivery; replies from now on are counted for it. End it with `after_grace`."""
        delivery = Delivery(message_ids)
        self._delivering.append(delivery)
        return delivery

    async def after_grace(self, delivery: Delivery, grace_s: float = GRACE_S) -> None:
        """Wait until all messages of a delivery are answered, at most for the grace."""
        try:
            if delivery.waiting:
                timer = asyncio.get_running_loop().call_later(grace_s, delivery.finish)
                try:
                    await delivery.done
                finally:
                    timer.cancel()
        finally:
            self._delivering.remove(delivery)

    async def until_ready(self, number: int, patience_s: float = COLLECT_S) -> bool:
        """Wait until there is a reply that no delivery will take along.

        Args:
            number: of the request; a newer one ends an older one.
            patience_s: the longest wait. Its sender asks again then, and is known to live.

        Returns:
            False when the request is not the newest, or when there is nothing yet.
        """
        if number < self._collect_number:
            return False
        self._collect_number = number
        self._wake_collector()
        while number == self._collect_number and not self._ready:
            loop = asyncio.get_running_loop()
            waiting = self._collector = loop.create_future()
            timer = loop.call_later(patience_s, _finish, waiting)
            try:
                await waiting
                if not self._ready:
                    return False
            finally:
                timer.cancel()
                if self._collector is waiting:
                    self._collector = None
            # One loop turn more: handlers that finish together answer together.
            await asyncio.sleep(0)
        return number == self._collect_number

    def _wake_collector(self) -> None:
        if self._collector is not None and not self._collector.done():
            self._collector.set_result(None)

    def acknowledged(self, request: Frame) -> None:
        """Forget the responses that came; put back those that may be lost."""
        for number in request.acks:
            self._unacknowledged.pop(number, None)
        if request.attempt:
            for replies in self._unacknowledged.values():
                self._ready.extend(replies)
            self._unacknowledged.clear()

    def answer(self, request: Frame) -> Packet:
        """Take out all replies for a batch; none when its repetition has overtaken it meanwhile."""
        if self._batches.get(request.number) == request.attempt:
            return self.take()
        self._wake_collector()  # they were left to this delivery
        return NOTHING

    def take(self) -> Packet:
        """Take out all replies as a packed response."""
        replies, self._ready = self._ready, []
        self._sequence += 1
        if replies:
            self._unacknowledged[self._sequence] = replies
        return pack((self._sequence, replies))


NOTHING = pack((0, []))
"""The response to a request that nobody waits for any more."""

IDLE_S = 600.0
"""How long the outbox of a silent sender is kept when all its replies have left."""

UNFETCHED_S = 3600.0
"""The same while there are some: it may be cut off, and will ask for them."""


def patience_s(outbox: Outbox) -> float:
    """Return how long an outbox is kept for a sender that is silent."""
    return UNFETCHED_S if outbox.unfetched else IDLE_S


FORGOTTEN = pack((-1, []))
"""The response to a sender that comes back after so long that its replies were dropped."""


def _finish(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Delivery:
    """One batch that waits, within its grace, for the replies to its messages."""

    __slots__ = ("done", "waiting")

    def __init__(self, message_ids: set[int]) -> None:
        self.waiting = message_ids
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, message_id: int) -> None:
        """Note a reply; the last one ends the waiting."""
        self.waiting.discard(message_id)
        if not self.waiting:
            self.finish()

    def finish(self) -> None:
        """End the waiting."""
        if not self.done.done():
            self.done.set_result(None)


def read_response(packet: Packet) -> tuple[int, list[Any]]:
    """Read what `Outbox.take` packed: the response's number, and the fields of its replies.

    The number of a message alone says that it is done, without a value.
    """
    return unpack(packet)
