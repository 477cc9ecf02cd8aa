"""Middleware: what an app puts between messages and its agents.

::

    class Audit(Middleware):
        async def on_send(self, message: SentMessage) -> SentMessage | Drop:
            if message.sender is None and message.name == "delete":
                raise PermissionError("not from outside")
            return message

    app = App("shop", [Shop], middleware=[Audit])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Final, Literal, cast

from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.ids import AgentId

HOOK_TIMEOUT_S = 60.0
"""How long one hook may take, where its class says nothing else."""


class Drop(Enum):
    """The type of `DROP`."""

    DROP = "drop"


DROP: Final = Drop.DROP
"""What a hook returns to let a message, an event or a reply go no further."""

MessageKind = Literal["call", "tell", "stream", "prompt", "event"]


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message that has come to an agent, before its handler gets it.

    Attributes:
        kind: `call`, `tell`, `stream`, `prompt` or `event`.
        target: the agent that it is for.
        name: of the action, or of the event's type.
        args: of the action; for a prompt or an event, the event alone.
        kwargs: of the action.
        sender: the agent that sent it; None: it comes from outside.
        correlation_id: the conversation that it belongs to; None: to none.
    """

    kind: MessageKind
    target: AgentId
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sender: AgentId | None = None
    correlation_id: str | None = None

    @property
    def event(self) -> Event:
        """The event or prompt.

        Raises:
            ConfigurationError: it is another kind of message.
        """
        if self.kind not in ("event", "prompt"):
            raise ConfigurationError(
                f"A {self.kind} of {self.target}.{self.name} has no event: ask for message.kind "
                "first."
            )
        return cast("Event", self.args[0])

    def changed(
        self,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        event: Event | None = None,
    ) -> SentMessage:
        """Return it with other arguments, or another event of the same class."""
        given = args if event is None else (event,)
        return replace(
            self,
            args=self.args if given is None else tuple(given),
            kwargs=self.kwargs if kwargs is None else dict(kwargs),
        )


@dataclass(frozen=True, slots=True)
class MessageReply:
    """What a handler gives to its caller, before it leaves.

    Of a stream, each item is a reply of its own, and so is the error that ends it.

    Attributes:
        message: that is replied to, as it came to the handler.
        value: that the action returned; of a prompt, the answer; of a stream, the item.
        error: that the handler raised; None: it raised none.
        item: number of the item, from 0; None: it is no item of a stream.
    """

    message: SentMessage
    value: Any = None
    error: Exception | None = None
    item: int | None = None

    def changed(self, *, value: Any = None, error: Exception | None = None) -> MessageReply:
        """Return one with another value, or with an error; also a value instead of an error."""
        return replace(self, value=value, error=error)


class Middleware:
    """Looks at what the agents of an app are sent, publish and reply. Subclass it.

    Each hook gets a message and returns it, or a changed one, or `DROP`; or it raises, and the
    sender gets that error. Hooks may be plain methods, too. They run on the hosts, in the order of
    the app's list, `on_reply` in the opposite order; each host has instances of its own.

    Attributes:
        hook_timeout_s: longest time that one hook may take; beyond it is `DeadlineExceeded`.
    """

    hook_timeout_s: ClassVar[float] = HOOK_TIMEOUT_S

    def on_send(self, message: SentMessage) -> Awaitable[SentMessage | Drop] | SentMessage | Drop:
        """Take a message that has come to an agent of the app, whoever sent it.

        It is the agent's turn already: what the hook waits for, the agent's other messages wait
        for as well.

        Returns:
            The message, a changed one, or `DROP`: who called gets `MessageDropped`; a told message
            and an event end there, and are counted.
        """
        return message

    def on_publish(self, event: Event) -> Awaitable[Event | Drop] | Event | Drop:
        """Take an event that an agent of the app publishes, once, before it is known who gets it.

        Returns:
            The event, a changed or another one, or `DROP`: nobody gets it, and it is counted.
        """
        return event

    def on_reply(self, reply: MessageReply) -> Awaitable[MessageReply | Drop] | MessageReply | Drop:
        """Take what a handler of the app returns or raises, before its state is committed.

        Returns:
            The reply, a changed one, or `DROP`: who called gets `MessageDropped`, and the state
            stays as it was. Of a stream, `DROP` leaves out the item.
        """
        return reply


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the middleware of one app wants to see: those with a hook of their own, in order.

    Attributes:
        publish: that have `on_publish`.
        messages: that have `on_send` or `on_reply`: a message passes them, its reply backwards.
    """

    publish: tuple[Middleware, ...]
    messages: tuple[Middleware, ...]


def check_middleware(app: str, middleware: Sequence[Any]) -> tuple[Any, ...]:
    """Return an app's middleware.

    Raises:
        ConfigurationError: one of them is neither a `Middleware` nor makes one.
    """
    if isinstance(middleware, type | Middleware) or not isinstance(middleware, Sequence):
        raise ConfigurationError(
            f"The middleware of the app {app!r} is a list: middleware=[{_name(middleware)}]."
        )
    for entry in middleware:
        fits = issubclass(entry, Middleware) if isinstance(entry, type) else callable(entry)
        if not (fits or isinstance(entry, Middleware)):
            raise ConfigurationError(
                f"{_name(entry)} in the middleware of the app {app!r} is no Middleware: give a "
                "subclass of it, an instance, or a function that returns one."
            )
    return tuple(middleware)


def make_hooks(app: str, middleware: Sequence[Any]) -> Hooks | None:
    """Make an app's middleware, where it is loaded; None: it has none that does anything.

    Raises:
        ConfigurationError: one cannot be made.
    """
    made = [_make(app, entry) for entry in middleware]
    hooks = Hooks(
        publish=tuple(m for m in made if _has(m, "on_publish")),
        messages=tuple(m for m in made if _has(m, "on_send") or _has(m, "on_reply")),
    )
    return hooks if hooks.publish or hooks.messages else None


def _make(app: str, entry: Any) -> Middleware:
    if isinstance(entry, Middleware):
        return entry
    make = cast("Callable[[], object]", entry)
    try:
        made = make()
    except Exception as error:
        raise ConfigurationError(
            f"{_name(entry)} in the middleware of the app {app!r} cannot be made: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Middleware):
        raise ConfigurationError(
            f"{_name(entry)} in the middleware of the app {app!r} returned {made!r}, which is no "
            "Middleware."
        )
    return made


def _has(middleware: Middleware, hook: str) -> bool:
    own = getattr(type(middleware), hook) is not getattr(Middleware, hook)
    return own or hook in getattr(middleware, "__dict__", {})


def _name(entry: Any) -> str:
    return getattr(entry, "__name__", None) or type(cast("object", entry)).__name__
