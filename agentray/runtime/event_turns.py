"""The short way of most events through an agent: nothing to commit, to trace, to hook in.

What `Incarnation.take` and `handling.handle` do for every message, for these in one piece and one
coroutine: events of agents without state, outside of traced runs and of runs durable per step.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from agentray import context as contexts
from agentray.context import Context
from agentray.events import Event
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Kind, ReplyKind, Shared
from agentray.protocol.event_runs import Recording
from agentray.runtime.handling import emit_all, ended_with, handler_for, is_failure, release
from agentray.runtime.tasks import let_out_cancellation
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.incarnation import Incarnation

_EVENT, _NOTHING = int(Kind.EVENT), Recording.NOTHING.value

_TURNS_BEFORE_YIELD = 32
"""Turns after which a busy agent lets others run: handlers that never wait would starve them."""


def is_short(agent: Incarnation, turn: Turn) -> bool:
    """Whether a turn, which comes back to nobody, can go the short way."""
    envelope = turn.envelope
    if not agent.keeps_nothing or envelope[1] != _EVENT or turn.run is not None:
        return False
    run = envelope[13]
    return envelope[11] is None and (run is None or run[0] == _NOTHING)


async def take_events(  # noqa: C901, PLR0912, PLR0915 - in one piece: each call shows
    agent: Incarnation, first: Turn, task: asyncio.Task[Any]
) -> None:
    """Handle an event, and what waits behind it, one after the other in this task."""
    host, kind, current = agent.host, agent.type, contexts.current
    who, parts = agent.id, host.parts
    meter = None if host.meters is None else host.meters[kind.name]
    turn = first
    other: Turn | None = None  # behind them, which takes another way
    handled = 0
    try:
        while True:
            envelope = turn.envelope
            run, event = envelope[13], envelope[5]
            if turn.cancelled:
                pass
            elif run is not None and parts.cancelled(run):
                turn.reply(ReplyKind.CANCELLED)
            else:
                if run is not None:
                    parts.taken.note(run, who)
                turn.task = task
                context = Context(who, host, envelope, turn.deadline)
                if turn.answers:
                    context.local = turn
                begun = 0.0 if meter is None else perf_counter()
                token = current.set(context)
                error: BaseException | None = None
                try:
                    if isinstance(event, bytes):
                        # Most have been read for another agent of this host.
                        read = event.value if type(event) is Shared else None
                        event = decode(event) if read is None else read
                    context.event = event
                    handler = kind.handlers.get(envelope[4])
                    if handler is None or handler.access is not None:
                        handler = handler_for(agent, envelope, context, handler)
                    context.held = []
                    emitted = getattr(agent.agent, handler.method)(event)
                    if type(emitted) is CoroutineType:
                        emitted = cast("object", await emitted)
                    if emitted is not None:
                        if isinstance(emitted, Event):
                            context.publish(emitted)
                        else:
                            await emit_all(agent, emitted, context)
                    if turn.cancelled:
                        await asyncio.sleep(0)  # what it did last gave it up: it comes out here
                    if context.held:
                        release(turn, context)
                    turn.handled(context.scope)
                    agent.stats.completed += 1
                except BaseException as raised:  # noqa: BLE001 - a user's exit is not the host's
                    error = raised
                finally:
                    current.reset(token)
                    context.local = None  # what keeps the context does not keep the run
                    if meter is not None:
                        failed = error if error is not None and is_failure(turn, error) else None
                        meter.handled(_EVENT, perf_counter() - begun, failed)
                if error is not None and not ended_with(agent, turn, context, None, error):
                    raise error
                # From here on, cancelling this message must not hit the next one: see `take`.
                turn.task = None
                if turn.cancelled:
                    await let_out_cancellation(task)
            following = agent.next_turn()
            if following is None:
                break
            turn = following
            handled += 1
            if handled % _TURNS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)
            if not is_short(agent, turn):
                other = turn
                break
    finally:
        if other is None:
            agent.rests()
    if other is not None:
        await agent.take(other, task, reentrant=False)
