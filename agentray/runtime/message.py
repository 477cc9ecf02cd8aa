"""A message on its way, from the sender's side: what it asks, and who waits for the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from agentray.context import Context
from agentray.ids import AgentId
from agentray.protocol.codec import error_of
from agentray.protocol.envelope import Reply, ReplyKind
from agentray.runtime.scope import failure_of, scope_of

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.link import AnyLink

# Members of an enum are looked up through its class, which shows at this rate.
_VALUE, _ERROR, _OPEN = int(ReplyKind.VALUE), int(ReplyKind.ERROR), int(ReplyKind.OPEN)


class Origin(NamedTuple):
    """What a message inherits from the one that is being handled when it is sent.

    Attributes:
        correlation_id: the conversation.
        cause_id: id of the cause in the trace.
        sender: the agent that sends.
        chain: the agents whose turns wait.
        root: the agent that the run was given to.
        trace_context: W3C traceparent of the sender.
        run: the run that it belongs to.
        access: what tools may touch that work on it.
    """

    correlation_id: str | None = None
    cause_id: str | None = None
    sender: AgentId | None = None
    chain: tuple[AgentId, ...] = ()
    root: AgentId | None = None
    trace_context: str | None = None
    run: str | None = None
    access: str | None = None


OUTSIDE = Origin()
"""Origin of messages that no agent sends."""


class Message:
    """A message; subclasses say what its replies do.

    Attributes:
        deadline: in seconds of the event loop's clock; None: none.
        id: its number on its link.
        link: the way that it took; None before that, and while it waits for a host.
        sent: it has left this process.
        closed: nobody waits for it any more.
        copies: for how many agents it is; each copy has a number of its own, from `id` on.
    """

    copies = 1

    __slots__ = (
        "closed",
        "deadline",
        "id",
        "kind",
        "link",
        "name",
        "origin",
        "payload",
        "sent",
        "target",
    )

    id: int
    sent: bool

    def __init__(self, kind: int, target: AgentId, name: str, payload: Any) -> None:
        self.kind = kind  # a plain int: an enum's member is pickled by name, ten times as slowly
        self.target = target
        self.name = name
        self.payload = payload
        self.deadline: float | None = None
        self.origin = OUTSIDE
        self.link: AnyLink | None = None
        self.closed = False

    def on_value(self, payload: Any) -> None:
        """Take the reply of by far the most messages: a value, and nothing else to tell."""
        self.on_reply(Reply(self.id, _VALUE, payload))

    def on_copies(self, count: int) -> None:
        """Take the replies of so many copies at once: values, and nothing else to tell."""
        for _ in range(count):
            self.on_value(None)

    def on_reply(self, reply: Reply) -> None:
        """Take a reply; called once, or with `OPEN` or `CHUNK` before the last one."""
        raise NotImplementedError

    @property
    def numbers(self) -> range:
        """The numbers of its copies on its link."""
        return range(self.id, self.id + self.copies)

    def alone(self, number: int) -> Message:
        """Return what goes on by itself for one copy, whatever becomes of the others."""
        del number  # there is only one
        return self

    def give_up(self, channel: Channel) -> bool:
        """Cancel it; return whether a reply will come when its handler has ended."""
        return channel.cancel(self)

    def envelope(self, now: float) -> tuple[Any, ...]:
        """Return the fields of its `Envelope`, with the time that is left at `now`.

        Without those that have their defaults: most messages come from outside of agents.
        """
        target, deadline = self.target, self.deadline
        fields = (
            self.id,
            self.kind,
            target[0],
            target[1],
            self.name,
            self.payload,
            None if deadline is None else deadline - now,
        )
        return fields if self.origin is OUTSIDE else fields + self.origin


def inherit(message: Message, context: Context) -> None:
    """Let a message belong to the one that is being handled: conversation, deadline, chain."""
    message.origin = Origin(*context.inherited())
    message.deadline = context.deadline
    if context.listens:
        context.sent(message)


class Post(Message):
    """A message whose reply goes to a callback."""

    __slots__ = ("_callback",)

    def __init__(
        self,
        kind: int,
        target: AgentId,
        name: str,
        payload: Any,
        callback: Callable[[Reply], None],
    ) -> None:
        super().__init__(int(kind), target, name, payload)
        self._callback = callback

    def on_reply(self, reply: Reply) -> None:
        """Hand the first reply on; a cancelled message gets one more when its handler has ended."""
        callback, self._callback = self._callback, _ignore
        callback(reply)


class Request(Message):
    """A message whose value somebody awaits.

    Attributes:
        future: gets the reply's payload, or its error.
        timeout_s: the time from when it was sent until its deadline; None: it has none.
    """

    __slots__ = ("future", "timeout_s")

    def __init__(
        self, kind: int, target: AgentId, name: str, payload: Any, future: asyncio.Future[Any]
    ) -> None:
        # Not through super(): each call of an agent makes one of these.
        self.kind = kind
        self.target = target
        self.name = name
        self.payload = payload
        self.deadline = None
        self.origin = OUTSIDE
        self.link = None
        self.closed = False
        self.future = future
        self.timeout_s: float | None = None

    def on_value(self, payload: Any) -> None:
        """Give the value to whoever waits."""
        self.closed = True
        if not self.future.done():
            self.future.set_result(payload)

    def on_reply(self, reply: Reply) -> None:
        """Give the value or the error to whoever waits."""
        if reply.kind == _OPEN:
            self.deadline = None  # the value is there; the rest ends when it ends
        else:
            self.closed = True
        if self.future.done():
            return
        if reply.kind == _ERROR:
            self.future.set_exception(error_of(reply))
        else:
            self.future.set_result(reply.payload)

    def given_up(self) -> asyncio.Future[Any]:
        """Note that its caller was cancelled; return what ends with the handler's end."""
        self.closed = True
        self.future = self.future.get_loop().create_future()
        # Whatever it comes to, an error included, only says that the handler has ended.
        self.future.add_done_callback(_retrieve)
        return self.future


def _ignore(reply: Reply) -> None:
    del reply


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class ScopedRequest(Request):
    """A request of a handler, which hears what the message set off on the other side."""

    __slots__ = ("_context", "_opened")

    def __init__(
        self,
        kind: int,
        target: AgentId,
        name: str,
        payload: Any,
        future: asyncio.Future[Any],
        context: Context,
    ) -> None:
        super().__init__(kind, target, name, payload, future)
        self._context = context
        self._opened = False
        inherit(self, context)

    def on_reply(self, reply: Reply) -> None:
        """Also tell the message that is being handled what this one came to."""
        if reply.kind == _OPEN:
            if not self._opened:
                scope_of(self._context).sent(self)
            self._opened = True
        elif self._opened:
            # The call itself succeeded; what it had set off has ended now, or was lost.
            self._opened = False
            failed = reply.kind == _ERROR
            scope_of(self._context).ended(self, failure_of(reply) if failed else reply.outcome)
        elif reply.outcome is not None:
            scope_of(self._context).absorb(reply.outcome)
        super().on_reply(reply)
