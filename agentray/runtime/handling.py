"""Handling one message: the user's method is called, its effects committed, its sender answered.

An incarnation decides when; this module does it. Whatever the method does, raising, yielding or
being cancelled, the sender hears of it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable
from contextlib import aclosing, closing
from datetime import UTC, datetime
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from agentray import context as contexts
from agentray.agent import ActionSpec, EventHandler
from agentray.context import Context
from agentray.core.output_schemas import check_output
from agentray.errors import (
    AgentMoved,
    ConfigurationError,
    DeadlineExceeded,
    Fenced,
    NoHandler,
    PayloadError,
    UnknownAction,
)
from agentray.events import Answered, Event, Prompt, Request
from agentray.ids import new_span_id
from agentray.protocol.buffers import encode_result
from agentray.protocol.codec import (
    NO_ARGUMENTS,
    PLAIN,
    as_json,
    decode,
    encode_error,
    goes_as_it_is,
    text_of,
)
from agentray.protocol.envelope import Envelope, Failure, Kind, Large, ReplyKind, Shared
from agentray.protocol.event_runs import STEPS, Recording
from agentray.runtime import passage
from agentray.runtime.dead_letters import read_payload
from agentray.runtime.own_turn import OWN, Unheard
from agentray.runtime.scope import Scope, scope_of
from agentray.runtime.sending_on import send_on
from agentray.runtime.spans import begin_process
from agentray.runtime.streams import PartWriter
from agentray.runtime.tasks import being_cancelled
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.active_run import ActiveRun
    from agentray.runtime.incarnation import Incarnation
    from agentray.runtime.step_turn import StepTurn

# Members of an enum are looked up through its class, which shows at this rate.
_TELL, _EVENT, _STREAM = int(Kind.TELL), int(Kind.EVENT), int(Kind.STREAM)
_VALUE = int(ReplyKind.VALUE)
_LIVE = Recording.LIVE.value


async def handle(agent: Incarnation, turn: Turn, reentrant: bool = False) -> None:
    """Handle a message that it is the agent's turn for, or whose caller has the turn.

    Raises:
        CancelledError: the task was cancelled for another reason than this message's cancellation.
    """
    envelope, host = turn.envelope, agent.host
    context = Context(agent.id, host, envelope, turn.deadline)
    if turn.answers:
        context.local = turn
    started: datetime | None = None
    if envelope.root is not None:
        context.cause_id = new_span_id()
        started = datetime.now(UTC)
    meters = host.meters
    begun = 0.0 if meters is None else perf_counter()
    span = None
    if host.spans is not None and envelope.kind:  # an agent's own turns are nobody's message
        span = begin_process(host.spans, envelope, context, host.host_id)
    token = contexts.current.set(context)
    error: BaseException | None = None
    try:
        if reentrant:
            agent.take_savepoint(turn)
        await _BY_KIND[envelope.kind](agent, turn, context, started)
        agent.stats.completed += 1
    except BaseException as raised:  # noqa: BLE001 - an exit of user's code is not the host's
        error = raised
    finally:
        contexts.current.reset(token)
        context.local = None  # what keeps the context, such as a timer, does not keep the run
        failed = error if error is not None and is_failure(turn, error) else None
        if meters is not None:
            meters[envelope.type].handled(envelope.kind, perf_counter() - begun, failed)
        if span is not None:
            span.end(failed)
    if error is not None and not ended_with(agent, turn, context, started, error):
        raise error


def is_failure(turn: Turn, error: BaseException) -> bool:
    """Whether a handler failed; it did not where it was cancelled, or its agent lives elsewhere."""
    if isinstance(error, asyncio.CancelledError):
        return not turn.cancelled and not being_cancelled()
    return not isinstance(error, Fenced)


def ended_with(
    agent: Incarnation,
    turn: Turn,
    context: Context,
    started: datetime | None,
    error: BaseException,
) -> bool:
    """Answer for a handler that ended with an error; False: its whole task was cancelled."""
    if is_failure(turn, error):
        agent.stats.error(error)
        agent.restore_state(turn)
        _failed(agent, turn, context, started, error)
    elif isinstance(error, Fenced):
        # Nothing was written: the agent lives elsewhere, the sender shall ask there.
        agent.host.residents.let_go(agent)
        send_on((turn,), agent.host.channel)
    else:
        return _cancelled(agent, turn, context, started)
    return True


def _cancelled(agent: Incarnation, turn: Turn, context: Context, started: datetime | None) -> bool:
    """Answer for a handler that was cancelled; False: the whole task was, not its message."""
    agent.restore_state(turn)
    if turn.cancelled:
        # The message was given up, not this task: it goes on with the next one.
        cast("asyncio.Task[Any]", asyncio.current_task()).uncancel()
        if started is not None:
            _trace(agent, turn, context, started, "cancelled")
        # What it had set off is given up with it.
        scope_of(context).abandon(agent.host.channel, turn.given_up)
        return True
    spec = agent.type.actions.get(turn.envelope.name)
    if agent.refusal is not None:
        turn.fail(agent.refusal)  # it was shut down, and this took longer than the grace
    elif turn.envelope.kind == _EVENT or (spec is not None and spec.idempotent):
        send_on((turn,), agent.host.channel)  # its next host does it again
    else:
        reason = "the agent had to leave its host"
        turn.fail(AgentMoved(str(agent.id), reason, agent.host.host_id))
    return False


def _check_call(agent: Incarnation, name: str, spec: ActionSpec | None, context: Context) -> None:
    """Let a call through that may be made.

    Raises:
        UnknownAction, ConfigurationError: there is no such action, or it yields.
        AccessDenied: the run may not touch what it does.
    """
    if spec is None or spec.streams:
        raise _not_called(agent, name, spec)
    if spec.access is not None:
        context.require_access(spec.access, f"{agent.id}.{name}")


def _not_called(agent: Incarnation, name: str, spec: ActionSpec | None) -> Exception:
    if spec is None:
        return UnknownAction(str(agent.id), name, tuple(sorted(agent.type.actions)))
    return ConfigurationError(
        f"{agent.id}.{name} yields its values: read them with `async for value in "
        f"handle.{name}(...)`, or with `handle.stream`."
    )


# Calls


async def _handle_call(
    agent: Incarnation, turn: Turn, context: Context, started: datetime | None
) -> None:
    name, payload = turn.envelope.name, turn.envelope.payload
    spec = agent.type.actions.get(name)
    if spec is None or spec.streams or spec.access is not None:
        _check_call(agent, name, spec, context)
    method = getattr(agent.agent, name)
    context.held = _held(context)
    if agent.type.hooks is not None:
        value: Any = passage.call(agent, turn, agent.type.hooks)
    elif type(payload) is tuple:
        value = method(*cast("tuple[Any, ...]", payload))  # from this very process
    elif payload == NO_ARGUMENTS:
        value = method()
    else:
        args, kwargs = decode(payload)
        value = method(*args, **kwargs)
    # The exact type first: the general test takes as long as a short handler.
    if type(value) is CoroutineType or inspect.isawaitable(value):
        value = cast("object", await value)
    result = _as_sent(agent, turn, value)
    if agent.type.keeps_state or context.scope is not None:
        await _commit(agent, turn, context)
    if context.held:
        release(turn, context)
    if turn.envelope.kind == _TELL:
        turn.drop()  # it was answered when it was queued
    elif started is not None or context.scope is not None:
        _reply_from_run(agent, turn, context, started, result)
    else:
        turn.reply(_VALUE, result)


async def _commit(agent: Incarnation, turn: Turn, context: Context) -> None:
    """Commit what an action did: its state, and what it emitted in a run durable per step."""
    scope = cast("Scope | None", context.scope)
    if scope is not None and scope.step is not None:
        await agent.host.steps.commit_call(agent, turn, scope)
    elif agent.type.keeps_state:
        if turn.cancelled:
            await asyncio.sleep(0)  # as for events
        await agent.commit_state(turn)


def _as_sent(agent: Incarnation, turn: Turn, value: Any) -> Any:
    """Return a result as it travels."""
    if goes_as_it_is(value) or (turn.sink is agent.host.link and type(value) in PLAIN):
        return value
    return encode_result(value, turn.envelope.name)


def _reply_from_run(
    agent: Incarnation, turn: Turn, context: Context, started: datetime | None, result: Any
) -> None:
    """Answer a call that belongs to a run, or that set something off."""
    if started is not None:
        _trace(agent, turn, context, started, None)
    scope = cast("Scope | None", context.scope)
    if scope is None:
        turn.reply(_VALUE, result)
    elif scope.idle:
        turn.reply(_VALUE, result, scope.outcome())
    else:
        turn.ends_with(scope, lambda outcome: turn.reply(ReplyKind.SETTLED, None, outcome))
        turn.reply(ReplyKind.OPEN, result)


async def _handle_tell(
    agent: Incarnation, turn: Turn, context: Context, started: datetime | None
) -> None:
    """Run an action that nobody waits for; too late, it becomes a dead letter."""
    if turn.deadline is not None and turn.deadline < agent.host.now():
        turn.fail(DeadlineExceeded(f"{agent.id}.{turn.envelope.name}"))
    else:
        await _handle_call(agent, turn, context, started)


async def _handle_own(
    agent: Incarnation, turn: Turn, context: Context, started: datetime | None
) -> None:
    """Let the agent have its turn: a tick of a timer, what a loop does, `on_idle`."""
    del started  # it belongs to no run
    context.scope = Unheard(agent.id)
    context.held = []
    await turn.envelope.payload()
    await agent.commit_state(turn)
    context.release()
    turn.reply(_VALUE)


# Streams


async def _handle_stream(
    agent: Incarnation, turn: Turn, context: Context, started: datetime | None
) -> None:
    envelope = turn.envelope
    spec = agent.type.actions.get(envelope.name)
    if spec is None:
        raise _not_called(agent, envelope.name, spec)
    if not spec.streams:
        raise ConfigurationError(
            f"{agent.id}.{envelope.name} yields nothing: await it, or call it with `handle.call`."
        )
    if spec.access is not None:
        context.require_access(spec.access, f"{agent.id}.{envelope.name}")
    hooks = agent.type.hooks
    writer = turn.writer = PartWriter(turn)
    error: bytes | None = None
    try:
        if hooks is None:
            args, kwargs = decode(envelope.payload)
            values = getattr(agent.agent, envelope.name)(*args, **kwargs)
        else:
            values = passage.stream(agent, turn, hooks)
        await _write_all(values, writer)
        parts = writer.finish()
        if agent.type.keeps_state or context.scope is not None:
            await _commit(agent, turn, context)
    except Exception as raised:
        parts = writer.end()
        if isinstance(raised, Fenced) or not parts:
            raise  # nothing has been handed out: an error like that of a call
        # What was yielded before it is read before it.
        agent.restore_state(turn)
        error = encode_error(raised)
    if started is not None:
        _trace(agent, turn, context, started, None if error is None else "failed")
    end = (parts, error)
    scope = cast("Scope | None", context.scope)
    if scope is None or scope.idle:
        turn.reply(_VALUE, end, scope and scope.outcome())
    else:
        turn.ends_with(scope, lambda outcome: turn.reply(_VALUE, end, outcome))


async def _write_all(values: Any, writer: PartWriter) -> None:
    if inspect.isasyncgen(values):
        async with aclosing(cast("AsyncGenerator[Any]", values)) as items:
            async for item in items:
                if not writer.put(item):
                    await writer.until_room()
        return
    with closing(cast("Generator[Any]", values)) as items:
        for item in items:
            if not writer.put(item):
                await writer.until_room()


# Events


async def _handle_event(  # noqa: C901, PLR0912, PLR0915 - in one piece: each call shows
    agent: Incarnation, turn: Turn, context: Context, started: datetime | None
) -> None:
    kind, envelope = agent.type, turn.envelope
    run, event = envelope.run, envelope.payload
    if run is not None and agent.host.parts.cancelled(run):
        turn.reply(ReplyKind.CANCELLED)
        return
    if isinstance(event, bytes):
        # Most have been read for another agent of this host.
        read = event.value if type(event) is Shared else None
        event = decode(event) if read is None else read
    context.event = event
    handler = kind.handlers.get(envelope.name)
    if handler is None or handler.access is not None:
        handler = handler_for(agent, envelope, context, handler)
    if run is None or run[0] not in STEPS:  # else they are its commit's
        context.held = []
    if turn.is_step and not await agent.host.steps.begin(cast("StepTurn", turn), scope_of(context)):
        return
    method = getattr(agent.agent, handler.method)
    if kind.hooks is None:
        emitted = method(event)
    else:
        emitted = passage.event(agent, turn, context, kind.hooks, method)
    if type(emitted) is CoroutineType:
        emitted = cast("object", await emitted)
    if isinstance(emitted, Event):
        context.publish(emitted)
    elif emitted is not None:
        await emit_all(agent, emitted, context)
    if turn.cancelled and not turn.is_step:
        await asyncio.sleep(0)  # what it did last gave it up: that comes out here, not in a commit
    if started is not None:
        _trace(agent, turn, context, started, None)
    scope: Scope | None = context.scope
    if scope is not None and scope.step is not None:
        await agent.host.steps.commit(agent, cast("StepTurn", turn), scope)
        return
    if turn.run is not None and await _end_run(agent, turn, turn.run, context):
        return
    if kind.keeps_state:
        await agent.commit_state(turn)
    if context.held:
        release(turn, context)
    if context.scope is None:
        turn.reply(_VALUE)
    else:
        turn.handled(context.scope)


async def _end_run(agent: Incarnation, turn: Turn, run: ActiveRun, context: Context) -> bool:
    """End the run of a prompt whose work is done; False: something of it is under way."""
    if context.held and not _somebody_waits(agent, context):
        context.release()
    scope = scope_of(context)
    if context.held or not scope.idle:
        return False
    # Its state and its result in one transaction.
    await agent.end_run(run, scope.outcome())
    turn.drop()
    return True


def handler_for(
    agent: Incarnation, envelope: Envelope, context: Context, handler: EventHandler | None
) -> EventHandler:
    """Return who handles the event of a message, where the event's class does not say it.

    Raises:
        NoHandler: nobody does.
        AccessDenied: the run may not touch what that does.
    """
    event = cast("object", context.event)
    if handler is None and isinstance(event, Event):
        handler = agent.type.handler_of(event)
    if handler is None:
        raise NoHandler(str(agent.id), envelope.name)
    if handler.access is not None:
        context.require_access(handler.access, f"{agent.id}.{handler.method}")
    return handler


def _held(context: Context) -> list[Event] | None:
    """Return where events wait for their handler; in a run durable per step its commit has them."""
    run = context.run
    return None if run is not None and run[0] in STEPS else []


def release(turn: Turn, context: Context) -> None:
    """Let the events leave of a handler that has succeeded."""
    if turn.abandoned:
        context.held = []  # nobody knows of it any more
    context.release()


def _somebody_waits(agent: Incarnation, context: Context) -> bool:
    """Whether an event that is held has a subscriber: it must not leave before the commit."""
    wanted = agent.host.publisher.types_that_want
    hooked = agent.type.name in agent.host.code.publish_hooks
    return hooked or any(wanted(event) for event in context.held or ())


async def emit_all(agent: Incarnation, result: Any, context: Context) -> None:
    """Publish what a handler yields, at once, or let what it returned leave with its success."""
    if inspect.isasyncgen(result):
        if agent.type.hooks is None:
            context.release()
        async for item in cast("AsyncIterator[Any]", result):
            _emit(agent, item, context)
        return
    if inspect.isawaitable(result):
        result = cast("object", await result)
    if inspect.isgenerator(result):
        context.release()
    if isinstance(result, list | tuple) or inspect.isgenerator(result):
        for item in cast("Iterable[Any]", result):
            _emit(agent, item, context)
    else:
        _emit(agent, result, context)


def _emit(agent: Incarnation, item: Any, context: Context) -> None:
    if isinstance(item, Event):
        context.publish(item)
    elif isinstance(context.event, Request | Answered):
        # Asked directly, an agent may answer directly.
        answer = as_json(item, "answer")
        if isinstance(context.event, Prompt) and context.event.output_schema is not None:
            check_output(answer, context.event.output_schema)
        scope_of(context).answer(answer)
    elif item is not None:
        raise PayloadError(
            f"{agent.type.cls.__name__} returned {type(item).__name__} for "
            f"{type(context.event).__name__}; handlers return events, lists of events, or None."
        )


# Errors and traces


def _failed(
    agent: Incarnation,
    turn: Turn,
    context: Context,
    started: datetime | None,
    error: BaseException,
) -> None:
    envelope = turn.envelope
    if envelope.kind == _TELL:
        context.log.error(
            "%s failed, nobody waits for it",
            envelope.name,
            exc_info=error,
            extra={"action": "tell_failed"},
        )
        agent.host.dead_letters.failed(envelope, None, error)
        turn.drop()
        return
    if started is not None:
        told = f"{type(error).__name__}: {text_of(error)}"
        _trace(agent, turn, context, started, told)
    if envelope.kind != _EVENT:
        turn.reply(ReplyKind.ERROR, encode_error(error), (context.scope or Scope()).outcome())
        return
    if envelope.run is None and envelope.root is None:  # else the run has an error of its own
        payload = read_payload(envelope.payload)
        agent.host.dead_letters.failed(envelope, payload, error)
    scope = scope_of(context)
    scope.fail(Failure(type(error).__name__, text_of(error), str(agent.id), ()))
    turn.handled(scope)


def _trace(
    agent: Incarnation, turn: Turn, context: Context, started: datetime, error: str | None
) -> None:
    envelope = turn.envelope
    duration_ms = (datetime.now(UTC) - started).total_seconds() * 1000
    # What is left of the time since it came; the event loop's clock is of whole milliseconds.
    waited_ms = max(0.0, (agent.host.now() - turn.received) * 1000 - duration_ms)
    payload = envelope.payload
    size = len(payload) if isinstance(payload, bytes | Large) else None
    span = (
        context.cause_id,
        envelope.cause_id,
        envelope.name,
        str(agent.id),
        agent.host.host_id,
        started,
        round(duration_ms, 3),
        size,
        error,
        round(waited_ms, 3),
    )
    scope_of(context).span(*span)
    if context.run is not None and context.run[0] == _LIVE:
        agent.host.telling.span(context, span)


_BY_KIND = {
    int(Kind.CALL): _handle_call,
    _TELL: _handle_tell,
    _EVENT: _handle_event,
    _STREAM: _handle_stream,
    OWN: _handle_own,
}
