"""A link: this process's messages to one host.

Messages for one host leave together. A flush happens on the next turn of the event loop while
fewer than `WINDOW` batches are under way, otherwise when one returns: an idle link adds no delay,
a busy one sends large batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, cast

from agentray.config import BATCH, BatchLimits
from agentray.core.deaths import DeathCause
from agentray.ids import new_id
from agentray.protocol.envelope import Frame, Kind, Packet, Reply, ReplyKind, numbers_of
from agentray.protocol.snapshot import HostRef
from agentray.runtime.message import Message
from agentray.runtime.outbox import read_response
from agentray.runtime.ports import HostGone, HostPort, HostUnreachable
from agentray.runtime.streams import StreamMessage
from agentray.runtime.tasks import TaskSet

WINDOW = 2
"""Batches under way at once. With one, the link idles while a response travels; a third one only
makes the batches smaller."""

HALVED = 32
"""So many messages, or more, go to an idle host in two batches: it works on the first half while
the second is being packed, and this side sends anew while the host works on the second. In one,
each side would wait for the other: 64 calls in flight are 60 % more per second so, 512 calls to as
many agents 75 %."""

LARGE_BATCH_BYTES = 1 << 20
"""A batch of so many bytes may go another way than small ones, and travels alone."""

MAX_OPEN = 100_000
"""Messages of one link without a reply; beyond it senders get `Overloaded`."""

# Members of an enum are looked up through its class, which shows at this rate.
_VALUE, _MOVED, _REFUSED = int(ReplyKind.VALUE), int(ReplyKind.MOVED), int(ReplyKind.REFUSED)
_OPEN, _SETTLED, _CHUNK = int(ReplyKind.OPEN), int(ReplyKind.SETTLED), int(ReplyKind.CHUNK)

_STREAM = int(Kind.STREAM)

_URGENT = frozenset({int(Kind.PING), int(Kind.INSPECT)})
"""Kinds that do not wait behind the messages of agents."""

_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)

_MANAGERS_WORD_S = 2.0
"""How long the manager's word may take that travels beside Ray's; usually milliseconds."""


class AnyLink(Protocol):
    """A way to a host: over the wire, or within the process."""

    blocked: bool
    """Whether it takes no messages now."""

    def open_messages(self) -> Iterable[Message]:
        """Return what has been sent and not answered."""
        ...

    def send(self, message: Message) -> None:
        """Send a message; its reply comes through its callback."""
        ...

    def cancel(self, message: Message) -> bool:
        """Let a message's handler be cancelled.

        Returns:
            Whether a reply will come when it has ended; False: it never left, or its host is gone.
        """
        ...

    def tell_host(self, kind: int, message: Message, name: str, payload: Any = None) -> None:
        """Send something about a message that is under way; no reply comes."""
        ...


class Link:
    """The link to a host in another process."""

    def __init__(
        self,
        host: HostRef,
        port: HostPort,
        tasks: TaskSet,
        *,
        on_moved: Callable[[Message, bool], None],
        on_gone: Callable[[Message, str, bool], None],
        batch: BatchLimits = BATCH,
    ) -> None:
        """Make a link.

        Args:
            host: on the other side.
            port: the way there.
            tasks: owns the link's.
            on_moved: called with a message that the host gave back, since it does not lease the
                slot, and whether it may have begun to work on it.
            on_gone: called with each open message when the host has ended, the reason, and
                whether the host may have begun to work on it.
            batch: most that leaves together.
        """
        self.host = host
        self._on_moved = on_moved
        self._on_gone = on_gone
        self.gone = False
        self.blocked = False  # it takes no messages: too many are open, or its host is gone
        self._port = port
        self._batch = batch
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._name = new_id("link")
        self._next_id = 0
        self._next_batch = 0
        self._queue: deque[Message] = deque()
        self._open: dict[int, Message] = {}
        self._opened: set[int] = set()  # of the open ones, those whose `OPEN` was handed on
        self._settled: dict[int, Reply] = {}  # each overtook its `OPEN`
        self._sent = 0  # of the open ones, those that have left
        self._travelling = 0  # messages whose delivery has not been answered
        self._batches = 0
        self._unanswered: set[int] = set()  # numbers of the batches under way
        self._next_collect = 0
        self._flush_scheduled = False
        self._alone = False  # the batch under way may take a slower way: none may overtake it
        self._collecting = False
        self._acks: list[int] = []

    def open_messages(self) -> Iterable[Message]:
        """Return what has been sent and not answered."""
        return self._open.values()

    def send(self, message: Message) -> None:
        """Put a message into the next batch."""
        message.id = self._next_id + 1
        self._next_id += message.copies
        message.link = self
        message.sent = False
        if message.copies == 1:
            self._open[message.id] = message
        else:
            self._open.update(dict.fromkeys(message.numbers, message))
        if len(self._open) >= MAX_OPEN:
            self.blocked = True
        if message.kind in _URGENT:
            self._queue.appendleft(message)
        else:
            self._queue.append(message)
        if not self._flush_scheduled:
            self._schedule_flush()

    def cancel(self, message: Message) -> bool:
        """Forget a message that has not left; else tell the host to stop working on it."""
        waiting = [number for number in message.numbers if number in self._open]
        if self.gone or not waiting:
            return False
        if not message.sent:
            self._forget(waiting)
            return False
        for number in waiting:
            self.tell_host(Kind.CANCEL, message, str(number))
        return True

    def tell_host(self, kind: int, message: Message, name: str, payload: Any = None) -> None:
        """Send something about a message, before all that waits."""
        told = Message(int(kind), message.target, name, payload)
        self._next_id += 1
        told.id = self._next_id  # not in _open: no reply comes
        self._queue.appendleft(told)
        self._schedule_flush()

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self._open[number]
        self.blocked = self.gone or len(self._open) >= MAX_OPEN

    def _schedule_flush(self) -> None:
        if (
            not self._flush_scheduled
            and self._batches < WINDOW
            and not self._alone
            and not self.gone
        ):
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.gone or not self._queue:
            return
        now = self._loop.time()
        batch: list[tuple[Any, ...]] = []
        size = count = 0
        most, most_bytes = self._batch
        if not self._sent and len(self._queue) >= HALVED:
            most = min(most, len(self._queue) // 2)
        while self._queue and count < most and size < most_bytes:
            message = self._queue.popleft()
            if message.closed:
                continue  # given up while it waited
            message.sent = True
            if message.id in self._open:  # what is told about a message is not
                self._sent += message.copies
            count += message.copies
            batch.append(message.envelope(now))
            size += len(message.payload or b"")
        if not batch:
            return
        self._alone = size >= LARGE_BATCH_BYTES
        self._next_batch += 1
        self._unanswered.add(self._next_batch)
        self._batches += 1
        self._travelling += count
        self._tasks.spawn(self._deliver(self._next_batch, batch, count))
        if self._queue:
            self._schedule_flush()

    async def _deliver(self, number: int, batch: list[tuple[Any, ...]], count: int) -> None:
        try:
            replies = await self._exchange(self._port.deliver, number, batch)
        except Exception as error:
            self._lose(batch, error)
            raise
        finally:
            self._unanswered.discard(number)
            self._batches -= 1
            self._travelling -= count
            self._alone = False
        self._take(replies)
        if self._queue:
            self._schedule_flush()
        if not self._collecting and self._waiting_there:
            self._collecting = True
            self._tasks.spawn(self._collect())

    @property
    def _waiting_there(self) -> bool:
        """Whether messages are at the host whose delivery was answered without them.

        Too few are counted while a delivery is under way that others have answered in part; it is
        looked at again when that one returns.
        """
        return self._sent > self._travelling and not self.gone

    async def _collect(self) -> None:
        try:
            while self._waiting_there:
                self._take(await self._exchange(self._port.collect, None, ()))
        finally:
            self._collecting = False

    async def _exchange(
        self,
        request: Callable[[Packet], Awaitable[Packet]],
        batch_number: int | None,
        batch: Sequence[tuple[Any, ...]],
    ) -> Sequence[tuple[Any, ...] | int]:
        """Make a request, again while the host is unreachable; no replies when it is gone."""
        attempt = 0
        while not self.gone:
            if batch_number is None:
                self._next_collect += 1
            number = self._next_collect if batch_number is None else batch_number
            floor = min(self._unanswered, default=self._next_batch + 1)
            acks, self._acks = tuple(self._acks), []
            frame = Frame(self._name, number, attempt, floor, acks, batch)
            try:
                sequence, replies = read_response(await request(frame.pack()))
            except HostUnreachable:
                self._acks = [*acks, *self._acks]
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
            except HostGone as error:
                await self._managers_word(error)
                self.close(str(error))
            else:
                if sequence < 0:
                    self._forgotten()
                if replies:
                    self._acks.append(sequence)
                return replies
        return []

    async def _managers_word(self, error: HostGone) -> None:
        """Wait for the reason of a kill: the manager kills whom it declares lost, Ray sees no more.

        The new snapshot closes the link with the reason. Nothing is held up by that: what may be
        sent again needs the snapshot as well, to find its next host.
        """
        if error.death is not None and error.death.cause is DeathCause.KILLED:
            await asyncio.wait((self._closed,), timeout=_MANAGERS_WORD_S)

    def _take(self, replies: Sequence[tuple[Any, ...] | int]) -> None:
        open_messages = self._open
        copies: dict[Message, int] = {}  # of events that are done
        for fields in replies:
            if type(fields) is int:  # done, and that is all
                message = open_messages.pop(fields, None)
                if message is None:
                    continue
                self._sent -= 1
                if message.copies == 1:
                    message.on_value(None)
                else:
                    copies[message] = copies.get(message, 0) + 1
                continue
            message_id, kind, payload, outcome = cast("tuple[Any, ...]", fields)
            message = open_messages.get(message_id)
            if message is None:
                continue  # given up meanwhile, or answered by an earlier copy of this reply
            if kind == _VALUE and outcome is None and message.kind != _STREAM:
                del open_messages[message_id]
                self._sent -= 1
                message.on_value(payload)
            else:
                self._take_other(message, Reply(message_id, kind, payload, outcome))
        for message, count in copies.items():
            message.on_copies(count)
        self.blocked = self.gone or len(open_messages) >= MAX_OPEN

    def _take_other(self, message: Message, reply: Reply) -> None:
        if isinstance(message, StreamMessage):
            self._take_of_stream(message, reply)
        elif reply.kind == _OPEN:
            if reply.id in self._opened:
                return  # an earlier copy has come
            self._opened.add(reply.id)
            message.on_reply(reply)
            early = self._settled.pop(reply.id, None)
            if early is not None:
                self._end(message, early)
        elif reply.kind == _SETTLED and reply.id not in self._opened:
            self._settled[reply.id] = reply  # kept until its OPEN comes, by another response
        else:
            self._end(message, reply)

    def _take_of_stream(self, message: StreamMessage, reply: Reply) -> None:
        """Take a part, or the end, which counts when all parts have come by other responses."""
        end: Reply | None = reply
        if reply.kind == _CHUNK:
            message.on_reply(reply)
            end = self._settled.get(message.id)
        if end is None:
            return
        if message.is_whole(end):
            self._settled.pop(message.id, None)
            self._end(message, end)
        else:
            self._settled[message.id] = end

    def _end(self, message: Message, reply: Reply) -> None:
        del self._open[reply.id]
        self._opened.discard(reply.id)
        self._sent -= 1
        if reply.kind in (_MOVED, _REFUSED):
            self._on_moved(message.alone(reply.id), reply.kind == _MOVED)
        else:
            message.on_reply(reply)

    def _lose(self, batch: Sequence[tuple[Any, ...]], error: Exception) -> None:
        """End the messages of a batch whose fate is unknown."""
        for number in [number for fields in batch for number in numbers_of(fields)]:
            message = self._open.pop(number, None)
            if message is not None:
                self._sent -= 1
                self._on_gone(message.alone(number), f"{type(error).__name__}: {error}", True)

    def _forgotten(self) -> None:
        """End what the host will never answer: it has not heard of this link for long."""
        lost = [(number, message) for number, message in self._open.items() if message.sent]
        for number, _ in lost:
            self._forget((number,))
            self._opened.discard(number)
            self._settled.pop(number, None)
            self._sent -= 1
        why = "it had not heard of the sender for long, and forgot it"
        for number, message in lost:
            self._on_gone(message.alone(number), why, True)

    def close(self, reason: str) -> None:
        """End the link: what is open will not be answered here."""
        if self.gone:
            return
        self.gone = self.blocked = True
        self._closed.set_result(None)
        self._port.close()
        self._queue.clear()
        lost, self._open = self._open, {}
        self._opened.clear()
        self._settled.clear()
        self._sent = 0
        for number, message in lost.items():
            self._on_gone(message.alone(number), reason, message.sent)
