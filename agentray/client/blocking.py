"""The same methods without an event loop: each asynchronous one, made to wait.

A class that blocks names the methods of the class that does not, and keeps their signatures,
types and docstrings:

```python
class Keys(Blocking[AsyncKeys]):
    create = blocking(AsyncKeys.create)
```
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

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

    def _do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._loop.call(partial(getattr(self._target, name), *args, **kwargs))

    def _iterate(self, name: str, *args: Any, **kwargs: Any) -> Generator[Any]:
        # Made at once, so that what is wrong with the arguments is said where they are given.
        return self._loop.iterate(getattr(self._target, name)(*args, **kwargs))


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
