"""Plain functions as agents.

::

    def shout(said: Said) -> Shouted:
        return Shouted(text=said.text.upper())

    App("voices", [agent_of(shout, on=Said), sink_of(print, on=Shouted, name="printer")])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from agentray.agent import Agent, AgentOptions
from agentray.agent import on as on_events
from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.handlers import Key

_ANY = "any:8"
_METHOD = "handle_event"


def agent_of(
    function: Callable[..., Any],
    *,
    on: type[Event] | Sequence[type[Event]],
    name: str | None = None,
    key: Key = _ANY,
    topic: str | None = None,
    where: Callable[[Any], bool] | None = None,
    options: AgentOptions | None = None,
    blocking: bool = False,
) -> type[Agent]:
    """Return an agent class that handles events with a function.

    Args:
        function: takes the event, and the `Context` if it has a second parameter; returns or yields
            follow-up events, `async` or not.
        on: the event class, or several.
        name: the agent type's; None: the function's name.
        key: which instance gets an event, as for `on`; a function keeps nothing, so by default a
            few instances share the work.
        topic: only events on this topic, as for `on`.
        where: says which events are wanted, as for `on`.
        options: how its agents are run; None: any number of events at once.
        blocking: it runs in one of the host's threads, because it takes long without awaiting.

    Raises:
        ConfigurationError: no event class, or no name for the agent type.
    """
    method = _called(function, blocking=blocking)
    marked = on_events(*_classes(on), key=key, topic=topic, where=where)(method)
    return _class(function, marked, name, options or AgentOptions(concurrency=None))


def sink_of(
    write: Callable[..., Any],
    *,
    on: type[Event] | Sequence[type[Event]],
    name: str | None = None,
    key: Key = "key:all",
    topic: str | None = None,
    where: Callable[[Any], bool] | None = None,
    options: AgentOptions | None = None,
    blocking: bool = False,
) -> type[Agent]:
    """Return an agent class that gives events to a function, or to an agent's action.

    What that returns is dropped. One instance gets all events, one after the other, in the order in
    which they come. The arguments are those of `agent_of`.

    ::

        sink_of(print, on=Said, name="printer")
        sink_of(manager.handle(Desk, "front").note, on=Said, name="to_desk")
    """
    call = _called(write, blocking=blocking)

    async def drop(self: Agent, event: Event) -> None:
        result = call(self, event)
        if inspect.isawaitable(result):
            await result

    drop.__name__ = _METHOD
    marked = on_events(*_classes(on), key=key, topic=topic, where=where)(drop)
    return _class(write, marked, name, options or AgentOptions())


def _called(function: Callable[..., Any], *, blocking: bool) -> Callable[[Agent, Event], Any]:
    """Return a method that calls a function."""
    with_context = _takes_context(function)

    def call(self: Agent, event: Event) -> Any:
        arguments = (event, self.context) if with_context else (event,)
        if not blocking:
            return function(*arguments)
        return self.run_sync(_whole, function, arguments)

    call.__name__ = _METHOD
    return call


def _whole(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function in a thread, and go through all that it yields there."""
    result = function(*arguments)
    return list(result) if inspect.isgenerator(result) else result


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # of a builtin that does not tell
        return False
    needed = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(needed) == 2


def _classes(on: type[Event] | Sequence[type[Event]]) -> tuple[type[Event], ...]:
    return (on,) if isinstance(on, type) else tuple(on)


def _class(
    function: Callable[..., Any],
    method: Callable[[Agent, Event], Any],
    name: str | None,
    options: AgentOptions,
) -> type[Agent]:
    name = str(name or getattr(function, "__name__", ""))
    if not name.isidentifier():
        raise ConfigurationError(f"{function!r} has no name for an agent type: give name=….")
    members = {
        "__doc__": inspect.getdoc(function) or f"Handles events with {name}.",
        "__module__": getattr(function, "__module__", None) or __name__,
        "options": options.model_copy(update={"name": name}),
        _METHOD: method,
    }
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return type(class_name, (Agent,), members)
