"""Payloads: what goes in comes out, by value where the receiver lacks the code, or says why not."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agentray.errors import HostDied, PayloadError, RemoteError
from agentray.protocol.codec import (
    as_json,
    decode,
    decode_error,
    encode,
    encode_arguments,
    encode_error,
    error_of,
)
from agentray.protocol.envelope import Reply, ReplyKind


@dataclass(frozen=True)
class Point:
    x: float
    label: str
    tags: tuple[str, ...] = ()


class Colour(Enum):
    RED = 1


class Order(BaseModel):
    number: int
    at: datetime


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

points = st.builds(Point, st.floats(allow_nan=False), st.text(), st.lists(st.text()).map(tuple))


# Values


@settings(deadline=None)
@given(json_values | points | st.binary() | st.sets(st.integers()))
def test_what_goes_in_comes_out(value: object) -> None:
    found = decode(encode(value))
    assert found == value
    assert type(found) is type(value)


@settings(deadline=None)
@given(st.lists(points), st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), points))
def test_arguments_arrive_as_they_were_given(args: list[Point], kwargs: dict[str, Point]) -> None:
    assert decode(encode_arguments(tuple(args), kwargs, "draw")) == (tuple(args), kwargs)


@settings(deadline=None)
@given(st.text())
def test_text_that_looks_like_a_reference_to_the_script_is_text(text: str) -> None:
    assert decode(encode(f"{text}__main__{text}")) == f"{text}__main__{text}"


@pytest.mark.parametrize("dtype", ["float64", "int8", "complex128", "bool", "U5"])
def test_arrays_arrive_with_their_shape_type_and_values(dtype: str) -> None:
    np = pytest.importorskip("numpy")  # agents use it often; agentray itself does not
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    found = decode(encode(array))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "value", [Colour.RED, Order(number=7, at=datetime(2026, 1, 1, tzinfo=UTC)), Point, len]
)
def test_members_models_classes_and_functions_of_modules_arrive(value: object) -> None:
    assert decode(encode(value)) == value


def test_closures_and_lambdas_arrive_by_value() -> None:
    factor = 3

    def scale(value: int) -> int:
        return factor * value

    assert decode(encode(scale))(5) == 15
    assert decode(encode(lambda: factor + 5))() == 8


def test_one_object_that_is_there_twice_is_one_object_afterwards() -> None:
    shared: list[int] = []
    first, second = decode(encode((shared, shared)))
    assert first is second


# By value: what the receiver cannot import

SENDER = """
import sys
from dataclasses import dataclass
from enum import Enum
from agentray import Event
from agentray.protocol.codec import encode, encode_error

class Level(Enum):
    HIGH = 2

@dataclass
class Reading:
    value: int
    level: Level

    def doubled(self):
        return twice(self.value)

class Measured(Event):
    reading: int

class OutOfRange(Exception):
    pass

def twice(value):
    return 2 * value

kind = sys.argv[1]
values = {
    "dataclass": Reading(21, Level.HIGH),
    "class": Reading,
    "function": twice,
    "event": Measured(reading=42, correlation_id="cor_1"),
    "nested": {"all": [Reading(21, Level.HIGH), (twice,)]},
}
if kind == "error":
    try:
        raise OutOfRange("42 is too much")
    except OutOfRange as error:
        data = encode_error(error)
else:
    data = encode(values[kind])
sys.stdout.buffer.write(data)
"""

RECEIVER = """
import sys
from agentray.protocol.codec import decode, decode_error

kind, data = sys.argv[1], sys.stdin.buffer.read()
value = decode_error(data) if kind == "error" else decode(data)
match kind:
    case "dataclass":
        found = (type(value).__name__, value.doubled(), value.level.name)
    case "class":
        found = (value.__name__, value(4, None).doubled())
    case "function":
        found = (value.__name__, value(21))
    case "event":
        found = (type(value).__name__, value.reading, value.correlation_id)
    case "nested":
        found = (value["all"][0].doubled(), value["all"][1][0](21))
    case "error":
        found = (type(value).__name__, str(value), "in <module>" in value.__notes__[0])
