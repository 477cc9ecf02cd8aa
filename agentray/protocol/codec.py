"""Payloads: Python values as bytes, inside the cluster only.

Pickle protocol 5, and cloudpickle for what plain pickle would send by a name that the receiver
does not have: classes and functions of `__main__`, closures, lambdas. Nothing that comes over
HTTP is ever unpickled.
"""

from __future__ import annotations

import json
import pickle
import traceback
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import to_json, to_jsonable_python

from agentray.errors import PayloadError, RemoteError
from agentray.protocol import blame, by_value
from agentray.protocol.envelope import Copied, Large, Reply, Shared
from agentray.protocol.unchangeable import has_sure_json

NO_ARGUMENTS = pickle.dumps(((), {}), protocol=5)


def encode(value: Any, what: str = "value") -> bytes:
    """Serialise a value.

    Args:
        value: anything that pickles.
        what: how an error names it.

    Raises:
        PayloadError: it cannot be serialised; the message says why.
    """
    try:
        data = pickle.dumps(value, protocol=5)
    except Exception:  # noqa: BLE001 - a value's own __reduce__ may raise anything
        return _encode_by_value(value, what)
    # Plain pickle refers to a class of the user's script as `__main__.X`, which another process
    # does not have. The text may also occur in data: then cloudpickle is only slower.
    return _encode_by_value(value, what) if b"__main__" in data else data


def _encode_by_value(value: Any, what: str) -> bytes:
    try:
        return by_value.dumps(value)
    except Exception as error:
        raise refused(value, what, error) from error


def refused(value: object, what: str, error: Exception) -> PayloadError:
    """Return the error of a value that cannot be serialised; it names the part that is to blame."""
    found = blame.find(value, _why_not, error)
    return PayloadError(f"The {what} cannot be serialised: {found}.", what=what, path=found.path)


def _why_not(value: object) -> Exception | None:
    try:
        by_value.dumps(value)
    except Exception as error:  # noqa: BLE001 - a value's own __reduce__ may raise anything
        return error
    return None


PLAIN = frozenset({int, float, str, bool, type(None)})
"""Types whose values cannot be changed: between agents of one process they travel as they are."""


_SHORT_TEXT = 256
_LARGE_NUMBER = 1 << 64


def goes_as_it_is(value: Any) -> bool:
    """Whether a value is plain and small: it needs no pickle of its own within its frame's.

    A call with such arguments and result takes a sixth less of the CPU time of both sides.
    """
    kind = cast("type[object]", type(value))
    if kind is str:
        return len(value) <= _SHORT_TEXT
    if kind is int:
        return -_LARGE_NUMBER < value < _LARGE_NUMBER
    return kind in PLAIN


def decode(data: Any) -> Any:
    """Read what `encode`, `encode_call` or `encode_result` made; a plain value is what it is.

    What is `Shared` is read once: only for values that nobody can change, as most events.

    Raises:
        PayloadError: a class is missing here, or its own code failed.
    """
    try:
        if type(data) is bytes:
            return pickle.loads(data)
        if type(data) is Large:
            return pickle.loads(data.parts[0], buffers=data.parts[1:])
        if type(data) is Shared:
            if data.value is None:
                data.value = pickle.loads(data)
            return data.value
        if type(data) is Copied:
            return pickle.loads(data)
    except PayloadError:
        raise  # of a registered type: it says so itself
    except Exception as error:
        raise unreadable(error) from error
    return data


def unreadable(error: Exception) -> PayloadError:
    """Return the error of a payload that cannot be read."""
    return PayloadError(
        f"A payload cannot be read here: {type(error).__name__}: {error}. Is the code that "
        "defines it importable on every host?"
    )


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], action: str) -> bytes:
    """Serialise a call's arguments; an error names the argument that is to blame.

    Raises:
        PayloadError: one of them cannot be serialised.
    """
    if not args and not kwargs:
        return NO_ARGUMENTS
    try:
        return encode((args, kwargs), f"arguments of {action}()")
    except PayloadError:
        for name, value in [
            *((f"argument {i + 1}", v) for i, v in enumerate(args)),
            *kwargs.items(),
        ]:
            encode(value, f"{name} of {action}()")
        raise


