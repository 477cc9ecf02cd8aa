"""Own types in messages, the part of a value that is to blame, and large values without copies."""

from __future__ import annotations

import asyncio
import functools
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from agentray import (
    Agent,
    App,
    ConfigurationError,
    Event,
    PayloadError,
    Prompt,
    action,
    on,
    payloads,
)
from agentray.errors import UnknownPayload
from agentray.protocol.buffers import MIN_BYTES, decode_oob, encode_oob
from agentray.protocol.codec import decode, encode, encode_arguments
from agentray.testing import LocalRuntime

# Own types


class Camera:
    """Holds something that does not pickle; another one of the same kind can be opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()

    @classmethod
    def opened(cls, name: str) -> Camera:
        if not name:
            raise ValueError("no name")
        return cls(name)


payloads.register(Camera, encode=lambda camera: camera.name, decode=Camera.opened)


class Wide(Camera):
    """A subclass that nobody has registered."""


class Photographer(Agent):
    @action
    async def lend(self, cameras: list[Camera]) -> Camera:
        return cameras[-1]


async def test_values_of_a_registered_type_travel_deep_in_others_and_back() -> None:
    async with LocalRuntime(hosts=1) as manager:
        await manager.deploy(App("photos", [Photographer]))
        lent = await manager.handle(Photographer, "p").lend([Camera("one"), Camera("two")])
    assert (type(lent), lent.name) == (Camera, "two")
    (again, _) = decode_oob(*encode_oob((lent, bytes(MIN_BYTES))))
    assert again.name == "two"


def test_a_subclass_is_not_registered_with_it() -> None:
    with pytest.raises(PayloadError, match=r"\.lock is a _thread\.lock"):
        encode(Wide("w"))


def test_equally_named_classes_of_two_modules_do_not_clash() -> None:
    def make(module: str, mark: str) -> Any:
        cls: Any = type("Money", (), {"__module__": module})
        payloads.register(cls, encode=lambda money: money.amount, decode=lambda a: (mark, a))
        money = cls()
        money.amount = 5
        return money

    first, second = make("shop.money", "shop"), make("bank.money", "bank")
    assert (decode(encode(first)), decode(encode(second))) == (("shop", 5), ("bank", 5))


def test_a_name_belongs_to_one_class_which_may_be_made_anew() -> None:
    def make(name: str) -> type[Any]:
        return type(name, (), {"__module__": "lab"})

    for cls in (make("Sample"), make("Sample")):  # as when a module is read twice
        payloads.register(cls, encode=lambda _: 1, decode=lambda _: "read", name="sample")
        assert decode(encode(cls())) == "read"
    with pytest.raises(ConfigurationError, match=r"'sample' is taken by lab\.Sample"):
        payloads.register(make("Probe"), encode=lambda _: 1, decode=lambda _: 2, name="sample")


def test_an_encode_that_fails_is_told_at_the_sender_and_a_decode_at_the_receiver() -> None:
    class Unfit:
        pass

    def fail(_: Any) -> Any:
        raise RuntimeError("not today")

    payloads.register(Unfit, encode=fail, decode=fail, name="unfit")
    with pytest.raises(PayloadError, match=r"\['x'\] is a .*Unfit .*not today"):
        encode({"x": Unfit()})
    payloads.register(Unfit, encode=lambda _: 1, decode=fail, name="unfit")
    data = encode(Unfit())
    with pytest.raises(PayloadError, match=r"registered type 'unfit' cannot be read: .*not today"):
        decode(data)


MODULE = """
from agentray import payloads

class Money:
    __slots__ = ("amount",)
    def __init__(self, amount):
        self.amount = amount
    def __reduce__(self):
        raise RuntimeError("not by itself")

payloads.register(Money, encode=lambda money: money.amount, decode=Money)
"""

SENDER = """
import sys
from agentray.protocol.codec import encode
{define}
sys.stdout.buffer.write(encode([Money(5)]))
"""

RECEIVER = """
import sys
from agentray.protocol.codec import decode, encode
data = sys.stdin.buffer.read()
try:
    (money,) = decode(data)
except Exception as error:
    print(type(error).__name__, error)
else:
    again, = decode(encode([money]))  # it can be sent on
    print(type(money).__name__, again.amount, type(again) is type(money))