print(repr(found))
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two scripts in different directories: the one cannot import the other."""
    sender = tmp_path_factory.mktemp("driver") / "send.py"
    receiver = tmp_path_factory.mktemp("host") / "receive.py"
    sender.write_text(SENDER)
    receiver.write_text(RECEIVER)
    return sender, receiver


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("dataclass", "('Reading', 42, 'HIGH')"),
        ("class", "('Reading', 8)"),
        ("function", "('twice', 42)"),
        ("event", "('Measured', 42, 'cor_1')"),
        ("nested", "(42, 42)"),
        ("error", "('OutOfRange', '42 is too much', True)"),
    ],
)
def test_what_a_script_defines_travels_by_value_to_another_process(
    scripts: tuple[Path, Path], kind: str, found: str
) -> None:
    sender, receiver = scripts
    sent = subprocess.run([sys.executable, sender, kind], capture_output=True, check=False)
    assert sent.returncode == 0, sent.stderr.decode()
    taken = subprocess.run(
        [sys.executable, receiver, kind], input=sent.stdout, capture_output=True, check=False
    )
    assert taken.returncode == 0, taken.stderr.decode()
    assert taken.stdout.decode().strip() == found


# What cannot travel


class Unwilling:
    def __reduce__(self) -> Never:
        raise RuntimeError("I stay here")


class Unreadable:
    """Is written without complaint; its receiver fails."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (threading.Lock(), "lock"),
        ((n for n in ()), "generator"),
        (Unwilling(), "I stay here"),
    ],
)
def test_a_value_that_cannot_travel_is_named_with_the_reason(value: object, why: str) -> None:
    with pytest.raises(PayloadError, match=rf"The result of work\(\) .*{why}"):
        encode(value, "result of work()")


def test_the_argument_that_cannot_travel_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(PayloadError, match=r"argument 2 of draw\(\)"):
        encode_arguments((1, lock, lock), {"colour": lock}, "draw")
    with pytest.raises(PayloadError, match=r"colour of draw\(\)"):
        encode_arguments((1, 2), {"size": 3, "colour": lock}, "draw")


@pytest.mark.parametrize(
    "data", [encode(Unreadable()), b"", b"no pickle", encode([1, 2])[:-3], b"cno_module\nX\n."]
)
def test_a_payload_that_cannot_be_read_is_a_payload_error(data: bytes) -> None:
    with pytest.raises(PayloadError, match="cannot be read here"):
        decode(data)


# Exceptions


class OddError(Exception):
    """Pickle cannot repeat its constructor."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class NotEnough(Exception):
    """Pickle can repeat its constructor, and would tell another message."""

    def __init__(self, left: object) -> None:
        super().__init__(f"only {left} left")
        self.left = left


class Untellable(Exception):
    """Cannot be told, and holds something that stays in its process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Incomparable:
    """An argument of which no two are equal; a message holds no address of it."""

    def __repr__(self) -> str:
        return "something"


class ErrorWithFields(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.details = {"code": 7}


def raised(error: BaseException) -> BaseException:
    def where_it_happens() -> Never:
        raise error

    try:
        where_it_happens()
    except BaseException as caught:  # noqa: BLE001 - it is what this is for
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such value", 7),
        KeyError("name"),
        OSError(2, "no such file", "a.txt"),
        HostDied("greeter/ada", "host-1", "killed"),
        ErrorWithFields("with fields"),
        OddError(1, 2),
        NotEnough(3),
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    ],
)
def test_an_exception_arrives_as_itself_and_tells_where_it_was_raised(error: BaseException) -> None:
    fields, message = copy.copy(error.__dict__), str(error)
    found = decode_error(encode_error(raised(error)))
    assert type(found) is type(error)
    assert str(found) == message
    assert len(found.args) == len(error.args)
    (note,) = found.__notes__
    assert "Raised in an agent" in note
    assert Path(__file__).name in note
    assert {k: v for k, v in found.__dict__.items() if k != "__notes__"} == fields


