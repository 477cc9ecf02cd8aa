"""The same methods without an event loop: each asynchronous one, made to wait.

A class that blocks names the methods of the class that does not, and keeps their signatures,
types and docstrings:

```python
class Keys(Blocking[AsyncKeys]):
    create = blocking(AsyncKeys.create)
```
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from agentray.client.calls.job_log import LogEnd
from agentray.client.job_log import AsyncLogTail
from agentray.client.loop_thread import LoopThread

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Generic[A]):
    """Does what an asynchronous object does, and waits for it. May be shared by threads."""

    def __init__(self, target: A, loop: LoopThread) -> None:
        """Made by the client.

        Args:
            target: does the work.
            loop: in which it does.
        """
        self._target = target
        self._loop = loop

    def _do(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._loop.call(partial(getattr(self._target, name), *args, **kwargs))

    def _iterate(self, name: str, /, *args: Any, **kwargs: Any) -> Generator[Any]:
        # Made at once, so that what is wrong with the arguments is said where they are given.
        return self._loop.iterate(getattr(self._target, name)(*args, **kwargs))

    def _follow(self, name: str, /, *args: Any, **kwargs: Any) -> LogTail[Any]:
        return LogTail(getattr(self._target, name)(*args, **kwargs), self._loop)


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[A], P], T]:
    """Return a method that waits for what an asynchronous one returns."""

    @wraps(method)
    def call(self: Blocking[A], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(method.__name__, *args, **kwargs)  # pyright: ignore[reportPrivateUsage] - ours

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[T]],
) -> Callable[Concatenate[Blocking[A], P], Generator[T]]:
    """Return a method that yields what an asynchronous one yields."""

    @wraps(method)
    def call(self: Blocking[A], *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        return self._iterate(method.__name__, *args, **kwargs)  # pyright: ignore[reportPrivateUsage] - ours

    return call


class LogTail(Generic[T]):
    """What comes of a log, bit by bit: `for line in tail`.

    It ends as the log does. `end` says why then, and `offset` at any time how far it has come.
    """

    def __init__(self, tail: AsyncLogTail[T], loop: LoopThread) -> None:
        """Made by the client."""
        self._tail = tail
        self._loop = loop
        self._ready: deque[T] = deque()
        # One that is dropped is left: its connection shall not stay open.
        self._left = weakref.finalize(self, loop.let_go, tail.aclose)
        self._left.atexit = False

    @property
    def offset(self) -> int:
        """Up to which byte of the log has been received."""
        return self._tail.offset

    @property
    def end(self) -> LogEnd | None:
        """Why nothing more comes; None: more may come."""
        return self._tail.end

    def batch(self) -> list[T]:
        """Return what has come, at once, or as soon as something does; []: nothing more comes.

        Raises:
            ClientError: as the method says that has made it.
        """
        if self._ready:
            found = list(self._ready)
            self._ready.clear()
            return found
        return self._loop.call(self._tail.batch)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if not self._ready:
            self._ready.extend(self._loop.call(self._tail.batch))
            if not self._ready:
                raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        """Leave it; harmless when it has ended."""
        self._left.detach()
        if not self._loop.closed:
            self._loop.call(self._tail.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tailing(
    method: Callable[Concatenate[A, P], AsyncLogTail[T]],
) -> Callable[Concatenate[Blocking[A], P], LogTail[T]]:
    """Return a method that follows what an asynchronous one follows."""

    @wraps(method)
    def call(self: Blocking[A], *args: P.args, **kwargs: P.kwargs) -> LogTail[T]:
        return self._follow(method.__name__, *args, **kwargs)  # pyright: ignore[reportPrivateUsage] - ours

    return call
