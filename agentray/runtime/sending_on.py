"""What waits for an agent that leaves goes to its next host.

Senders send again what is answered with `MOVED`. Of a message that was told, the sender has heard
that it is queued and thinks no more of it: its host sends it on, as it came.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentray.errors import ChannelClosed
from agentray.protocol.codec import error_of
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.runtime.message import OUTSIDE, Origin, Post

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.turn import Turn

logger = logging.getLogger(__name__)

_WITHIN_S = 60.0
"""How long a told message may take to be queued anew."""


def send_on(turns: Iterable[Turn], channel: Channel) -> None:
    """Let messages that wait be handled by the next host of their agent."""
    for turn in turns:
        if turn.envelope.kind == Kind.TELL:
            _tell_on(turn, channel)
        else:
            turn.reply(ReplyKind.MOVED)


def _tell_on(turn: Turn, channel: Channel) -> None:
    envelope = turn.envelope

    def queued(reply: Reply) -> None:
        if reply.kind != ReplyKind.ERROR:
            turn.letters = None
            turn.reply(ReplyKind.VALUE)  # it may have come too early to have been queued here
            return
        error = error_of(reply)
        logger.error(
            "%s.%s was told and is lost: %s",
            envelope.target,
            envelope.name,
            error,
            extra={"action": "tell_lost", "agent": str(envelope.target)},
        )
        if isinstance(error, ChannelClosed) and turn.letters is None:
            turn.reply(ReplyKind.MOVED)  # a sender that waits sends it again
        else:
            turn.fail(error)

    message = Post(Kind.TELL, envelope.target, envelope.name, envelope.payload, queued)
    origin = Origin(*envelope[7:])
    message.origin = OUTSIDE if origin == OUTSIDE else origin
    message.deadline = channel.loop.time() + _WITHIN_S
    channel.post(message)
