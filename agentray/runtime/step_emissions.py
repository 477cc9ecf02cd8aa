"""What one message of a run that is durable per step emits, until it is committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_json

from agentray.context import Context, HeldMessage
from agentray.events import Event, TerminateEvent
from agentray.ids import AgentId, slot_of
from agentray.protocol.budgets import Usage
from agentray.protocol.codec import as_json
from agentray.protocol.envelope import Kind, Outcome, Reply
from agentray.protocol.event_runs import FOREIGN_STEP, STEP_EVENTS, STEP_LIVE
from agentray.protocol.runs import EventKind, RunError
from agentray.runtime.message import Message, Origin
from agentray.runtime.run_log import EVENT, as_recorded
from agentray.runtime.scope import scope_of
from agentray.runtime.trace_writer import SPAN_FIELDS
from agentray.store.steps import KeptMessage, NewMessage, NewRunEvent

if TYPE_CHECKING:
    from agentray.runtime.host import Host

MAX_PATH = 8
"""Causes of a message, the nearest ones, that errors name."""

_STEP = int(Kind.STEP)
_SEPARATOR = "\x1f"


class Emitted(NamedTuple):
    """An event for one agent, not committed yet."""

    target: AgentId
    event: Event
    origin: Origin


class Emissions:
    """What a message emits; it leaves when it is committed.

    Attributes:
        path: what led to the message, the message itself last.
        message: the message itself; None: it is none, but the beginning of a run, or a call.
        messages: events for agents, in order.
        settles: messages that are done with this one.
        holds: this message is done later.
        closed: a `TerminateEvent` was published: it is the last event.
        end_grace_s: of that.
        root: whose host works on the run.
        tell_spent: is called with what the message has used by now, whenever that is more.
    """

    __slots__ = (
        "_about",
        "_json",
        "closed",
        "end_grace_s",
        "events",
        "holds",
        "message",
        "messages",
        "new",
        "path",
        "root",
        "settles",
        "tell_spent",
    )

    def __init__(self, path: tuple[str, ...] = (), message: HeldMessage | None = None) -> None:
        self.path = path
        self.message = message
        self.messages: list[Emitted] = []
        self.new: list[NewMessage] = []  # the same, as they are kept
        self.events: list[NewRunEvent] = []  # of the run
        self.settles: list[int] = []
        self.holds = False
        self.closed = False
        self.end_grace_s: float | None = None
        self.root: AgentId | None = None
        self.tell_spent: Callable[[Emissions, Usage], None] | None = None
        self._json: tuple[Event | None, str] = (None, "")
        self._about: tuple[Origin | None, str] = (None, "")

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.new or self.events or self.closed)

    def add(self, target: AgentId, event: Event, origin: Origin) -> None:
        """Add an event for an agent.

        Raises:
            PayloadError: it has no JSON form.
        """
        if self._json[0] is not event:
            self._json = (event, event.to_json_text())
        if origin != self._about[0]:  # most often it is that of the event before
            self._about = (origin, _about(origin, self.path))
        new = NewMessage(target, slot_of(target), self._json[1], self._about[1])
        self.new.append(new)
        self.messages.append(Emitted(target, event, origin))

    def answered(self, outcome: Outcome) -> tuple[Any, float | None] | None:
        """Return the result of the run that this message has told, and what may still end."""
        if not self.closed or outcome.answer is None:
            return None
        return outcome.answer[0], self.end_grace_s

    def settle(self, held: Iterable[HeldMessage | None]) -> None:
        """Let other messages of the run be done with this one."""
        its_own = self.message
        self.holds = False
        self.settles += [
            other.number
            for other in held
            if other is not None
            and its_own is not None
            and other.run_id == its_own.run_id
            and other.number != its_own.number
        ]

    def record(self, event: Event) -> None:
        """Add a published event to those that are kept of the run."""
        self.events.append(NewRunEvent(EVENT, datetime.now(UTC), as_recorded(event)))


def _about(origin: Origin, path: tuple[str, ...]) -> str:
    """Return what travels with a message, for `read_about`."""
    sender, cause_id, trace_context = origin.sender, origin.cause_id, origin.trace_context
    about = [sender, cause_id, trace_context, origin.run, path, origin.root]
    return to_json(about if origin.access is None else [*about, origin.access]).decode()


class StepPost(Message):
    """Brings a message that is kept to its agent's host, once. Nobody sends it again.

    Should it be lost on the way, the host finds the message in the Store.
    """

    __slots__ = ()

    def __init__(
        self, emitted: Emitted, number: int, path: tuple[str, ...], event: Event | bytes | str
    ) -> None:
        """Make one.

        Args:
            emitted: what it brings.
            number: of the message.
            path: what led to it.
            event: see `event_payloads.payload_of`; or its JSON where its class is sure to be known
                there: pickled and read back, it takes ten times as long.
        """
        name = f"{number}|{emitted.event.event_type}|{_SEPARATOR.join(path)}"
        super().__init__(_STEP, emitted.target, name, event)
        self.origin = emitted.origin

    def envelope(self, now: float) -> tuple[Any, ...]:
        """Return its fields; from now on it is dropped where it would be sent again."""
        self.closed = True
        return super().envelope(now)

    def on_value(self, payload: Any) -> None:
        """Its host has it."""

    def on_reply(self, reply: Reply) -> None:
        """Its host could not take it: it is in the Store."""


def read_name(name: str) -> tuple[int, str, tuple[str, ...]]:
    """Return number, event type and path of what a `StepPost` brings."""
    number, event_type, path = name.split("|", 2)
    return int(number), event_type, tuple(path.split(_SEPARATOR)) if path else ()


class KeptAbout(NamedTuple):
    """What travels with a message, read."""

    sender: AgentId | None
    cause_id: str | None
    trace_context: str | None
    run: str
    path: tuple[str, ...]
    root: AgentId | None
    access: str | None


def read_about(message: KeptMessage) -> KeptAbout:
    """Read what travels with a message that was kept."""
    sender, cause_id, trace_context, run, path, root, *access = json.loads(message.about)
    who = None if sender is None else AgentId(*sender)
    whose = None if root is None else AgentId(*root)
    level = access[0] if access else None
    return KeptAbout(who, cause_id, trace_context, run, tuple(path), whose, level)


def read_kept(message: KeptMessage) -> Event:
    """Return the event of a message that was kept.

    Raises:
        UnknownEventType, PayloadError: it cannot be read in this process.
    """
    return Event.from_json(message.event)


def errors_of(outcome: Outcome, path: tuple[str, ...]) -> tuple[RunError, ...]:
    """Return the errors of a message as those of its run."""
    errors = tuple(
        RunError(type=e.type, message=e.message, agent=e.agent or None, path=_joined(path, e.path))
        for e in outcome.errors
    )
    if outcome.more_errors:
        text = f"{outcome.more_errors} more errors are not listed."
        errors += (RunError(type="MoreErrors", message=text),)
    return errors


def events_of(key: str, emissions: Emissions, outcome: Outcome) -> list[NewRunEvent]:
    """Return the events of a run that a message leads to: in a traced run also what was handled.

    Args:
        key: of the run.
        emissions: of the message.
        outcome: what it came to.
    """
    if key[:1] != STEP_LIVE:
        return emissions.events
    now = datetime.now(UTC)
    told = [as_json(dict(zip(SPAN_FIELDS, span, strict=True)), "span") for span in outcome.spans]
    return [*emissions.events, *(NewRunEvent(EventKind.SPAN, now, span) for span in told)]


def _joined(path: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path of an error: what led to the message, and where in it the error was."""
    if path and more and more[0] == path[-1]:
        more = more[1:]
    return path if more == path else path + more


