"""Events by themselves: what they are in JSON, whom they descend from, what they are about."""

from __future__ import annotations

import json
import math
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from agentray import ConfigurationError, Event, PayloadError, TerminateEvent, TopicId
from agentray.errors import UnknownEventType
from agentray.events import answer_of
from agentray.ids import check_topic_pattern

T = TypeVar("T")


class Line(BaseModel):
    item: str
    price: Decimal


class Ordered(Event):
    customer: str
    lines: tuple[Line, ...] = ()
    labels: frozenset[str] = frozenset()
    due: datetime | None = None


class Reordered(Ordered):
    times: int = 1


class Told(TerminateEvent):
    text: str
    times: int | None = None
    hidden: str = Field(default="", exclude=True)


class ToldPlainly(TerminateEvent):
    text: str
    times: int | None = None


class Strict(Event):
    model_config = ConfigDict(strict=True)

    at: datetime
    parts: tuple[int, ...]


class Weighed(Event):
    kilos: float


class Boxed(Event, Generic[T]):
    content_: T


# JSON


def test_an_event_comes_back_from_its_json_equal_and_of_its_class() -> None:
    event = Reordered(
        customer="ada",
        lines=(Line(item="tea", price=Decimal("1.10")),),
        labels=frozenset({"b", "a"}),
        due=datetime(2030, 1, 2, tzinfo=UTC),
        correlation_id="cor_1",
        causation_id="evt_0",
        source="shop/s",
        topic="orders/eu",
        times=2,
    )
    data = event.to_json()
    assert data["event_type"] == Reordered.event_type
    text = json.dumps(data)
    for told in (data, text, text.encode()):
        found = Event.from_json(told)
        assert (type(found), found) == (Reordered, event)
    assert Ordered.from_json(data) == event
    strict = Strict(at=datetime.now(UTC), parts=(1, 2))
    assert Strict.from_json(strict.to_json()) == strict


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False))
def test_whatever_json_can_say_survives_it(text: str, number: float) -> None:
    event = Weighed(kilos=number, source=text)
    if math.isinf(number):
        with pytest.raises(PayloadError, match="kilos"):
            event.to_json()
    else:
        assert Event.from_json(json.dumps(event.to_json())) == event


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        ({"event_type": "shop.Unheard"}, UnknownEventType, "shop.Unheard"),
        ({"event_type": 3}, PayloadError, "no event_type"),
        ({}, PayloadError, "no event_type"),
        ("[1]", PayloadError, "no event_type"),
        ("{", PayloadError, "cannot be read"),
        (b"\xff", PayloadError, "cannot be read"),
        (None, PayloadError, "cannot be read"),
        ({"event_type": Weighed.event_type, "kilos": "many"}, PayloadError, "kilos"),
        ({"event_type": Weighed.event_type, "kilos": object()}, PayloadError, "cannot be read"),
        ({"event_type": Weighed.event_type, "kilos": 1, "topic": "a b"}, PayloadError, "topic"),
    ],
)
def test_what_is_no_event_is_told(data: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        Event.from_json(data)


def test_an_event_of_another_class_is_refused() -> None:
    with pytest.raises(PayloadError, match=r"Weighed, and no .*Ordered"):
        Ordered.from_json(Weighed(kilos=1).to_json())


def test_an_event_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Weighed(kilos=1).kilos = 2.0


@pytest.mark.parametrize("name", ["topic", "source", "correlation_id", "event_type"])
def test_a_field_that_every_event_has_cannot_be_another_thing(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Mine\.{name}: every event has"):
        type("Mine", (Event,), {"__annotations__": {name: str}, "__module__": __name__})


# Descent


def test_an_event_knows_whose_subclass_it_is_nearest_first() -> None:
    assert Event.event_lineage == ("Event",)
    assert Reordered.event_lineage == (Reordered.event_type, Ordered.event_type, "Event")
    ended = type("Ended", (Reordered, TerminateEvent), {"__module__": __name__})
    assert ended.event_lineage == (
        ended.event_type,
        Reordered.event_type,
        Ordered.event_type,
        TerminateEvent.event_type,
        "Event",
    )
    assert Boxed[int].event_lineage == (f"{__name__}.Boxed[int]", Boxed.event_type, "Event")


# Topics


def test_a_topic_is_written_as_type_and_source() -> None:
    topic = TopicId("orders.eu", "ada/7")
    assert str(topic) == "orders.eu/ada/7"
    assert TopicId.parse("orders.eu/ada/7") == topic
    assert TopicId.parse("orders") == TopicId("orders", "default") == TopicId("orders")
    assert pickle.loads(pickle.dumps(topic)) == topic
    assert len({topic, TopicId.parse(str(topic))}) == 1


@pytest.mark.parametrize("text", ["", "/x", "a b", "orders*", "orders/", "ö/\0", "x" * 257])
def test_a_malformed_topic_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        TopicId.parse(text)
    with pytest.raises(ConfigurationError):
        Weighed(kilos=1).on_topic(text)


@pytest.mark.parametrize("pattern", ["*", "orders", "orders.*", "orders*", "a:b=c"])
def test_a_subscription_names_a_topic_or_its_beginning(pattern: str) -> None:
    assert check_topic_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["", "**", "*.orders", "orders/*", "a b*", "orders/eu"])
def test_another_pattern_of_topics_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        check_topic_pattern(pattern)


def test_an_event_takes_a_topic_as_itself_or_as_text() -> None:
    for topic in (TopicId("orders", "eu"), "orders/eu"):
        assert Weighed(kilos=1, topic=topic).topic == "orders/eu"  # type: ignore[arg-type]
        assert Weighed(kilos=1).on_topic(topic).topic == "orders/eu"
    assert Weighed(kilos=1, topic="orders").topic == "orders/default"
    assert "topic" not in Weighed(kilos=1, topic="orders").content()


# Publishing


class Secretive(Event):
    model_config = ConfigDict(extra="allow")

    said: list[str]
    _kept: int = PrivateAttr(default=0)


def _published(event: Event) -> Event:
    return event.caused_by(correlation_id="c", causation_id="e", source="a/b")


@pytest.mark.parametrize(
    "event",
    [
        Weighed(kilos=1),
        Reordered(customer="ada"),
        Secretive.model_validate({"said": ["x"], "more": 2}),
    ],
)
def test_what_is_published_is_a_copy_as_pydantic_makes_it(event: Event) -> None:
    update = {"correlation_id": "c", "causation_id": "e", "source": "a/b"}
    expected = event.model_copy(update=update)
    before = event.model_dump()
    published = _published(event)
    assert published == expected
    assert type(published) is type(event)
    assert published.model_fields_set == expected.model_fields_set
    assert published.model_extra == expected.model_extra
    assert published.__pydantic_private__ == expected.__pydantic_private__
    assert pickle.loads(pickle.dumps(published)) == expected
    assert event.model_dump() == before
    assert "source" not in event.model_fields_set
    with pytest.raises(ValidationError):
        published.source = "other"


def test_what_is_published_again_is_the_same_event() -> None:
    published = _published(Weighed(kilos=1))
    assert _published(published) is published


class Noted(Event):
    text: str
    weight: float = 1.5


def test_the_text_of_an_event_is_its_json():
    noted = Noted(text='"ä\0\n', correlation_id="c")
    assert json.loads(noted.to_json_text()) == noted.to_json()
    assert Event.from_json(noted.to_json_text()) == noted
    for wrong in (Noted(text="\ud800"), Noted(text="", weight=float("nan"))):
        with pytest.raises(PayloadError, match="Noted"):
            wrong.to_json_text()


def test_nan_and_infinity_are_words_as_others_in_a_text():
    noted = Noted(text="NaN, -Infinity")
    assert Event.from_json(noted.to_json_text()) == noted
    assert noted.to_json()["text"] == "NaN, -Infinity"


def test_the_text_of_an_event_is_read_as_any_json_of_it_is():
    noted = Noted(text="ä", topic="mood/ada")
    for told in (noted.to_json_text(), json.dumps(noted.to_json(), indent=1), noted.to_json()):
        assert Event.from_json(told) == Noted.from_json(told) == noted
    with pytest.raises(PayloadError, match="and no"):
        Weighed.from_json(noted.to_json_text())
    with pytest.raises(PayloadError, match="cannot be read"):
        Event.from_json(noted.to_json_text().replace('"ä"', "5"))
    with pytest.raises(UnknownEventType):
        Event.from_json(noted.to_json_text().replace("Noted", "Nowhere"))


@given(text=st.text(st.characters(exclude_categories=["Cs"])), times=st.none() | st.integers())
def test_what_ends_a_run_says_its_fields(text: str, times: int | None) -> None:
    assert answer_of(ToldPlainly(text=text, times=times)) == {"text": text, "times": times}
    hidden = answer_of(Told(text=text, times=times, hidden="x"))
    assert hidden == {"text": text, "times": times}


@pytest.mark.parametrize("told", [Told(text="\ud800"), ToldPlainly(text="\ud800")])
def test_what_ends_a_run_has_json(told: TerminateEvent) -> None:
    with pytest.raises(PayloadError, match="text"):
        answer_of(told)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_text_of_plain_fields_is_their_json(text: str) -> None:
    told = ToldPlainly(text=text, times=3)
    assert json.loads(told.to_json_text()) == told.to_json()
    assert ToldPlainly.from_json(told.to_json_text()) == told
