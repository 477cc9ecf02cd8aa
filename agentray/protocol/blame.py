"""Blame: which part of a value it is that cannot be serialised, and where it is.

Only for the message of an error: it tries parts until it knows, which takes as long as serialising
the value a few times.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import FunctionType
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

_MAX_DEPTH = 32
_MAX_TRIES = 500
_MAX_KEY_CHARS = 40

Child = tuple[str, object]


class Blamed(NamedTuple):
    """What cannot be serialised.

    Attributes:
        path: from the value to it, such as `.config["locks"][0]`; "": it is the value itself.
        type: name of its type.
        error: why.
    """

    path: str
    type: str
    error: Exception

    def __str__(self) -> str:
        cause = f"{type(self.error).__name__}: {self.error}"
        return f"{self.path or 'it'} is a {self.type} ({cause})"


def find(value: object, fails: Callable[[object], Exception | None], error: Exception) -> Blamed:
    """Find the innermost part of a value that cannot be serialised.

    Args:
        value: that cannot.
        fails: tries to serialise something; returns why it cannot, or None.
        error: why the value cannot.
    """
    tries = _MAX_TRIES

    def limited(part: object) -> Exception | None:
        nonlocal tries
        tries -= 1
        return fails(part) if tries >= 0 else None

    path = ""
    for _ in range(_MAX_DEPTH):
        found = _first(list(_children(value)), limited)
        if found is None:
            break
        step, value, error = found
        path += step
    return Blamed(path, _type_name(value), error)


def _first(
    children: Sequence[Child], fails: Callable[[object], Exception | None]
) -> tuple[str, object, Exception] | None:
    """Return the first of the children that fails; of many, in a few tries."""
    while len(children) > 2:
        half = children[: len(children) // 2]
        children = half if fails([c for _, c in half]) else children[len(half) :]
    for step, child in children:
        error = fails(child)
        if error is not None:
            return step, child, error
    return None


def _children(value: object) -> Iterator[Child]:
    match value:
        case dict():
            for key, item in cast("dict[object, object]", value).items():
                yield f"[{_short(key)}]", item
                yield f".key({_short(key)})", key
        case list() | tuple():
            items = cast("Sequence[object]", value)
            names: Sequence[str] = getattr(items, "_fields", ())
            for n, item in enumerate(items):
                yield (f".{names[n]}" if n < len(names) else f"[{n}]"), item
        case set() | frozenset():
            for item in cast("AbstractSet[object]", value):
                yield f".item({_short(item)})", item
        case _:
            for name, item in _attributes(value).items():
                yield f".{name}", item


def _attributes(value: object) -> Mapping[str, object]:
    """Return the parts of an object that are sent with it."""
    match value:
        case functools.partial():
            whole = cast("functools.partial[object]", value)
            return {"func": whole.func, "args": whole.args, "keywords": whole.keywords}
        case FunctionType():
            cells = (cell.cell_contents for cell in value.__closure__ or ())
            return dict(zip(value.__code__.co_freevars, cells, strict=True))
        case BaseModel():
            hidden = {**(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
            return {**value.__dict__, **hidden}
        case BaseException():
            return {"args": value.args, **value.__dict__}
        case _:
            return _state_of(value)


def _state_of(value: object) -> Mapping[str, object]:
    """Return what pickle would send of an object; {} where it has its own way."""
    cls = type(value)
    if isinstance(value, type):
        return {}
    if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
        return {}
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
    try:
        state: Any = value.__getstate__()
    except Exception:  # noqa: BLE001 - of the user's: it is the reason, and told as such
        return {}
    parts = cast("tuple[object, ...]", state) if isinstance(state, tuple) else (state,)
    found = [cast("dict[str, object]", part) for part in parts if isinstance(part, dict)]
    return {name: item for part in found for name, item in part.items()}


def _short(key: object) -> str:
    told = repr(key)
    return told if len(told) <= _MAX_KEY_CHARS else f"{told[:_MAX_KEY_CHARS]}…"


def _type_name(value: object) -> str:
    cls = type(value)
    module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
    return f"{module}{cls.__qualname__}"
