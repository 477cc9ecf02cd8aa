"""Own types in messages: how values that do not pickle, or not well, travel between processes.

::

    from agentray import payloads

    payloads.register(Image, encode=Image.to_png, decode=Image.from_png)

Plain Python values, dataclasses, pydantic models and numpy arrays need none of this. Register a
type at the top of the module that defines it: whoever receives a value imports that module.
"""

from __future__ import annotations

import copyreg
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from agentray.errors import ConfigurationError, PayloadError, UnknownPayload

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry:
    cls: type[Any]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    name: str
    module: str  # that registers it


_entries: dict[str, _Entry] = {}


def register(
    cls: type[T],
    *,
    encode: Callable[[T], Any],
    decode: Callable[[Any], T],
    name: str | None = None,
) -> None:
    """Say how values of a type travel; for exactly this class, not for its subclasses.

    Args:
        cls: the type.
        encode: turns a value into one that pickles, such as bytes or a tuple.
        decode: turns that back.
        name: under which receivers find `decode`; None: module and name of the class.

    Raises:
        ConfigurationError: the name is taken by another type.
    """
    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    module: str = caller.f_globals.get("__name__", "") if caller is not None else ""
    entry = _Entry(cls, encode, decode, name or _name_of(cls), module)
    known = _entries.get(entry.name)
    # A class may be made anew (a notebook cell, a module read twice): the newest one counts.
    if known is not None and known.cls is not cls and _name_of(known.cls) != _name_of(cls):
        raise ConfigurationError(
            f"The payload name {entry.name!r} is taken by {_name_of(known.cls)}: "
            f"register {_name_of(cls)} with another name."
        )
    _entries[entry.name] = entry
    _send_as(entry)


def _name_of(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _send_as(entry: _Entry) -> None:
    """Let pickle and cloudpickle ask the entry; other types do not notice."""

    def reduce(value: Any) -> tuple[Any, ...]:
        data = entry.encode(value)
        if entry.module == "__main__":
            # Nobody can import a script: its functions go along.
            return _restore_from_script, (entry.cls, entry.name, entry.encode, entry.decode, data)
        return _restore, (entry.name, entry.module, data)

    copyreg.pickle(entry.cls, reduce)


def _restore(name: str, module: str, data: Any) -> Any:
    entry = _entries.get(name)
    if entry is None:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UnknownPayload(name, module, str(error)) from error
        entry = _entries.get(name)
    if entry is None:
        raise UnknownPayload(name, module)
    try:
        return entry.decode(data)
    except Exception as error:
        raise PayloadError(
            f"A value of the registered type {name!r} cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def _restore_from_script(
    cls: type[Any],
    name: str,
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    data: Any,
) -> Any:
    if cls not in copyreg.dispatch_table:  # so that it can be sent on, and back
        _send_as(_Entry(cls, encode, decode, name, "__main__"))
    return decode(data)
