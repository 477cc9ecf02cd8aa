"""Background work of agents: what they do without being asked.

::

    class Thermostat(Agent):
        state: Readings

        @timer(5.0)
        async def measure(self) -> None:
            self.state.last = await self.read_sensor()

        @loop
        async def follow(self) -> None:
            async for alarm in alarms():
                async with self.turn():
                    self.state.alarms += 1

A timer's tick is a turn of the agent, as a message is: it never overlaps with a handler of an agent
that handles one message at a time, and what it changed in the state is committed. A loop runs
beside the turns; it changes state within `async with self.turn()`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from agentray.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_BACKGROUND = "__agentray_background__"


@dataclass(frozen=True, slots=True)
class BackgroundSpec:
    """A method that an agent runs by itself.

    Attributes:
        method: its name.
        every_s: the period of a timer, in seconds; None: it is a loop.
        at_once: the first tick comes when the agent has started, not a period later.
        in_thread: a loop without `async`: it runs in a thread.
    """

    method: str
    every_s: float | None = None
    at_once: bool = False
    in_thread: bool = False


@overload
def loop(method: F, /) -> F: ...
@overload
def loop() -> Callable[[F], F]: ...
def loop(method: Any = None, /) -> Any:
    """Run a method beside the agent's messages, from after `on_start` until it leaves memory.

    The method is cancelled, and awaited, before `on_stop`; when it returns, it is over. An error
    goes to the restart policy. State is changed within `async with self.turn():`, or by calling
    the agent's own actions through a handle; a change outside of turns is not committed by itself.

    A method without `async` runs in a thread. It takes one argument, a `threading.Event`, and must
    return when that is set: a thread cannot be cancelled. It awaits through `self.run_async(…)`.
    """

    def mark(function: F) -> F:
        _check_is_no_generator(function, "@loop")
        in_thread = not inspect.iscoroutinefunction(function)
        wanted = 2 if in_thread else 1
        if len(inspect.signature(function).parameters) != wanted:
            form = (
                f"def {function.__name__}(self, stop: threading.Event)"
                if in_thread
                else f"async def {function.__name__}(self)"
            )
            raise ConfigurationError(f"@loop {function.__qualname__}: write `{form}`.")
        return _mark(function, BackgroundSpec(function.__name__, in_thread=in_thread))

    return mark if method is None else mark(method)


def timer(every_s: float, *, run_at_start: bool = False) -> Callable[[F], F]:
    """Call a method again and again, as a turn of its own.

    The schedule is fixed: ticks are due at the start and whole periods after it, however long one
    takes. A tick that is still waiting or running when the next ones are due lets them fall out;
    they are counted.

    Args:
        every_s: the period in seconds.
        run_at_start: the first tick comes when the agent has started; otherwise a period later.

    Raises:
        ConfigurationError: the period is not a positive number of seconds, or the method takes
            arguments or yields.
    """
    if isinstance(every_s, bool) or not isinstance(every_s, int | float):
        raise ConfigurationError("@timer takes its period in seconds: @timer(5.0).")
    if not (math.isfinite(every_s) and every_s > 0):
        raise ConfigurationError(f"@timer({every_s}): the period must be more than 0 seconds.")

    def mark(function: F) -> F:
        _check_is_no_generator(function, "@timer")
        if len(inspect.signature(function).parameters) != 1:
            raise ConfigurationError(f"@timer {function.__qualname__} takes no arguments.")
        return _mark(function, BackgroundSpec(function.__name__, float(every_s), run_at_start))

    return mark


def _check_is_no_generator(function: Callable[..., Any], decorator: str) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{decorator} {function.__qualname__} yields; publish with self.context.publish()."
        )


def _mark(function: F, spec: BackgroundSpec) -> F:
    if hasattr(function, _BACKGROUND):
        raise ConfigurationError(
            f"{function.__qualname__} is a @loop or @timer twice: write two methods."
        )
    setattr(function, _BACKGROUND, spec)
    return function


def background_of(methods: Iterable[Callable[..., Any]]) -> tuple[BackgroundSpec, ...]:
    """Return the loops and timers among an agent class's methods."""
    found = (getattr(method, _BACKGROUND, None) for method in methods)
    return tuple(spec for spec in found if spec is not None)
