"""Publishing: from one event to the messages for its subscribers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from agentray.context import Context
from agentray.core.routing import Misrouted, Recipients, Routes
from agentray.event_payloads import payload_of
from agentray.events import Event, TerminateEvent, answer_of
from agentray.ids import AgentId
from agentray.protocol.codec import decode, text_of
from agentray.protocol.envelope import Envelope, Failure, Kind, Outcome
from agentray.protocol.event_runs import STEPS
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.event_message import MAX_COPIES, EventMessage
from agentray.runtime.local_event import LocalEvent
from agentray.runtime.message import Origin
from agentray.runtime.scope import Scope, scope_of
from agentray.runtime.step_emissions import emit

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_EVENT = int(Kind.EVENT)

# Past the constructor, which takes twice as long to say the same.
_new = cast("Any", tuple).__new__


class Publisher:
    """Publishes for the agents of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._snapshot: Snapshot | None = None
        self._routes = Routes({}, read_function)

    def publish(self, event: Event, context: Context) -> Event:
        """Send an event to its subscribers, as a part of the message that is being handled.

        Returns:
            The event as it went out: with its correlation, cause and source.
        """
        published = context.caused(event)
        # What has bytes of its own has all that already, see `Context.publish`; so what is made
        # anew here is an event that nobody can change.
        payload = None if published is event else published
        self.route(published, context, context.agent, payload=payload)
        return published

    def types_that_want(self, event: Event) -> list[str]:
        """Return the types of the agents that would get an event."""
        targets, failed = self._recipients(event, None)
        return [*(target.type for target in targets), *(each.agent_type for each in failed)]

    def route(
        self,
        published: Event,
        context: Context,
        sender: AgentId | None,
        only: Callable[[AgentId], bool] | None = None,
        to: AgentId | None = None,
        payload: Event | None = None,
    ) -> bool:
        """Send an event as it is to its subscribers; return whether somebody wants it.

        Args:
            published: the event.
            context: of the message that is being handled, or of the run whose root event it is.
            sender: the agent that publishes it; None from outside.
            only: which subscribers get it; None: all.
            to: the only agent that gets it, whoever subscribes; None: subscribers do.
            payload: the event itself if nobody can change it; None: that is to be seen.
        """
        local: LocalEvent | None = context.local
        known: Scope | None = context.scope
        # Its own, the one that hears of what is handled, or a new one.
        scope = known or (scope_of(context) if local is None else local.parent)
        envelope = context.envelope
        # An event with a correlation of its own begins another conversation: the run waits for it,
        # and it cannot end the run.
        own = published.__dict__["correlation_id"] == envelope[7]
        run = envelope[13] if own else None
        terminates = isinstance(published, TerminateEvent)
        answer = answer_of(published) if terminates and own else None
        if run is not None and not self._host.parts.takes(run, published, scope):
            return True
        # What such a run emits leaves with the commit of its message, and so does its end.
        whole = envelope[13]
        step = whole is not None and whole[0] in STEPS
        if terminates and own and not step:
            scope.answer(answer)
        targets, failed = self._recipients(published, sender) if to is None else _only(to)
        if only is not None:
            targets = [target for target in targets if only(target)]
        if step:
            emit(self._host, published, context, sender, targets, answer)
        elif targets:
            self._send(published, payload, context, scope, sender, targets, run, own=own)
        for misrouted in failed:
            _fail(published, misrouted, context)
        wanted = bool(targets or failed or terminates)
        if not wanted:
            self._host.dead_letters.unwanted(published, sender)
        if terminates and run is not None and not step:
            self._host.parts.terminate(run, answer, published.end_grace_s)
        return wanted

    def _send(
        self,
        published: Event,
        payload: Event | None,
        context: Context,
        scope: Scope,
        sender: AgentId | None,
        targets: list[AgentId],
        run: str | None,
        *,
        own: bool,
    ) -> None:
        """Send an event to agents."""
        host, envelope = self._host, context.envelope
        under = context.local if scope is not context.scope else None
        trace_context, root = envelope[12], envelope[11]
        # No turn waits for an event, nor does a caller: neither chain nor deadline.
        about = (
            published.__dict__["correlation_id"],
            context.cause_id,
            sender,
            (),
            root,
            trace_context and context.traceparent,
            run,
            envelope[14],
        )
        brought = payload_of(published) if payload is None else payload
        letters = host.dead_letters if run is None and root is None else None
        here, channel = host.link, host.channel
        for link, together in channel.ways(targets, MAX_COPIES):
            if link is not here:
                message = EventMessage(
                    together, published, brought, scope, answers=own, letters=letters, under=under
                )
                message.origin = _new(Origin, about)
                scope.sent(message)
                channel.post(message)
                continue
            name, now = type(published).event_type, host.now()
            for target in together:
                fields = (next(here.numbers), _EVENT, *target, name, brought, None, *about)
                event = LocalEvent(
                    _new(Envelope, fields), here, now, published, scope, under, own, letters
                )
                host.take_in(target, event)

    def _recipients(self, event: Event, sender: AgentId | None) -> Recipients:
        """Return who gets an event, by this host's snapshot: by one of them, as a whole."""
        snapshot = self._host.channel.snapshot
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._routes = Routes(snapshot.subscriptions, read_function)
        return self._routes.recipients(event, sender)


def _only(agent: AgentId) -> Recipients:
    return Recipients([agent], [])


@lru_cache(maxsize=4096)
def read_function(pickled: bytes) -> Callable[[Any], Any]:
    """Return a function that was given to `@on`, the same each time.

    Raises:
        PayloadError: it cannot be read in this process.
    """
    return decode(pickled)


def _fail(event: Event, misrouted: Misrouted, context: Context) -> None:
    """Let an error of one recipient's `where` or `key` be one of this branch of the run."""
    name, agent_type, error = event.event_type, misrouted.agent_type, misrouted.error
    logger.error(
        "%s was not routed to %s",
        name,
        agent_type,
        exc_info=error,
        extra={
            "action": "routing_failed",
            "agent": str(context.agent),
            "correlation_id": event.correlation_id,
        },
    )
    path = (f"{name.rpartition('.')[2]} to {agent_type}",)
    failure = Failure(type(error).__name__, text_of(error), agent_type, path)
    scope_of(context).absorb(Outcome(errors=(failure,)))
