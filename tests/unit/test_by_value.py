"""Values of scripts and notebooks, whose classes nobody else can import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from agentray import Event
from agentray.protocol.codec import decode, encode

READER = """
import sys
from agentray.protocol.codec import decode

values = [decode(bytes.fromhex(line.strip())) for line in sys.stdin]
print(*(type(value).__name__ for value in values))
print(type(values[0]) is type(values[1]), type(values[0]) is type(values[2].order))
print(values[1].count, values[1].twice(), values[2].order.item)
"""

WRITER = """
import enum
import pydantic
import cloudpickle
from agentray.protocol import by_value
from agentray.protocol.codec import decode, encode

class Size(enum.Enum):
    SMALL = 1

class Order(pydantic.BaseModel):
    item: str
    count: int = 1
    size: Size = Size.SMALL

    def twice(self):
        return self.count * FACTOR

class Parcel:
    def __init__(self, order):
        self.order = order
        self.pack = lambda: order.item

FACTOR = 2
for value in (Order(item="tea"), Order(item="pot", count=3), Parcel(Order(item="cup"))):
    data = encode(value)
    assert type(decode(data)) is type(value)  # to this very process
    print(data.hex())

written = [0]
dumps = cloudpickle.dumps
def counting(*args, **kwargs):
    written[0] += 1
    return dumps(*args, **kwargs)
cloudpickle.dumps = counting
for count in range(100):
    encode(Order(item="tea", count=count))
assert written[0] == 0, written
"""


def _run(code: str, path: Path, sent: str = "") -> str:
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, str(path)], input=sent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_class_is_written_once_and_is_one_class_where_it_is_read(tmp_path: Path) -> None:
    sent = _run(WRITER, tmp_path / "writer.py")
    told = _run(READER, tmp_path / "reader.py", sent).splitlines()
    assert told == ["Order Order Parcel", "True True", "3 6 cup"]


EVENTS = """
from agentray import Event
from agentray.protocol.codec import encode

class Ordered(Event):
    item: str

class Packed(Ordered):
    boxes: list[Ordered] = []

packed = Packed(item="pot", boxes=[Ordered(item="cup")])
for value in (Ordered(item="tea"), packed, Ordered(item="jar")):
    print(encode(value).hex())
"""

EVENTS_READER = """
import sys
from agentray import Event
from agentray.protocol.codec import decode

for line in [*sys.stdin] * 2:
    event = decode(bytes.fromhex(line.strip()))
    again = Event.from_json(event.to_json())
    assert type(again) is type(event), (type(again), type(event))
    assert again == event, (again, event)
    print(type(event).__name__)
"""


def test_events_of_a_script_are_found_by_name_wherever_they_were_read(tmp_path: Path) -> None:
    sent = _run(EVENTS, tmp_path / "writer.py")
    told = _run(EVENTS_READER, tmp_path / "reader.py", sent).split()
    assert told == ["Ordered", "Packed", "Ordered"] * 2


def test_an_event_of_a_class_that_a_function_defines_is_found_by_name_after_it_travelled() -> None:
    class Local(Event):
        item: str

    for _ in range(2):
        event = decode(encode(Local(item="tea")))
        assert type(event) is Local
        again = Event.from_json(event.to_json())
        assert type(again) is Local
        assert again == event


async def test_a_class_does_not_take_the_locals_of_its_function_along() -> None:
    task = asyncio.current_task()  # has no way to another process

    class Local(Event):
        item: str

    assert decode(encode(Local(item="tea"))).item == "tea"
    assert task is not None
