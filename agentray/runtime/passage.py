"""The way of one message through its app's middleware: to the handler, and back to the caller.

It is a part of the agent's turn: what the hooks do is cancelled with it, and ends within the
deadline of its message. What middleware lets pass is seen by it again when it is replied to, so
that each stands around those that come after it in the app's list.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from agentray.context import Context
from agentray.errors import (
    ConfigurationError,
    DeadlineExceeded,
    Fenced,
    MessageDropped,
)
from agentray.events import Event, Request
from agentray.middleware import DROP, Hooks, MessageKind, MessageReply, Middleware, SentMessage
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Kind
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.incarnation import Incarnation

logger = logging.getLogger(__name__)

_KINDS: dict[int, MessageKind] = {
    int(Kind.CALL): "call",
    int(Kind.TELL): "tell",
    int(Kind.STREAM): "stream",
}


def name_of(middleware: Middleware) -> str:
    """Return how errors name a middleware."""
    return type(middleware).__name__


def nonsense(middleware: Middleware, hook: str, result: object, wanted: str) -> ConfigurationError:
    """Return the error of a hook that returned something that cannot go on."""
    forgot = " Was the return forgotten?" if result is None else ""
    return ConfigurationError(
        f"{name_of(middleware)}.{hook} returned {type(result).__name__}: return {wanted}, or DROP; "
        f"or raise.{forgot}"
    )


async def until(
    waits: Awaitable[Any], middleware: Middleware, what: str, deadline: float | None
) -> Any:
    """Wait for a hook, at most as long as its class says, and not beyond the deadline.

    Args:
        waits: what the hook returned.
        middleware: whose hook it is.
        what: how the error names it.
        deadline: of the message, in seconds of the event loop's clock; None: none.

    Raises:
        DeadlineExceeded: it took longer.
    """
    now = asyncio.get_running_loop().time()
    end = now + middleware.hook_timeout_s
    end = end if deadline is None else min(end, deadline)
    limit = asyncio.timeout_at(end)
    try:
        async with limit:
            return await waits
    except TimeoutError:
        if not limit.expired():
            raise  # of its own
        raise DeadlineExceeded(f"{name_of(middleware)}.{what}", max(0.0, end - now)) from None


class Passage:
    """One message's way.

    Attributes:
        message: as it is now.
    """

    __slots__ = ("_agent", "_hooks", "_passed", "_turn", "message")

    def __init__(self, agent: Incarnation, hooks: Hooks, turn: Turn, message: SentMessage) -> None:
        self._agent = agent
        self._hooks = hooks.messages
        self._turn = turn
        self._passed = 0
        self.message = message

    async def enter(self) -> SentMessage:
        """Pass it through `on_send`.

        Raises:
            MessageDropped: one of them dropped it.
            Exception: one of them raised.
        """
        for middleware in self._hooks:
            given = self.message
            result = await self._ask(middleware, "on_send", given)
            if result is DROP:
                self._count(middleware, given.kind)
                raise MessageDropped(self._target, name_of(middleware))
            if not (isinstance(result, SentMessage) and _same(given, result)):
                raise nonsense(middleware, "on_send", result, "the message, also message.changed()")
            self.message = result
            self._passed += 1
        return self.message

    async def leave(
        self, value: Any = None, error: Exception | None = None, *, item: int | None = None
    ) -> Any:
        """Pass a reply through `on_reply`, backwards through what has let the message pass.

        Returns:
            The value that goes to the caller; `DROP` for the item of a stream that does not.

        Raises:
            Exception: what goes to the caller instead.
        """
        reply = MessageReply(self.message, value, error, item)
        for middleware in reversed(self._hooks[: self._passed]):
            try:
                result = await self._ask(middleware, "on_reply", reply)
            except Exception as raised:  # noqa: BLE001 - the caller gets it, whatever it is
                reply = reply.changed(error=raised)
                continue
            if isinstance(result, MessageReply):
                reply = result
                continue
            if result is not DROP:
                wanted = "the reply, also reply.changed()"
                reply = reply.changed(error=nonsense(middleware, "on_reply", result, wanted))
                continue
            self._count(middleware, "reply")
            if item is not None and reply.error is None:
                return DROP
            dropped = MessageDropped(self._target, name_of(middleware), "reply")
            reply = reply.changed(error=dropped)
        if reply.error is not None:
            raise reply.error
        if error is not None:
            self._agent.restore_state(self._turn)  # the caller gets a value; the handler failed
        return reply.value

    async def _ask(self, middleware: Middleware, hook: str, given: Any) -> Any:
        result = getattr(middleware, hook)(given)
        if not inspect.isawaitable(result):
            return result
        what = f"{hook} for {self._target}"
        return await until(result, middleware, what, self._turn.deadline)

    @property
    def _target(self) -> str:
        return f"{self.message.target}.{self.message.name.rpartition('.')[2]}"

    def _count(self, middleware: Middleware, what: str) -> None:
        self._agent.host.dropped += 1
        extra = {"action": "message_dropped", "agent": str(self.message.target)}
        logger.info("%s dropped a %s of %s", name_of(middleware), what, self._target, extra=extra)


def _same(given: SentMessage, result: SentMessage) -> bool:
    """Whether a hook has changed nothing but what it may change."""
    if (result.kind, result.target, result.name) != (given.kind, given.target, given.name):
        return False
    if given.kind not in ("event", "prompt"):
        return True
    return len(result.args) == 1 and isinstance(result.args[0], type(given.args[0]))


async def call(agent: Incarnation, turn: Turn, hooks: Hooks) -> Any:
    """Run an action for a call or a tell; return what goes to the caller.

    A tell has no reply; one that is dropped ends here, without an error.
    """
    passage = _passage(agent, turn, hooks)
    name = passage.message.name
    if passage.message.kind == "tell":
        try:
            message = await passage.enter()
        except MessageDropped:
            return None
        return await _run(getattr(agent.agent, name), message)
    try:
        message = await passage.enter()
        value = await _run(getattr(agent.agent, name), message)
    except Fenced:
        raise  # the agent lives elsewhere: nothing of this counts
    except Exception as error:  # noqa: BLE001 - the middleware may make something else of it
        return await passage.leave(error=error)
    return await passage.leave(value)


async def _run(method: Any, message: SentMessage) -> Any:
    value = method(*message.args, **message.kwargs)
    return await value if inspect.isawaitable(value) else value


async def stream(agent: Incarnation, turn: Turn, hooks: Hooks) -> AsyncGenerator[Any]:
    """Run an action that yields; yield what goes to the caller."""
    passage = _passage(agent, turn, hooks)

    def start(message: SentMessage) -> AsyncGenerator[Any]:
        return _each(getattr(agent.agent, message.name)(*message.args, **message.kwargs))

    number = 0
    async with aclosing(_items(passage, start)) as items:
        async for item, is_new in items:
            kept = await passage.leave(item, item=number) if is_new else item
            number += 1
            if kept is not DROP:
                yield kept


async def _items(
    passage: Passage, start: Callable[[SentMessage], AsyncGenerator[Any]]
) -> AsyncGenerator[tuple[Any, bool]]:
    """Yield what a handler yields, each with True; what `on_reply` makes of its error, with False.

    Raises:
        Exception: what `on_reply` makes of its error, if that is an error again.
    """
    try:
        values = start(await passage.enter())
    except Fenced:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        yield await passage.leave(error=error), False
        return
    async with aclosing(values):
        while True:
            try:
                item = await anext(values)
            except StopAsyncIteration:
                return
            except Fenced:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                yield await passage.leave(error=error), False
                return
            yield item, True


def _passage(agent: Incarnation, turn: Turn, hooks: Hooks) -> Passage:
    envelope = turn.envelope
    payload = envelope.payload
    if type(payload) is tuple:
        args, kwargs = cast("tuple[Any, ...]", payload), dict[str, Any]()
    else:
        args, kwargs = decode(payload)
    message = SentMessage(
        _KINDS[envelope.kind],
        agent.id,
        envelope.name,
        args,
        kwargs,
        envelope.sender,
        envelope.correlation_id,
    )
    return Passage(agent, hooks, turn, message)


async def _each(values: Any) -> AsyncGenerator[Any]:
    if inspect.isasyncgen(values):
        async with aclosing(cast("AsyncGenerator[Any]", values)) as items:
            async for item in items:
                yield item
        return
    for item in cast("Iterable[Any]", values):
        yield item


async def event(
    agent: Incarnation, turn: Turn, context: Context, hooks: Hooks, handler: Any
) -> AsyncIterator[Any]:
    """Let a handler handle an event or a prompt; yield what it emits.

    What a prompt's handler returns beside events is the answer, and a reply.
    """
    given = cast("Event", context.event)
    envelope = turn.envelope
    prompted = isinstance(given, Request)
    kind: MessageKind = "prompt" if prompted else "event"
    message = SentMessage(
        kind, agent.id, given.event_type, (given,), sender=envelope.sender,
        correlation_id=envelope.correlation_id,
    )  # fmt: skip
    passage = Passage(agent, hooks, turn, message)

    def start(message: SentMessage) -> AsyncGenerator[Any]:
        context.event = message.event
        return _emitted(handler(message.event), context)

    if prompted:
        async with aclosing(_items(passage, start)) as items:
            async for item, is_new in items:
                answers = is_new and not isinstance(item, Event)
                yield await passage.leave(item) if answers else item
        return
    try:
        message = await passage.enter()
    except MessageDropped:
        return
    async with aclosing(start(message)) as emitted:
        async for item in emitted:
            yield item


async def _emitted(result: Any, context: Context) -> AsyncGenerator[Any]:
    """Yield what a handler of events returned or yields, one by one.

    What it yields leaves at once, what it returns with its success.
    """
    if inspect.isasyncgen(result) or inspect.isgenerator(result):
        context.release()
    if inspect.isasyncgen(result):
        async with aclosing(cast("AsyncGenerator[Any]", result)) as items:
            async for item in items:
                yield item
        return
    if inspect.isawaitable(result):
        result = await result
    if result is None:
        return
    if isinstance(result, list | tuple) or inspect.isgenerator(result):
        for item in cast("Iterable[Any]", result):
            yield item
    else:
        yield result
