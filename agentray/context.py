"""The context of the message that an agent is handling."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar, Unpack

from agentray import telemetry
from agentray.errors import AccessDenied, ConfigurationError
from agentray.event_payloads import snapshot_of
from agentray.event_run import DispatchOptions, EventRun
from agentray.events import Event, TerminateEvent, check_event
from agentray.ids import AgentId, TopicId, child_of, new_id
from agentray.protocol.access import AccessLevel, allows
from agentray.protocol.budgets import Usage
from agentray.protocol.codec import as_json_text
from agentray.protocol.envelope import NO_MESSAGE, Envelope
from agentray.protocol.event_runs import RunKey
from agentray.protocol.runs import EventKind
from agentray.protocol.unchangeable import is_plain_class, is_unchangeable_model

R = TypeVar("R")


_MAX_CLASSES = 4096
_usual: set[type[Event]] = set()
"""Classes of events that nobody can change, and that say nothing of their run when they leave."""


def _note_usual(cls: type[Event]) -> None:
    """Note a class whose events need no look when they are published, if it is one."""
    if is_plain_class(cls):
        if len(_usual) >= _MAX_CLASSES:
            _usual.clear()  # of notebooks, where classes are made anew
        _usual.add(cls)


class HeldMessage(NamedTuple):
    """A message of a run that is durable per step, which a handler has held.

    Attributes:
        run_id: of the run.
        number: of the message in it.
    """

    run_id: str
    number: int


class Caller(Protocol):
    """Sends messages to agents. A `Channel` does it over the wire, tests in one process."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to."""
        ...

    async def call(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> Any:
        """Run an action and return its value; `timeout` in seconds, None: wait for ever."""
        ...

    async def tell(
        self, target: AgentId, action: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run an action; return as soon as it is queued at the agent."""
        ...

    def streams(self, target: AgentId, action: str) -> bool | None:
        """Return whether an action yields; None: its agent type is not known here (yet)."""
        ...

    def stream(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> AsyncIterator[Any]:
        """Run an action that yields; `timeout` is the longest wait for the next value."""
        ...

    async def ping(self, target: AgentId, *, timeout: float) -> float:
        """Return the seconds of a round trip to the agent's host."""
        ...

    async def inspect(self, target: AgentId, what: str, *, timeout: float) -> dict[str, Any]:
        """Ask the agent's host about it: its `status`, or to `describe` it."""
        ...

    async def request(
        self, kind: int, target: AgentId, name: str, payload: Any, *, timeout: float | None
    ) -> Any:
        """Send a message of any kind to the agent's host and return its reply."""
        ...


class Surroundings(Protocol):
    """What a handler's host does for it."""

    def publish(self, event: Event, context: Context) -> Event:
        """Send an event to its subscribers; return it as it went out."""
        ...

    async def dispatch(
        self, event: Event, context: Context, **options: Unpack[DispatchOptions]
    ) -> EventRun:
        """Begin a run for an agent."""
        ...

    def progress(self, context: Context, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to the run that the context belongs to."""
        ...

    def say(self, context: Context, text: str) -> None:
        """Add a piece of text to the run that the context belongs to."""
        ...

    def spend(self, context: Context, spent: Usage) -> None:
        """Count what a handler has used against the budget of its run."""
        ...

    def turn(self, context: Context) -> AbstractAsyncContextManager[None]:
        """Return a turn for the loop that the context belongs to."""
        ...

    async def run_sync(self, function: Callable[[], R]) -> R:
        """Run blocking code in one of the host's threads."""
        ...

    def ends(self, agent: AgentId) -> bool:
        """Whether an agent is shut down, or has failed: it does not only leave memory."""
        ...

    def run_async(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the host's event loop, for a thread that waits for it."""
        ...


class Context:
    """What is known of the message under way: `self.context` in an agent.

    Attributes:
        agent: the agent that handles it.
        deadline: when the caller gives up, in seconds of the event loop's clock; None: never.
        cause_id: this message's id in the trace; what it causes names it as cause. None outside
            of runs.
        event: the event that is being handled; None for anything else.
        envelope: the message as it came; its fields are read where somebody asks for them, since
            most handlers ask for none.
    """

    __slots__ = (
        "agent",
        "cause_id",
        "deadline",
        "envelope",
        "event",
        "held",
        "local",
        "scope",
        "surroundings",
    )

    listens = False
    """Whether `sent` is called; a class says so for all of its contexts."""

    def __init__(
        self,
        agent: AgentId,
        surroundings: Surroundings,
        envelope: Envelope = NO_MESSAGE,
        deadline: float | None = None,
        cause_id: str | None = None,
    ) -> None:
        self.agent = agent
        self.surroundings = surroundings
        self.deadline = deadline
        self.cause_id = cause_id
        self.event: Event | None = None
        self.scope: Any = None  # what the handler emitted; owned by the host
        self.held: list[Event] | None = None  # until the handler has succeeded; None: it goes out
        # The event of its own host that is handled, where the scope that sent it shall hear of
        # what this handler sends, too; owned by the host.
        self.local: Any = None
        self.envelope = envelope

    @property
    def sender(self) -> AgentId | None:
        """The agent that sent it; None from outside."""
        return self.envelope.sender

    @property
    def correlation_id(self) -> str | None:
        """The conversation it belongs to; None outside of one."""
        return self.envelope.correlation_id

    def conversation(self) -> str:
        """Return the conversation it belongs to, which begins now where there was none."""
        known = self.envelope.correlation_id
        if known is None:
            known = new_id("cor")
            # All that the message sets off from here on belongs together, calls too.
            self.envelope = self.envelope._replace(correlation_id=known)
        return known

    @property
    def topic(self) -> TopicId | None:
        """The topic of the event that is being handled; None: it has none, or it is no event."""
        topic = self.event.topic if self.event else None
        return None if topic is None else TopicId.parse(topic)

    @property
    def root(self) -> AgentId | None:
        """The agent that the run was given to; None outside of runs."""
        return self.envelope.root

    @property
    def run(self) -> str | None:
        """The run that it belongs to, as the host knows it; None outside of runs."""
        return self.envelope.run

    @property
    def access(self) -> AccessLevel | None:
        """What tools may touch that work on this message; None: everything.

        It is that of the session whose prompt has led to it, when that was accepted.
        """
        level = self.envelope.access
        return None if level is None else AccessLevel(level)

    def require_access(self, needed: AccessLevel | str, what: str = "") -> None:
        """Refuse to go on where the run may not touch so much.

        Args:
            needed: `public`, `read` or `write`.
            what: wants to touch it, for the error.

        Raises:
            AccessDenied: the run has a lower level.
        """
        given = self.envelope.access
        if not allows(given, needed):
            raise AccessDenied(what or str(self.agent), AccessLevel(needed).value, given or "")

    @property
    def idempotency_id(self) -> str | None:
        """What a handler of an event can pass on, so that who gets it twice does it once.

        In a run that is durable per step: the same each time that this message is handled,
        whatever died, and different for every other message. In other runs: the same in each
        attempt for the run's prompt, and for the event that was dispatched; for all that these set
        off, it is different for every message, and new in each attempt. Outside of runs, the
        event's id. Several agents that get the same event have different ones. None where no event
        is being handled.
        """
        step = getattr(self.scope, "step", None)
        if step is not None and step.message is not None:
            return f"{step.message.run_id}:{step.message.number}"
        if self.event is None:
            return None
        run = self.envelope.run
        first = run is not None and self.event.causation_id is None
        return f"{RunKey.parse(run).run_id if run and first else self.event.event_id}:{self.agent}"

    def hold(self) -> HeldMessage | None:
        """Keep the event that is being handled until a later one settles it.

        For agents that gather events in memory, in runs that are durable per step: what is held is
        handled again when its host dies. When nothing but held events is left of a run, it ends.

        Returns:
            What `settle` takes; None: the run is not durable per step, nothing is to be done.
        """
        step = getattr(self.scope, "step", None)
        if step is None or step.message is None:
            return None
        step.holds = True
        return step.message

    def settle(self, held: Iterable[HeldMessage | None]) -> None:
        """Let held events be done together with the one that is being handled, in one transaction.

        Args:
            held: what `hold` returned; what is not of this run is left alone.
        """
        step = getattr(self.scope, "step", None)
        if step is not None and step.message is not None:
            step.settle(held)

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context for what this handler calls, as the header `traceparent` has it.

        Each message of a run has one, other messages when their sender had one. None: there is no
        trace to belong to.
        """
        given = self.envelope.trace_context
        if given is None or self.cause_id is None:
            return given
        # With OpenTelemetry, a span that the handler itself has begun. What is published behind a
        # hook that waits leaves when the handler has ended: then it is the handler's own.
        own = telemetry.current_traceparent() if current.get() is self else None
        return own or child_of(given, self.cause_id)

    def inherited(self) -> tuple[Any, ...]:
        """Return what messages of this handler inherit, in the order of `message.Origin`'s fields.

        In one go: each call between agents needs all of it.
        """
        envelope = self.envelope
        return (
            envelope.correlation_id,
            self.cause_id,
            self.agent,
            self.chain,
            envelope.root,
            None if envelope.trace_context is None else self.traceparent,
            envelope.run,
            envelope.access,
        )

    def join_trace(self, span_id: str, traceparent: str) -> None:
        """Let a span stand for this message, and be the cause of what it causes."""
        self.cause_id = span_id
        self.envelope = self.envelope._replace(trace_context=traceparent)

    @property
    def chain(self) -> tuple[AgentId, ...]:
        """The agents whose turns wait for this message, this one last."""
        return (*self.envelope.chain, self.agent)

    def sent(self, message: Any) -> None:
        """Hear of a message whose answer somebody waits for; nothing is done about it here."""

    def publish(
        self, event: Event, *, topic: TopicId | str | None = None, at_once: bool = False
    ) -> None:
        """Send an event to every agent that subscribes to its type or topic.

        It leaves when the handler has succeeded and its state is committed, with what the handler
        returns behind it; of a handler that raises or is cancelled nothing leaves. Of one that
        yields all leaves at once, and so does what a loop publishes outside of its turns.

        It inherits this message's correlation; where there was none, one begins, the same for all
        that the message publishes. What subscribers do with it belongs to the run: the run ends
        when they are done. Returning the event from the handler does the same.

        Args:
            event: what happened.
            topic: that it is about: a `TopicId`, or its text, `orders/eu` or `orders`. None: the
                event's own, if it was made with one.
            at_once: it leaves now, whatever becomes of the handler.

        Raises:
            ConfigurationError: the topic is malformed.
            PayloadError: it is no event; a field cannot be serialised, which it names; or it is a
                `TerminateEvent` whose fields have no JSON form.
        """
        held = None if at_once else self.held
        known = topic is None and held is not None and self.envelope.correlation_id is not None
        if known and held is not None and type(event) in _usual:
            held.append(event)
            return
        told = event if topic is None else event.on_topic(topic)
        terminates = isinstance(told, TerminateEvent)
        if terminates:
            told = self.caused(told)  # what it says of its run is looked at once, as it leaves
        if held is not None and (terminates or not isinstance(told, Event)):
            check_event(told)
        if not is_unchangeable_model(told):
            told = snapshot_of(self.caused(told))  # with all that it leaves with: encoded once
        if held is None:
            self.surroundings.publish(told, self)
        else:
            if self.envelope.correlation_id is None:
                self.conversation()  # begins with the first event, where there was none
            held.append(told)
            if not terminates:
                _note_usual(type(told))

    def caused(self, event: Event) -> Event:
        """Return an event as it goes out: with its correlation, cause and source."""
        cause = self.event
        return event.caused_by(
            correlation_id=self.envelope.correlation_id or self.conversation(),
            causation_id=None if cause is None else cause.__dict__["event_id"],
            source=str(self.agent),
        )

    def release(self) -> None:
        """Let what was held leave, and what comes from here on."""
        held, self.held = self.held, None
        if held:
            publish = self.surroundings.publish
            for event in held:
                publish(event, self)

    def progress(
        self, message: str, *, current: float | None = None, total: float | None = None
    ) -> None:
        """Tell those who watch the run how far it is. Outside of a run it does nothing."""
        data = {"message": message, "current": current, "total": total}
        self.surroundings.progress(self, "progress", data)

    def stream_text(self, text: str) -> None:
        """Show those who follow the run a piece of text, as soon as it is there.

        Pieces that come within a few milliseconds are shown as one `text_delta`. They are a
        preview: the run's result is what the handler returns. Outside of a run it does nothing.

        Args:
            text: what is more than was said before.
        """
        self.surroundings.say(self, text)

    def tool_call(self, name: str, arguments: Any, *, call_id: str | None = None) -> str:
        """Show those who follow the run that a tool is called; say what came of it, too.

        Args:
            name: of the tool.
            arguments: JSON values; a long text is cut.
            call_id: unique in the run; None: a new one.

        Returns:
            The call's id, for `tool_result`.

        Raises:
            PayloadError: the arguments are not JSON.
        """
        call_id = call_id or new_id("call")
        told = {"id": call_id, "name": name, "arguments": _cut(arguments)}
        self.surroundings.progress(self, EventKind.TOOL_CALL, told | {"agent": str(self.agent)})
        return call_id

    def tool_result(
        self, call_id: str, name: str, result: Any = None, *, error: str | None = None
    ) -> None:
        """Show those who follow the run what a tool call came to.

        Args:
            call_id: what `tool_call` returned.
            name: of the tool.
            result: JSON values; a long text is cut.
            error: why there is no result.

        Raises:
            PayloadError: the result is not JSON.
        """
        came_to = {"result": _cut(result)} if error is None else {"error": _cut(error)}
        told = {"id": call_id, "name": name, **came_to, "agent": str(self.agent)}
        self.surroundings.progress(self, EventKind.TOOL_RESULT, told)

    def spend(self, *, tokens: int = 0, tool_calls: int = 0, cost: float = 0.0) -> None:
        """Count what this handler has used against the budget of its run; outside of one, nothing.

        A run that exceeds its budget is cancelled, this handler with it, and ends as
        `budget_exceeded`.

        Args:
            tokens: of language models.
            tool_calls: of tools.
            cost: in the currency of the budget.

        Raises:
            ConfigurationError: one of them is negative, or no number.
        """
        if not (tokens >= 0 and tool_calls >= 0 and 0 <= cost < math.inf):
            raise ConfigurationError(
                f"What is spent is not negative: tokens={tokens}, tool_calls={tool_calls}, "
                f"cost={cost}."
            )
        spent = Usage(tokens=tokens, tool_calls=tool_calls, cost=cost)
        self.surroundings.spend(self, spent)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds the agent and the correlation id to each record."""
        extra = {"agent": str(self.agent), "correlation_id": self.correlation_id}
        return _AgentLog(logging.getLogger(f"agentray.agents.{self.agent.type}"), extra)


MAX_TOLD = 16_384
"""Characters of a tool's arguments, and of its result, as those see them who follow the run."""


def _cut(value: Any) -> Any:
    """Return what is told of arguments or a result; what is too long is cut, as a text."""
    text = value if isinstance(value, str) else as_json_text(value, "tool call")
    if len(text) <= MAX_TOLD:
        return value
    return f"{text[:MAX_TOLD]}… ({len(text)} characters)"


class _AgentLog(logging.LoggerAdapter[logging.Logger]):
    """Adds its fields to those of a record; Python 3.11's own drops the record's."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(self.extra or {}), **(kwargs.get("extra") or {})}}


class LoopContext(Context):
    """The context of an agent's loop, outside of turns: nobody's turn waits for what it calls."""

    __slots__ = ()

    def conversation(self) -> str:
        """Return a new conversation: a loop lives as long as its agent, its events do not."""
        return new_id("cor")

    @property
    def chain(self) -> tuple[AgentId, ...]:
        """Empty: a call to the agent itself takes a turn, as everybody else's does."""
        return ()


current: ContextVar[Context | None] = ContextVar("agentray_context", default=None)
"""The context of the running handler. Handles read it, so that calls inherit what they must."""


class _Process:
    """The callers of this process, for handles that came out of a pickle."""

    def __init__(self) -> None:
        self.bound: list[Caller] = []  # the last one is used
        self.otherwise: Callable[[], Caller | None] | None = None


_process = _Process()


def bind_process(caller: Caller) -> None:
    """Make unpickled handles of this process send through `caller`, until it is released."""
    _process.bound.append(caller)


def release_process(caller: Caller) -> None:
    """Take a caller back; the one that was bound before it is used again, if there is one."""
    _process.bound[:] = [bound for bound in _process.bound if bound is not caller]


def connect_unbound_by(connect: Callable[[], Caller | None]) -> None:
    """Ask `connect` for a caller where none is bound; it returns None where there shall be none."""
    _process.otherwise = connect


def process_caller() -> Caller:
    """Return the caller of this process.

    Raises:
        ConfigurationError: nothing is connected here.
    """
    bound = _process.bound
    while bound and bound[-1].loop.is_closed():  # it ended without releasing it
        bound.pop()
    if bound:
        return bound[-1]
    caller = None if _process.otherwise is None else _process.otherwise()
    if caller is None:
        raise ConfigurationError(
            "This handle is not connected: use it inside of `async with agentray.connect() as "
            "manager`; in scripts and notebooks, `with agentray.connect() as manager` and "
            "handle.sync. Only in Ray tasks and actors it connects by itself."
        )
    return caller