def as_json(value: Any, what: str) -> Any:
    """Return a value as plain JSON values.

    Args:
        value: JSON values, pydantic models, dataclasses, dates and the like.
        what: how an error names it.

    Raises:
        PayloadError: it has no JSON form; NaN, infinities and lone surrogates have none.
    """
    try:
        return _plain(value)
    except (ValueError, TypeError) as error:  # pydantic's serialisation error is a ValueError
        found = blame.find(value, _why_no_json, error)
        raise PayloadError(
            f"The {what} is not JSON: {found}.", what=what, path=found.path
        ) from error


def as_json_text(value: Any, what: str) -> str:
    """Return the text of `as_json`.

    Raises:
        PayloadError: as `as_json`.
    """
    try:
        if isinstance(value, BaseModel) and has_sure_json(type(value)):
            return to_json(value).decode()
        return _text(to_jsonable_python(value))
    except (ValueError, TypeError):
        as_json(value, what)  # raises what it is, with its place
        raise


def _plain(value: object) -> Any:
    plain = to_jsonable_python(value)
    _text(plain)
    return plain


def _text(plain: object) -> str:
    """Return the JSON of plain values; half of a surrogate pair is refused: it cannot be written.

    Not by the `json` of Python, which takes ten times as long.
    """
    text = to_json(plain, inf_nan_mode="constants")
    if b"NaN" in text or b"Infinity" in text:  # most likely within a text
        json.dumps(plain, allow_nan=False)
    return text.decode()


def _why_no_json(value: object) -> Exception | None:
    try:
        _plain(value)
    except (ValueError, TypeError) as error:
        return error
    return None


def encode_error(error: BaseException) -> bytes:
    """Serialise an exception so that it surely arrives.

    The exception itself, with the remote traceback as a note, when a copy of it says the same; else
    a `RemoteError` that tells its type, message and traceback. So do exits, interrupts and
    cancellations: raised at the caller, they would end what is not theirs.
    """
    told = "".join(traceback.format_exception(error))
    ways = (_as_it_is, _without_constructor) if isinstance(error, Exception) else ()
    for carry in ways:
        try:
            copy = pickle.loads(carry(error))
            if _says_the_same(copy, error):
                copy.add_note(f"Raised in an agent:\n{told}")
                return carry(copy)
        except Exception:  # noqa: BLE001, S112 - whatever it is, the caller shall hear of the first
            continue
    return encode(RemoteError(type(error).__qualname__, text_of(error), told))


def _says_the_same(copy: BaseException, error: BaseException) -> bool:
    """Compare by what is told: many arguments, exceptions among them, equal only themselves."""
    if type(copy) is not type(error) or str(copy) != str(error):
        return False
    inner, theirs = (_inner(e) for e in (copy, error))
    return len(copy.args) == len(error.args) and all(map(_says_the_same, inner, theirs))


def _inner(error: BaseException) -> tuple[BaseException, ...]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def _as_it_is(error: BaseException) -> bytes:
    return encode(error)


def _without_constructor(error: BaseException) -> bytes:
    """Many constructors take other arguments than those that `args` holds: leave them out."""
    return encode(_Carried(type(error), error.args, error.__dict__))


class _Carried:
    """An exception in parts; unpickles as the exception."""

    def __init__(
        self, cls: type[BaseException], args: tuple[Any, ...], fields: dict[str, Any]
    ) -> None:
        self._parts = (cls, args, fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, self._parts


def _rebuild_error(
    cls: type[BaseException], args: tuple[Any, ...], fields: dict[str, Any]
) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


def text_of(error: BaseException) -> str:
    """Return what an exception says; one of the user's may fail to say it."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a __str__ of the user's
        return f"(its text cannot be told: {type(broken).__name__})"


def decode_error(data: bytes | Large) -> BaseException:
    """Read what `encode_error` made; a class that is missing here gives a `PayloadError`."""
    try:
        error = decode(data)
    except PayloadError as unreadable:
        return unreadable
    return error if isinstance(error, BaseException) else RemoteError("Error", repr(error), "")


def error_of(reply: Reply) -> BaseException:
    """Return the exception of a reply that carries one; inside one process it travels as itself."""
    return (
        decode_error(reply.payload) if isinstance(reply.payload, bytes | Large) else reply.payload
    )