"""


def exchange(tmp_path: Path, sender: str, *, importable: bool) -> str:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "wallet.py").write_text(MODULE)
    (tmp_path / "lib" / "unhelpful.py").write_text("")
    (tmp_path / "send.py").write_text(sender)
    (tmp_path / "receive.py").write_text(RECEIVER)
    env = {"PYTHONPATH": f"{tmp_path / 'lib'}:{Path(payloads.__file__).parents[1]}"}
    there = env if importable else {"PYTHONPATH": str(Path(payloads.__file__).parents[1])}
    run = functools.partial(subprocess.run, capture_output=True, check=True)
    sent = run([sys.executable, tmp_path / "send.py"], env=env)
    taken = run([sys.executable, tmp_path / "receive.py"], input=sent.stdout, env=there)
    return taken.stdout.decode().strip()


def test_the_registration_comes_with_the_module_that_makes_it(tmp_path: Path) -> None:
    sender = SENDER.format(define="from wallet import Money")
    assert exchange(tmp_path, sender, importable=True) == "Money 5 True"


def test_a_registration_in_a_script_travels_with_the_value(tmp_path: Path) -> None:
    assert exchange(tmp_path, SENDER.format(define=MODULE), importable=False) == "Money 5 True"


def test_a_registration_that_the_receiver_lacks_is_named(tmp_path: Path) -> None:
    sender = SENDER.format(define="from wallet import Money")
    told = exchange(tmp_path, sender, importable=False)
    assert told.startswith("UnknownPayload A value of the registered type 'wallet.Money'")
    assert "No module named 'wallet'" in told


def test_a_module_that_does_not_register_what_it_sent_is_named() -> None:
    with pytest.raises(UnknownPayload, match="importing 'json' does not register it"):
        payloads._restore("x.Y", "json", 1)  # pyright: ignore[reportPrivateUsage]


# What is to blame


@dataclass
class Config:
    name: str
    lock: Any = None
    deep: dict[str, Any] = field(default_factory=dict[str, Any])


class Job(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    config: Any = None
    _hidden: Any = None

    def hide(self, what: Any) -> Job:
        self._hidden = what
        return self


class Pair(NamedTuple):
    left: Any
    right: Any


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b


class Selective:
    """Sends less than it has."""

    def __init__(self, kept: Any) -> None:
        self.lock = threading.Lock()
        self.kept = kept

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept}


class Uncooperative:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay")


class Unsaid:
    def __getstate__(self) -> Any:
        raise RuntimeError("no state")


def closure(lock: object) -> Callable[[], object]:
    return lambda: lock


LOCK = threading.Lock()
HUGE: list[Any] = [*range(5000), {"x": LOCK}, *range(5000)]


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (LOCK, "", "_thread.lock"),
        (Job(config=Config("a", lock=LOCK)), ".config.lock", "_thread.lock"),
        (Job.model_validate({"config": 1, "more": [LOCK]}), ".more[0]", "_thread.lock"),
        (Job().hide({"k": LOCK}), "._hidden['k']", "_thread.lock"),
        (Config("a", deep={"x": [1, (2, LOCK)]}), ".deep['x'][1][1]", "_thread.lock"),
        ([Pair(1, LOCK)], "[0].right", "_thread.lock"),
        ({LOCK: 1}, f".key({LOCK!r})"[:45], "_thread.lock"),
        (Slotted(1, LOCK), ".b", "_thread.lock"),
        (Selective([LOCK]), ".kept[0]", "_thread.lock"),
        ([Uncooperative()], "[0]", "Uncooperative"),
        ([Unsaid()], "[0]", "Unsaid"),
        (closure(LOCK), ".lock", "_thread.lock"),
        (functools.partial(print, LOCK), ".args[0]", "_thread.lock"),
        (ValueError("no", LOCK), ".args[1]", "_thread.lock"),
        ((n for n in ()), "", "generator"),
        (HUGE, "[5000]['x']", "_thread.lock"),
    ],
    ids=itertools.count(),  # the same in each process: not what a lock is called
)
def test_the_part_that_cannot_be_serialised_is_named(value: object, path: str, kind: str) -> None:
    for way in (encode, encode_oob):
        with pytest.raises(PayloadError) as caught:
            way(value, "result of work()")
        error = caught.value
        assert error.what == "result of work()"
        assert error.path.startswith(path)
        assert f"cannot be serialised: {error.path or 'it'} is a" in str(error)
        assert kind in str(error)


def test_what_holds_itself_is_blamed_in_the_end() -> None:
    endless: dict[str, Any] = {"lock": LOCK}
    endless["me"] = endless
    with pytest.raises(PayloadError, match="lock"):
        encode(endless)


def test_the_argument_and_its_part_are_named() -> None:
    job = Job(config=Config("a", lock=LOCK))
    with pytest.raises(
        PayloadError,
        match=r"argument 2 of submit\(\) cannot be serialised: \.config\.lock is a _thread\.lock",
    ):
        encode_arguments((1, job), {}, "submit")
    with pytest.raises(PayloadError, match=r"The job of submit\(\) .*: \.config\.lock is a"):
        encode_arguments((), {"job": job}, "submit")


class Submitted(Event):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    job: Any


class Desk(Agent):
    @on(Prompt)
    async def submit(self, prompt: Prompt) -> Submitted:
        return Submitted(job=Job(config=Config(prompt.text, lock=LOCK)))


class Worker(Agent):
    @on(Submitted, key="field:correlation_id")
    async def work(self, submitted: Submitted) -> None: ...


async def test_the_field_of_an_event_is_named_in_the_run_that_it_fails() -> None:
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(App("jobs", [Desk, Worker]))
        # To agents of both hosts: within one, events are not serialised.
        runs = [await manager.prompt("go", agent=f"desk/{n}") for n in range(20)]
    errors = [run.error for run in runs if run.error is not None]
    assert errors
    for error in errors:
        assert error.type == "PayloadError"
        assert "Submitted cannot be serialised: .job.config.lock is a" in error.message


# Large values


def test_large_bytes_and_arrays_go_apart_and_come_back_without_a_copy() -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(200_000, dtype="float64").reshape(1000, 200)
    text, raw = bytes(MIN_BYTES), bytearray(b"x" * MIN_BYTES)
    value = ((array, text), {"raw": raw, "small": b"12", "list": [text]})
    data, buffers = encode_oob(value)
    assert len(data) < 2000
    assert [memoryview(buffer).nbytes for buffer in buffers] == [array.nbytes, MIN_BYTES, MIN_BYTES]
    assert np.shares_memory(np.frombuffer(buffers[0], dtype="float64"), array)

    given = [bytes(memoryview(buffer).cast("B")) for buffer in buffers]
    (found, found_text), more = decode_oob(data, given)
    assert np.array_equal(found, array)
    assert np.shares_memory(found, np.frombuffer(given[0]))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1.0
    assert found_text is given[1]
    assert (more["raw"], type(more["raw"])) == (raw, bytearray)
    assert more["list"][0] is found_text
    more["raw"][0] = 1  # one's own


def test_writable_buffers_give_writable_arrays_and_bytes_stay_bytes() -> None:
    np = pytest.importorskip("numpy")
    data, buffers = encode_oob([np.zeros(MIN_BYTES), bytes(MIN_BYTES)])
    copies = [bytearray(memoryview(buffer).cast("B")) for buffer in buffers]
    found, text = decode_oob(data, copies)
    found[0] = 5.0
    assert np.frombuffer(copies[0])[0] == 5.0
    assert (type(text), text) == (bytes, bytes(MIN_BYTES))


@pytest.mark.parametrize(
    "value", [None, 5, "text", b"short", [1, (2, {"x": {3}})], Config("a"), bytes(MIN_BYTES - 1)]
)
def test_small_values_have_no_buffers(value: object) -> None:
    data, buffers = encode_oob(value)
    assert buffers == []
    assert decode_oob(data, []) == value


def test_one_object_that_is_there_twice_is_one_object_afterwards() -> None:
    shared = [bytes(MIN_BYTES)]
    endless: list[Any] = [bytes(MIN_BYTES)]
    endless.append(endless)
    data, buffers = encode_oob((shared, shared, [shared]))
    assert len(buffers) == 1
    first, second, (third,) = decode_oob(data, buffers)
    assert first is second is third
    assert shared == [bytes(MIN_BYTES)]  # the sender's own is as it was
    found = decode_oob(*encode_oob(endless))
    assert found[0] == endless[0]
    assert found[1][0] == endless[0]


def test_what_a_script_would_define_takes_the_other_way_with_its_buffers() -> None:
    data, buffers = encode_oob((lambda: 5, bytes(MIN_BYTES)))
    function, text = decode_oob(data, buffers)
    assert (function(), len(text), len(buffers)) == (5, MIN_BYTES, 1)


def test_a_missing_buffer_is_a_payload_error() -> None:
    data, _ = encode_oob(bytes(MIN_BYTES))
    with pytest.raises(PayloadError, match="cannot be read here"):
        decode_oob(data, [])


# Values that need no pickle of their own


class Mirror(Agent):
    @action
    async def show(self, *args: Any) -> tuple[list[str], list[Any]]:
        return [type(arg).__name__ for arg in args], list(args)

    @action
    async def give_back(self, value: Any) -> Any:
        return value

    @action
    async def pass_on(self, value: Any) -> Any:
        return await self.handle(Mirror, "other").give_back(value)


_PLAIN_ONES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([1 << 64, -(1 << 64), (1 << 64) - 1, 1 << 5000]),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(["", "x" * 256, "x" * 257, "x" * 2 * MIN_BYTES, "\ud800", "__main__"]),
    st.binary(max_size=20),
)


@settings(deadline=None, max_examples=15)
@given(values=st.lists(_PLAIN_ONES, min_size=1, max_size=12))
def test_plain_values_come_through_as_they_are(values: list[Any]) -> None:
    async def scenario() -> None:
        async with LocalRuntime(hosts=2) as manager:
            await manager.deploy(App("mirrors", [Mirror]))
            mirror = manager.handle(Mirror, "m")
            for _ in range(2):  # the first message to an agent finds its way, later ones know it
                types, shown = await mirror.show(*values)
                assert types == [type(value).__name__ for value in values]
                assert shown == values
            for value in values:
                for back in (await mirror.give_back(value), await mirror.pass_on(value)):
                    assert type(back) is type(value)
                    assert back == value

    asyncio.run(scenario())
