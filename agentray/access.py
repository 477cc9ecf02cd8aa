"""Access levels where tools run: what a run may not touch is refused before it is begun.

::

    @tool(access="write")
    async def cancel_order(order: str) -> str: ...

    class Orders(Agent):
        @action(access="read")
        async def look_up(self, order: str) -> Order: ...

The level is that of the session of the prompt that all of it belongs to. It travels with every
call and event of its run, and with runs that its agents begin. What belongs to no session may
touch everything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, overload

from agentray import context as contexts
from agentray.errors import ConfigurationError
from agentray.protocol.access import AccessLevel

F = TypeVar("F", bound=Callable[..., Any])

_NEEDS = "_agentray_access"


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(*, access: AccessLevel | str = AccessLevel.PUBLIC) -> Callable[[F], F]: ...
def tool(function: Any = None, /, *, access: AccessLevel | str = AccessLevel.PUBLIC) -> Any:
    """Let a function say what it touches; called from a run that may not, it is not run.

    For the tools of language models, and for any other function that agents call.

    Args:
        function: the function, where the decorator is used without parentheses. It may be
            asynchronous.
        access: what it touches: `public`, `read` (private data) or `write` (changes it).

    Raises:
        ConfigurationError: the level is none. When it is called: `AccessDenied`.
    """
    level = check_level(access)

    def mark(given: F) -> F:
        name = getattr(given, "__name__", repr(given))

        def check() -> None:
            if (context := contexts.current.get()) is not None:
                context.require_access(level, name)

        @wraps(given)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            check()
            return await given(*args, **kwargs)

        @wraps(given)
        def called(*args: Any, **kwargs: Any) -> Any:
            check()
            return given(*args, **kwargs)

        marked: Any = awaited if inspect.iscoroutinefunction(given) else called
        setattr(marked, _NEEDS, level)
        return marked

    return mark if function is None else mark(function)


def needed_by(function: Any) -> AccessLevel | None:
    """Return what a function says that it touches; None: it says nothing."""
    return getattr(function, _NEEDS, None)


def check_level(access: AccessLevel | str) -> AccessLevel:
    """Return a level by its name.

    Raises:
        ConfigurationError: there is none of it.
    """
    try:
        return AccessLevel(access)
    except ValueError:
        known = ", ".join(repr(level.value) for level in AccessLevel)
        raise ConfigurationError(f"access={access!r}: write one of {known}.") from None
