"""Virtual time: the package's own; tests of agents import it from `agentray.testing`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

from agentray.testing import VirtualTimeLoop, run

__all__ = ["VirtualTimeLoop", "in_virtual_time", "run"]

P = ParamSpec("P")


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Let a test that awaits run in virtual time: what it waits for comes in the same order, and
    its deadlines pass when nothing else is left, however busy the machine is.
    """

    @wraps(test)
    def run_it(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_it
