"""What makes the blocking twin of an asynchronous object, method by method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from agentray.blocking import wait_for

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class SyncPart(Generic[A_co]):
    """An asynchronous object and its event loop, seen from another thread."""

    def __init__(self, target: A_co, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `connect`.

        Args:
            target: what does the work.
            loop: its event loop, which runs in another thread.
        """
        self._target = target
        self._loop = loop

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return wait_for(work, self._loop)

    def _do(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._wait(getattr(self._target, name)(*args, **kwargs))


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncPart[A], P], T]:
    """Return a method that waits for what an asynchronous one returns."""

    @wraps(method)
    def call(self: SyncPart[A], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(method.__name__, *args, **kwargs)  # pyright: ignore[reportPrivateUsage] - ours

    return call
