"""Large values: the bytes of arrays apart from what describes them, so that they are not copied.

Pickle protocol 5 hands large buffers out instead of writing them into its stream. Numpy does so by
itself; large `bytes` and `bytearray` objects are lifted out here, where they are arguments, results
or items of plain containers near the top.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, cast

from agentray.errors import PayloadError
from agentray.protocol import by_value
from agentray.protocol.codec import encode_arguments, refused, unreadable
from agentray.protocol.envelope import Large

MIN_BYTES = 100 * 1024
"""Smaller buffers stay in the stream: a part of its own costs more than their copy."""

_LIFT_DEPTH = 3


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any], action: str) -> bytes | Large:
    """Serialise a call's arguments; an error names the argument that is to blame.

    Raises:
        PayloadError: one of them cannot be serialised.
    """
    data = _encode_small((args, kwargs))
    if data is not None:
        return data
    try:
        return _encode((args, kwargs), f"arguments of {action}()")
    except PayloadError:
        encode_arguments(args, kwargs, action)  # tells which one
        raise


def encode_result(value: Any, action: str) -> bytes | Large:
    """Serialise what an action returned.

    Raises:
        PayloadError: it cannot be serialised; the message names the action.
    """
    data = _encode_small(value)
    return _encode(value, f"result of {action}()") if data is None else data


def _encode_small(value: Any) -> bytes | None:
    """Serialise a value of few bytes in the quickest way; None: it takes another one."""
    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=_only_small)
    except Exception:  # noqa: BLE001 - a value's own __reduce__ may raise anything
        return None
    # See `codec.encode` for what the text means.
    return None if len(data) > MIN_BYTES or b"__main__" in data else data


def _only_small(buffer: pickle.PickleBuffer) -> bool:
    if buffer.raw().nbytes >= MIN_BYTES:
        raise BufferError("not a small one")
    return True


def _encode(value: Any, what: str) -> bytes | Large:
    data, buffers = encode_oob(value, what)
    if len(data) <= MIN_BYTES and not buffers:
        return data
    return Large(data, *map(_kept, buffers))


def _kept(buffer: pickle.PickleBuffer) -> bytes:
    """Return a buffer's bytes as they are now; `bytes` stay the same object."""
    view = buffer.raw()
    if type(view.obj) is bytes and view.nbytes == len(view.obj):
        return view.obj
    return bytes(view)


def encode_oob(value: Any, what: str = "value") -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Serialise a value with its large buffers apart.

    The buffers are views of the value's own memory: send them before the value changes.

    Args:
        value: anything that `codec.encode` takes.
        what: how an error names it.

    Returns:
        What `decode_oob` needs: the stream, and the buffers in its order.

    Raises:
        PayloadError: it cannot be serialised; the message says why, and which part of it.
    """
    lifted = _lift(value, {}, _LIFT_DEPTH)
    buffers: list[pickle.PickleBuffer] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < MIN_BYTES:
            return True
        buffers.append(buffer)
        return False

    try:
        data = pickle.dumps(lifted, protocol=5, buffer_callback=in_band)
    except Exception:  # noqa: BLE001 - a value's own __reduce__ may raise anything
        data = b"__main__"
    if b"__main__" not in data:
        return data, buffers
    buffers.clear()
    try:
        data = by_value.dumps(lifted, in_band)
    except Exception as error:
        raise refused(value, what, error) from error
    return data, buffers


def decode_oob(data: bytes, buffers: Iterable[Any]) -> Any:
    """Read what `encode_oob` made.

    Args:
        data: the stream.
        buffers: objects with the buffer protocol, in order. Arrays are views of them, read-only
            where they are; `bytes` are taken as they are, of other buffers there is one copy.

    Raises:
        PayloadError: a class is missing here, its own code failed, or a buffer is missing.
    """
    try:
        return pickle.loads(data, buffers=buffers)  # noqa: S301 - cluster only
    except PayloadError:
        raise  # of a registered type: it says so itself
    except Exception as error:
        raise unreadable(error) from error


class _Lifted:
    """Stands for large bytes."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        restore = _bytes if isinstance(self._data, bytes) else bytearray
        return restore, (pickle.PickleBuffer(self._data),)


def _bytes(buffer: Any) -> bytes:
    return buffer if type(buffer) is bytes else bytes(buffer)


def _lift(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """Return a value with its large bytes replaced; what has none stays the very same object."""
    kind = cast("type[Any]", type(value))
    if kind is bytes or kind is bytearray:
        if len(value) < MIN_BYTES:
            return value
        return seen.setdefault(id(value), _Lifted(value))
    if depth == 0 or kind not in (tuple, list, dict):
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value  # of a container that holds itself
    inner: Any
    if kind is dict:
        fields = cast("dict[Any, Any]", value)
        inner = {key: _lift(item, seen, depth - 1) for key, item in fields.items()}
        same = all(inner[key] is fields[key] for key in fields)
    else:
        items = cast("list[Any]", value)
        parts = [_lift(item, seen, depth - 1) for item in items]
        inner = tuple(parts) if kind is tuple else parts
        same = all(new is old for new, old in zip(parts, items, strict=True))
    if not same:
        seen[id(value)] = inner
    return seen[id(value)]
