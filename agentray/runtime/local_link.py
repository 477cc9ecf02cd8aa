"""The short cut: messages between agents of one host, without the wire."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from agentray.protocol.envelope import (
    Envelope,
    Kind,
    Outcome,
    Reply,
    ReplyKind,
    envelope_of,
)
from agentray.runtime.message import Message
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.host import Host


_VALUE = int(ReplyKind.VALUE)
_MORE_FOLLOWS = frozenset({int(ReplyKind.OPEN), int(ReplyKind.CHUNK)})


class LocalLink:
    """Hands messages to the host of this process; takes their replies.

    Envelopes are not pickled. Events that nobody can change travel as themselves; all others, and
    arguments of calls, were pickled by their senders, so that an agent cannot change them under
    another one's hands.
    """

    channel: Channel

    def __init__(self, host: Host) -> None:
        self.host = host
        self.blocked = False  # mailboxes say themselves when they are full
        self.active: dict[int, Turn] = {}
        self._open: dict[int, Message] = {}
        self.numbers = count(1)  # of messages, and of events that need none: see `LocalEvent`

    def send(self, message: Message) -> None:
        """Send a message; it has no copies, since events for agents here need none."""
        message.id = next(self.numbers)
        message.link = self
        message.sent = True
        self._open[message.id] = message
        now = self.host.now()
        self.host.accept(envelope_of(message.envelope(now)), self, now)

    def open_messages(self) -> Iterable[Message]:
        """Return what has been sent and not answered."""
        return self._open.values()

    def cancel(self, message: Message) -> bool:
        """Cancel a message; True: a reply comes when its handler has ended."""
        waiting = [number for number in message.numbers if number in self._open]
        for number in waiting:
            self.tell_host(Kind.CANCEL, message, str(number))
        return bool(waiting)

    def tell_host(self, kind: int, message: Message, name: str, payload: Any = None) -> None:
        """Send something about a message that is under way."""
        told = Envelope(0, int(kind), *message.target, name, payload)
        self.host.accept(told, self, self.host.now())

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Take a reply to its sender."""
        if kind == _VALUE and outcome is None:
            message = self._open.pop(message_id, None)
            if message is not None:
                message.on_value(payload)
            return
        if kind in _MORE_FOLLOWS:
            message = self._open.get(message_id)
        else:
            message = self._open.pop(message_id, None)
        if message is None:
            return
        if kind in (ReplyKind.MOVED, ReplyKind.REFUSED):
            self.channel.moved(message.alone(message_id), kind == ReplyKind.MOVED)
        else:
            message.on_reply(Reply(message_id, kind, payload, outcome))
