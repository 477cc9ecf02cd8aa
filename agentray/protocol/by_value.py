"""Values whose classes nobody else can import: those of scripts and notebooks.

cloudpickle sends such a class with each value, and makes a new one of it wherever a value arrives,
only to find that it has it already: with a pydantic model about 3 ms, a hundred times the rest of
a call. Here a class is pickled once by its process, and read once by each that it comes to.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import cloudpickle

_written: WeakKeyDictionary[type[Any], tuple[bytes, bytes]] = WeakKeyDictionary()
"""Digest and pickle of each class that was sent."""

_read: dict[bytes, type[Any]] = {}
"""Classes that came, by digest."""


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Serialise a value together with what defines it.

    What is changed at a class after it was sent for the first time travels after `forget`.

    Args:
        value: whatever cloudpickle takes.
        buffer_callback: as for `pickle.dumps`.
    """
    with io.BytesIO() as file:
        pickler: Any = _Pickler(file, 5, buffer_callback)
        pickler.dump(value)
        return file.getvalue()


def forget() -> None:
    """Pickle classes anew from now on: code is deployed, as it is now."""
    _written.clear()


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Say how an object is pickled; `NotImplemented`: as usual."""
        if isinstance(obj, type):
            cls = cast("type[Any]", obj)
            _leave_surroundings(cls)
            if cls.__module__ == "__main__":
                return _class_of, _written.get(cls) or _write(cls)
        usual: Any = super()
        return usual.reducer_override(obj)


def _leave_surroundings(cls: type[Any]) -> None:
    """Let a pydantic model forget the locals of the function that it was defined in.

    It keeps them to resolve annotations later, needs them no more once it is complete, and would
    take all of them along.
    """
    if vars(cls).get("__pydantic_parent_namespace__") and cls.__pydantic_complete__:
        cls.__pydantic_parent_namespace__ = None


def _write(cls: type[Any]) -> tuple[bytes, bytes]:
    pickled: bytes = cloudpickle.dumps(cls, protocol=5)  # pyright: ignore[reportUnknownMemberType]
    _written[cls] = hashlib.sha256(pickled).digest(), pickled
    return _written[cls]


def _class_of(digest: bytes, pickled: bytes) -> type[Any]:
    cls = _read.get(digest)
    if cls is None:
        cls = _read[digest] = pickle.loads(pickled)  # noqa: S301 - cluster only
    return cls
