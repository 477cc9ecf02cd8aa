"""One activation of an agent in a host's memory: its start, its turns, its state, its end."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from agentray import context as contexts
from agentray.agent import Agent, AgentType, bind
from agentray.context import Context
from agentray.core.mailbox import Mailbox, Offer
from agentray.errors import (
    AgentFailed,
    Fenced,
    NoHandler,
    Overloaded,
    PayloadError,
    UnknownAction,
)
from agentray.events import Event, Prompt
from agentray.ids import AgentId, new_id
from agentray.protocol.codec import as_json, decode, encode, encode_error, text_of
from agentray.protocol.envelope import Envelope, Failure, Kind, Outcome, ReplyKind
from agentray.runtime.scope import Scope, scope_of
from agentray.runtime.tasks import being_cancelled
from agentray.runtime.turn import Turn
from agentray.store.base import StateWrite

if TYPE_CHECKING:
    from agentray.runtime.host import Host

# Members of an enum are looked up through its class, which shows at this rate.
_TELL, _EVENT, _LAUNCH = int(Kind.TELL), int(Kind.EVENT), int(Kind.LAUNCH)

_CLEAN_UP_S = 10.0
"""How long an `on_stop` may take."""

_TURNS_BEFORE_YIELD = 32
"""Turns after which a busy agent lets others run: handlers that never wait would starve them."""


class Incarnation:
    """An agent in memory. A few hundred bytes while it is idle."""

    __slots__ = (
        "_agent",
        "_busy",
        "_committed",
        "_early",
        "_host",
        "_mailbox",
        "_quiet",
        "_tasks",
        "failure",
        "id",
        "since",
        "type",
        "used",
    )

    def __init__(self, agent_id: AgentId, agent_type: AgentType, host: Host, now: float) -> None:
        self.id = agent_id
        self.type = agent_type
        self.failure: str | None = None  # why it could not be started
        self.since = now
        self.used = now
        self._host = host
        self._agent: Agent | None = None
        self._mailbox: Mailbox[Turn] = Mailbox(
            agent_type.options.concurrency, agent_type.options.mailbox
        )
        self._early: list[Turn] | None = []  # what came before it was ready; None: it is
        self._busy = 0
        self._tasks: tuple[asyncio.Task[Any], ...] = ()  # of its turns
        self._quiet: asyncio.Future[None] | None = None  # somebody waits for it to be idle
        self._committed: bytes | None = None  # its state as the Store has it

    @property
    def idle(self) -> bool:
        """Whether it does nothing and nothing waits for it."""
        return self._busy == 0 and not self._early and not self._mailbox

    @property
    def status(self) -> str:
        """`starting`, `running`, `idle` or `failed`."""
        if self.failure is not None:
            return "failed"
        if self._early is not None:
            return "starting"
        return "running" if self._busy else "idle"

    @property
    def queued(self) -> int:
        """How many messages wait."""
        return len(self._mailbox) + len(self._early or ())

    # Start

    def begin(self, agent: Agent, state: StateWrite | None) -> None:
        """Give it its object and its kept state."""
        bind(agent, self.id, self._host.channel)
        self._agent = agent
        model = self.type.state_model
        if model is not None:
            agent.state = model() if state is None else model.model_validate(state.state)
            self._committed = None if state is None else agent.state.model_dump_json().encode()

    def ready(self) -> None:
        """Let the messages in that came meanwhile."""
        early, self._early = self._early or [], None
        for turn in early:
            self.offer(turn)

    def fail(self, reason: str) -> None:
        """Give up starting it; what waits for it, and what still comes, gets the reason."""
        self.failure = reason
        early, self._early = self._early or [], []
        for turn in early:
            turn.fail(AgentFailed(str(self.id), reason))

    @property
    def agent(self) -> Agent:
        """The user's object; only once it has begun."""
        if self._agent is None:
            raise AgentFailed(str(self.id), "it has not been started")
        return self._agent

    # Turns

    def offer(self, turn: Turn) -> None:
        """Take a message: handle it now, let it wait, or refuse it."""
        if self.failure is not None:
            turn.fail(AgentFailed(str(self.id), self.failure))
            return
        if self._early is not None:
            if len(self._early) >= self.type.options.mailbox:
                turn.fail(Overloaded(str(self.id)))
            else:
                self._early.append(turn)
            return
        kind = turn.envelope.kind
        if kind == _LAUNCH:
            turn.reply(ReplyKind.VALUE)
            return
        reentrant = self.id in turn.envelope.chain
        offer = self._mailbox.offer(turn, reentrant=reentrant)
        if offer is Offer.REFUSED:
            turn.fail(Overloaded(str(self.id)))
            return
        if kind == _TELL:
            turn.sink.reply(turn.envelope.id, ReplyKind.VALUE, None)
        if offer is Offer.RUN:
            self._busy += 1
            task = self._host.tasks.spawn(self._turns(turn, reentrant=reentrant))
            self._tasks = (*self._tasks, task)

    def withdraw(self, turn: Turn) -> None:
        """Take out a message that waits."""
        if self._early and turn in self._early:
            self._early.remove(turn)
        else:
            self._mailbox.withdraw(turn)

    async def _turns(self, first: Turn, *, reentrant: bool) -> None:
        """Handle a message, and after it those that wait, one after the other in one task."""
        turn: Turn | None = first
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        handled = 0
        try:
            while turn is not None:
                if not turn.cancelled:
                    turn.task = task
                    await self._handle(turn)
                    # From here on, cancelling this message must not hit the next one.
                    turn.task = None
                turn = None if reentrant else self._mailbox.finished()
                handled += 1
                if handled % _TURNS_BEFORE_YIELD == 0:
                    await asyncio.sleep(0)
        finally:
            self._busy -= 1
            self._tasks = tuple(other for other in self._tasks if other is not task)
            if not self._busy and self._quiet is not None and not self._quiet.done():
                self._quiet.set_result(None)
            self._host.used(self)

    async def _handle(self, turn: Turn) -> None:
        envelope = turn.envelope
        context = self._context(envelope)
        token = contexts.current.set(context)
        started = datetime.now(UTC) if envelope.root is not None else None
        error: BaseException | None = None
        try:
            if envelope.kind == _EVENT:
                await self._handle_event(turn, context, started)
            else:
                await self._handle_call(turn, context, started)
        except asyncio.CancelledError as raised:
            if turn.cancelled:
                # The message was given up, not this task: it goes on with the next one.
                cast("asyncio.Task[Any]", asyncio.current_task()).uncancel()
                turn.drop()
            elif being_cancelled():
                raise
            else:
                error = raised
        except Fenced:
            # Nothing was written: the agent lives elsewhere, the sender shall ask there.
            self._host.evict_fenced(self)
            turn.reply(ReplyKind.MOVED)
        except BaseException as raised:  # noqa: BLE001 - an exit of user's code is not the host's
            error = raised
        finally:
            contexts.current.reset(token)
        if error is not None:
            self._restore_state()
            self._failed(turn, context, started, error)

    def _context(self, envelope: Envelope) -> Context:
        timeout = envelope.timeout_s
        in_run = envelope.root is not None
        return Context(
            self.id,
            self._host,
            sender=envelope.sender,
            correlation_id=envelope.correlation_id,
            cause_id=new_id("span") if in_run else None,
            deadline=None if timeout is None else self._host.now() + timeout,
            chain=(*envelope.chain, self.id),
            root=envelope.root,
        )

    async def _handle_call(self, turn: Turn, context: Context, started: datetime | None) -> None:
        envelope = turn.envelope
        if envelope.name not in self.type.actions:
            raise UnknownAction(str(self.id), envelope.name, tuple(sorted(self.type.actions)))
        args, kwargs = decode(envelope.payload)
        value: Any = getattr(self._agent, envelope.name)(*args, **kwargs)
        # The exact type first: the general test takes as long as a short handler.
        if type(value) is CoroutineType or inspect.isawaitable(value):
            value = cast("object", await value)
        payload = encode(value, f"result of {envelope.name}()")
        if self.type.state_model is not None:
            await self._host.commit_states(self.id, self._changed_state())
        if started is not None:
            self._trace(context, envelope, started, None)
        scope = cast("Scope | None", context.scope)
        if scope is None:
            turn.reply(ReplyKind.VALUE, payload)
        elif scope.idle:
            turn.reply(ReplyKind.VALUE, payload, scope.outcome())
        else:
            scope.on_done(lambda outcome: turn.reply(ReplyKind.SETTLED, None, outcome))
            turn.reply(ReplyKind.OPEN, payload)

    async def _handle_event(self, turn: Turn, context: Context, started: datetime | None) -> None:
        envelope = turn.envelope
        event = envelope.payload
        if isinstance(event, bytes):
            event = decode(event)
        handler = self.type.handlers.get(envelope.name)
        if handler is None or not isinstance(event, Event):
            raise NoHandler(str(self.id), envelope.name)
        context.event = event
        scope = scope_of(context)
        scope.hold()  # the handler itself
        await self._emit_all(getattr(self.agent, handler.method)(event), context)
        if started is not None:
            self._trace(context, envelope, started, None)
        states = self._changed_state()
        run = turn.run
        if run is not None and scope.only_one_held:
            # A prompt whose work is done: its state and its result in one transaction.
            await run.end(scope.outcome(), states)
            turn.drop()
            return
        await self._host.commit_states(self.id, states)
        scope.on_done(lambda outcome: turn.reply(ReplyKind.VALUE, None, _along(outcome, envelope)))
        scope.release()

    async def _emit_all(self, result: Any, context: Context) -> None:
        """Publish what a handler returned or yields."""
        if inspect.isasyncgen(result):
            async for item in cast("AsyncIterator[Any]", result):
                self._emit(item, context)
            return
        if inspect.isawaitable(result):
            result = await result
        if result is None:
            return
        if isinstance(result, list | tuple) or inspect.isgenerator(result):
            for item in cast("Iterable[Any]", result):
                self._emit(item, context)
        else:
            self._emit(result, context)

    def _emit(self, item: Any, context: Context) -> None:
        if isinstance(item, Event):
            self._host.publish(item, context)
        elif isinstance(context.event, Prompt):
            # Asked directly, an agent may answer directly.
            scope_of(context).answer(as_json(item, "answer"))
        elif item is not None:
            raise PayloadError(
                f"{self.type.cls.__name__} returned {type(item).__name__} for "
                f"{type(context.event).__name__}; handlers return events, lists of events, or None."
            )

    def _failed(
        self, turn: Turn, context: Context, started: datetime | None, error: BaseException
    ) -> None:
        envelope = turn.envelope
        if envelope.kind == Kind.TELL:
            context.log.error(
                "%s failed, nobody waits for it",
                envelope.name,
                exc_info=error,
                extra={"action": "tell_failed"},
            )
            turn.drop()
            return
        if started is not None:
            self._trace(context, envelope, started, f"{type(error).__name__}: {text_of(error)}")
        if envelope.kind != Kind.EVENT:
            turn.reply(ReplyKind.ERROR, encode_error(error), (context.scope or Scope()).outcome())
            return
        scope = scope_of(context)
        if scope.idle:
            scope.hold()  # it failed before its handler was called
        scope.fail(Failure(type(error).__name__, text_of(error), str(self.id), ()))
        scope.on_done(lambda outcome: turn.reply(ReplyKind.VALUE, None, _along(outcome, envelope)))
        scope.release()

    def _trace(
        self, context: Context, envelope: Envelope, started: datetime, error: str | None
    ) -> None:
        duration_ms = (datetime.now(UTC) - started).total_seconds() * 1000
        size = len(envelope.payload) if isinstance(envelope.payload, bytes) else None
        scope_of(context).span(
            context.cause_id,
            envelope.cause_id,
            envelope.name,
            str(self.id),
            self._host.host_id,
            started,
            round(duration_ms, 3),
            size,
            error,
        )

    # State

    def _changed_state(self) -> list[StateWrite]:
        """Return the state when it differs from what the Store has."""
        if self.type.state_model is None:
            return []
        data = self.agent.state.model_dump_json().encode()
        if data == self._committed:
            return []
        # Taken as committed from here on: when the commit fails, the incarnation ends.
        self._committed = data
        return [StateWrite(self.id, json.loads(data))]

    def _restore_state(self) -> None:
        """Undo what a failed handler did to the state.

        Only where handlers do not interleave: else it would undo another one's work.
        """
        model = self.type.state_model
        if model is not None and self.type.options.concurrency == 1 and self._agent is not None:
            self._agent.state = (
                model() if self._committed is None else model.model_validate_json(self._committed)
            )

    # End

    @property
    def cleans_up(self) -> bool:
        """Whether its class has an `on_stop` of its own."""
        return self._agent is not None and self.type.cls.on_stop is not Agent.on_stop

    def hold(self) -> None:
        """Let every further message wait: it is about to leave."""
        self._early = []

    async def until_idle(self, grace_s: float) -> None:
        """Wait until it does nothing, at most for the grace; then cancel what it does."""
        if not self._busy:
            return
        self._quiet = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._quiet, grace_s)
        except TimeoutError:
            for task in self._tasks:
                task.cancel()

    async def stop(self) -> None:
        """Run the agent's own clean-up; an error there is logged and ends nothing."""
        if not self.cleans_up:
            return
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                await self.agent.on_stop()
        except BaseException as error:
            if being_cancelled():
                raise
            self._host.log_agent_error(self.id, "on_stop_failed", error)

    def dismiss(self) -> list[Turn]:
        """Take out what waits, for another host to handle."""
        early, self._early = self._early or [], None
        return [*early, *self._mailbox.clear()]


def _along(outcome: Outcome, envelope: Envelope) -> Outcome:
    """Put this message in front of the path of causes of each error below it."""
    if not outcome.errors:
        return outcome
    step = f"{envelope.name.rpartition('.')[2]} at {envelope.type}/{envelope.key}"
    errors = tuple(error._replace(path=(step, *error.path)) for error in outcome.errors)
    return outcome._replace(errors=errors)
