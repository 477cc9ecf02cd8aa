"""A link: this process's messages to one host.

Messages for one host leave together. A flush happens on the next turn of the event loop while
fewer than `WINDOW` batches are under way, otherwise when one returns: an idle link adds no delay,
a busy one sends large batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from agentray.ids import AgentId, new_id
from agentray.protocol.envelope import Frame, Kind, Reply, ReplyKind
from agentray.protocol.snapshot import HostRef
from agentray.runtime.outbox import read_response
from agentray.runtime.ports import HostGone, HostPort, HostUnreachable
from agentray.runtime.tasks import TaskSet

WINDOW = 2
"""Batches under way at once. With one, the link idles while a response travels; a third one only
makes the batches smaller."""

MAX_BATCH = 512
MAX_BATCH_BYTES = 1 << 20

MAX_OPEN = 100_000
"""Messages of one link without a reply; beyond it senders get `Overloaded`."""

# Members of an enum are looked up through its class, which shows at this rate.
_OPEN, _SETTLED = int(ReplyKind.OPEN), int(ReplyKind.SETTLED)
_MOVED = int(ReplyKind.MOVED)

_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class Origin(NamedTuple):
    """What a message inherits from the one that is being handled when it is sent.

    Attributes:
        correlation_id: the conversation.
        cause_id: id of the cause in the trace.
        sender: the agent that sends.
        chain: the agents whose turns wait.
        root: the agent that the run was given to.
    """

    correlation_id: str | None = None
    cause_id: str | None = None
    sender: AgentId | None = None
    chain: tuple[AgentId, ...] = ()
    root: AgentId | None = None


OUTSIDE = Origin()
"""Origin of messages that no agent sends."""


class Message:
    """A message on its way, from the sender's side.

    Attributes:
        on_reply: called once with the reply (twice for `OPEN`, then `SETTLED`).
        on_gone: called instead when the host ended before it replied; the flag tells whether the
            host may have begun to work on it.
        deadline: in seconds of the event loop's clock; None: none.
        closed: nobody waits for it any more.
        watched: its deadline is near, and waited for.
        opened: its `OPEN` has been handed on.
        settled: a `SETTLED` that overtook its `OPEN`.
    """

    __slots__ = (
        "closed",
        "deadline",
        "id",
        "kind",
        "link",
        "name",
        "on_gone",
        "on_reply",
        "opened",
        "origin",
        "payload",
        "sent",
        "settled",
        "target",
        "watched",
    )

    def __init__(
        self,
        kind: int,
        target: AgentId,
        name: str,
        payload: Any,
        on_reply: Callable[[Reply], None],
        on_gone: Callable[[Message, str, bool], None],
    ) -> None:
        self.kind = int(kind)  # an enum's member would be pickled by name, ten times as slowly
        self.target = target
        self.name = name
        self.payload = payload
        self.on_reply = on_reply
        self.on_gone = on_gone
        self.deadline: float | None = None
        self.origin = OUTSIDE
        self.id = 0
        self.link: AnyLink | None = None
        self.sent = False
        self.closed = False
        self.watched = False
        self.opened = False
        self.settled: Reply | None = None

    def envelope(self, now: float) -> tuple[Any, ...]:
        """Return the fields of its `Envelope`, with the time that is left at `now`.

        Without those that have their defaults: most messages come from outside of agents.
        """
        target, deadline = self.target, self.deadline
        fields = (
            self.id,
            self.kind,
            target.type,
            target.key,
            self.name,
            self.payload,
            None if deadline is None else deadline - now,
        )
        return fields if self.origin is OUTSIDE else fields + self.origin


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

    def cancel(self, message: Message) -> None:
        """Cancel a message that was sent; its reply is ignored."""
        ...


class Link:
    """The link to a host in another process."""

    def __init__(
        self,
        host: HostRef,
        port: HostPort,
        tasks: TaskSet,
        on_moved: Callable[[Message], None],
    ) -> None:
        self.host = host
        self._on_moved = on_moved
        self.gone = False
        self.blocked = False  # it takes no messages: too many are open, or its host is gone
        self._port = port
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._name = new_id("link")
        self._next_id = 0
        self._next_batch = 0
        self._queue: deque[Message] = deque()
        self._open: dict[int, Message] = {}
        self._sent = 0  # of the open ones, those that have left
        self._travelling = 0  # messages whose delivery has not been answered
        self._batches = 0
        self._unanswered: set[int] = set()  # numbers of the batches under way
        self._next_collect = 0
        self._flush_scheduled = False
        self._collecting = False
        self._acks: list[int] = []

    def open_messages(self) -> Iterable[Message]:
        """Return what has been sent and not answered."""
        return self._open.values()

    def send(self, message: Message) -> None:
        """Put a message into the next batch."""
        self._next_id += 1
        message.id = self._next_id
        message.link = self
        message.sent = False
        self._open[message.id] = message
        if len(self._open) >= MAX_OPEN:
            self.blocked = True
        self._queue.append(message)
        if not self._flush_scheduled:
            self._schedule_flush()

    def cancel(self, message: Message) -> None:
        """Forget a message; if it has left, tell the host to stop working on it."""
        if self._open.pop(message.id, None) is None:
            return
        self.blocked = self.gone or len(self._open) >= MAX_OPEN
        if not message.sent or self.gone:
            return
        self._sent -= 1
        self._next_id += 1
        stop = Message(Kind.CANCEL, message.target, str(message.id), None, _ignore, _ignore)
        stop.id = self._next_id  # not in _open: no reply comes
        self._queue.append(stop)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self._batches < WINDOW and not self.gone:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.gone or not self._queue:
            return
        now = self._loop.time()
        batch: list[tuple[Any, ...]] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            message = self._queue.popleft()
            if message.closed:
                continue  # given up while it waited
            message.sent = True
            self._sent += message.id in self._open  # a cancellation is not: no reply comes
            batch.append(message.envelope(now))
            size += len(message.payload or b"")
        if not batch:
            return
        self._next_batch += 1
        self._unanswered.add(self._next_batch)
        self._batches += 1
        self._travelling += len(batch)
        self._tasks.spawn(self._deliver(self._next_batch, batch))
        if self._queue:
            self._schedule_flush()

    async def _deliver(self, number: int, batch: list[tuple[Any, ...]]) -> None:
        replies = await self._exchange(self._port.deliver, number, batch)
        self._unanswered.discard(number)
        self._batches -= 1
        self._travelling -= len(batch)
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
        request: Callable[[bytes], Awaitable[bytes]],
        batch_number: int | None,
        batch: Sequence[tuple[Any, ...]],
    ) -> list[Reply]:
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
                self.close(str(error))
            else:
                if replies:
                    self._acks.append(sequence)
                return replies
        return []

    def _take(self, replies: list[Reply]) -> None:
        for reply in replies:
            message = self._open.get(reply.id)
            if message is None:
                continue  # given up meanwhile, or answered by an earlier copy of this reply
            if reply.kind == _OPEN:
                self._take_open(message, reply)
            elif reply.kind == _SETTLED and not message.opened:
                message.settled = reply  # kept until its OPEN comes, by another response
            else:
                self._end(message, reply)
        self.blocked = self.gone or len(self._open) >= MAX_OPEN

    def _take_open(self, message: Message, reply: Reply) -> None:
        if message.opened:
            return
        message.opened = True
        message.on_reply(reply)
        if message.settled is not None:
            self._end(message, message.settled)

    def _end(self, message: Message, reply: Reply) -> None:
        del self._open[message.id]
        self._sent -= 1
        if reply.kind == _MOVED:
            self._on_moved(message)
        else:
            message.on_reply(reply)

    def close(self, reason: str) -> None:
        """End the link: what is open will not be answered here."""
        if self.gone:
            return
        self.gone = self.blocked = True
        self._queue.clear()
        messages, self._open = list(self._open.values()), {}
        self._sent = 0
        for message in messages:
            message.on_gone(message, reason, message.sent)


def _ignore(*_: Any) -> None:
    """Take no notice."""