def test_an_exception_arrives_as_itself_also_when_its_arguments_equal_only_themselves() -> None:
    found = decode_error(encode_error(raised(ValueError("no such order", Incomparable()))))
    assert isinstance(found, ValueError)
    assert isinstance(found.args[1], Incomparable)


def test_no_exception_of_a_group_changes_its_message_on_the_way() -> None:
    error = ExceptionGroup("two", [ValueError("a"), NotEnough(3)])
    found = decode_error(encode_error(raised(error)))
    told = found.traceback if isinstance(found, RemoteError) else traceback.format_exception(found)
    assert "NotEnough: only 3 left" in "".join(told)


def test_an_exception_without_a_text_is_still_told() -> None:
    found = decode_error(encode_error(raised(Untellable())))
    assert isinstance(found, RemoteError)
    assert found.type_name == "Untellable"
    assert "RuntimeError" in found.remote_message
    assert "where_it_happens" in found.traceback


def test_an_exceptions_own_notes_come_along_before_ours() -> None:
    error = ValueError("no")
    error.add_note("while paying")
    found = decode_error(encode_error(raised(error)))
    assert found.__notes__[0] == "while paying"
    assert "where_it_happens" in found.__notes__[1]


def test_an_exceptions_cause_is_told_in_the_traceback() -> None:
    error = ValueError("no")
    error.__cause__ = KeyError("the very reason")
    found = decode_error(encode_error(raised(error)))
    assert "the very reason" in found.__notes__[0]


class Holder(Exception):
    """Holds something that stays in its process."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


def test_an_exception_that_cannot_travel_is_told_as_a_remote_error() -> None:
    found = decode_error(encode_error(raised(Holder())))
    assert isinstance(found, RemoteError)
    assert (found.type_name, found.remote_message) == ("Holder", "held")
    assert "where_it_happens" in found.traceback
    assert str(found) == "Holder: held"


def test_what_is_no_exception_or_cannot_be_read_is_still_an_exception() -> None:
    assert isinstance(decode_error(b"no pickle"), PayloadError)
    found = decode_error(encode("just text"))
    assert isinstance(found, RemoteError)
    assert "just text" in str(found)


def test_the_exception_of_a_reply_is_read_from_bytes_or_taken_as_itself_within_a_process() -> None:
    error = ValueError("no")
    assert error_of(Reply(1, ReplyKind.ERROR, error)) is error
    found = error_of(Reply(1, ReplyKind.ERROR, encode_error(error)))
    assert isinstance(found, ValueError)
    assert found is not error


# JSON


@settings(deadline=None)
@given(json_values)
def test_json_values_stay_as_they_are(value: object) -> None:
    assert json.dumps(as_json(value, "result")) == json.dumps(value)


def test_models_dataclasses_dates_and_enums_have_a_json_form() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert as_json([Point(1.5, "a", ("b",)), Order(number=7, at=at), Colour.RED], "result") == [
        {"x": 1.5, "label": "a", "tags": ["b"]},
        {"number": 7, "at": "2026-01-01T00:00:00Z"},
        1,
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan_and_no_infinity(value: float) -> None:
    for answer in (value, [{"deep": (1, value)}], Point(value, "a")):
        with pytest.raises(PayloadError, match="answer is not JSON"):
            as_json(answer, "answer")


def test_what_has_no_json_form_is_refused_by_name() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in (object(), b"\xff\xfe", endless, threading.Lock()):
        with pytest.raises(PayloadError, match="The answer is not JSON"):
            as_json(value, "answer")


def test_a_payload_is_plain_pickle_where_that_suffices() -> None:
    # Ten times as fast as by value: a change here would show in every call.
    assert encode({"a": [1]}) == pickle.dumps({"a": [1]}, protocol=5)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_an_exit_is_told_and_not_repeated_at_the_caller(kind: type[BaseException]) -> None:
    found = decode_error(encode_error(raised(kind("stopped"))))
    assert isinstance(found, RemoteError)
    assert found.type_name == kind.__name__