def longer(path: Sequence[str], event_type: str, agent: AgentId) -> tuple[str, ...]:
    """Return the path of what a message causes."""
    step = f"{event_type.rpartition('.')[2]} at {agent}"
    return (*path[-MAX_PATH + 1 :], step)


def emissions_of(context: Context) -> Emissions:
    """Return what the message that is being handled emits, in a run that is durable per step."""
    scope = scope_of(context)
    if scope.step is None:  # an action that a handler of the run has called
        scope.step = Emissions((f"{context.agent}",))
    return scope.step


def emit(
    host: Host,
    published: Event,
    context: Context,
    sender: AgentId | None,
    targets: Sequence[AgentId],
    answer: Any,
) -> None:
    """Take an event of a run for its recipients; it leaves with the commit of its message.

    Args:
        host: of the agent that publishes.
        published: the event.
        context: of the message that is being handled.
        sender: the agent; None: it is the run's root event.
        targets: who gets it.
        answer: of a `TerminateEvent` of the run itself.

    Raises:
        PayloadError: it has no JSON form.
    """
    scope = scope_of(context)
    emissions = emissions_of(context)
    key = context.run or ""
    own = published.correlation_id == context.correlation_id
    if emissions.closed:
        host.parts.undelivered += 1
        return
    origin = Origin(
        published.correlation_id,
        context.cause_id,
        sender,
        (),
        context.root,
        context.traceparent,
        key if own else FOREIGN_STEP + key[1:],
        context.access,
    )
    for target in targets:
        emissions.add(target, published, origin)
    if own and key[0] == STEP_EVENTS:
        emissions.record(published)
    if own and key[0] != FOREIGN_STEP and isinstance(published, TerminateEvent):
        scope.answer(answer)
        emissions.closed = True
        emissions.end_grace_s = published.end_grace_s
