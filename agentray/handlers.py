"""Handlers of events: what `@on` says of a method, checked where it is written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.ids import check_key, check_topic_pattern
from agentray.protocol.access import AccessLevel
from agentray.protocol.codec import encode
from agentray.protocol.snapshot import CALLABLE, Subscription

Key = str | Callable[[Any], str]
"""Which instance gets an event: one of the written forms, or a function of the event."""

_FORMS = re.compile(r"correlation|topic|field:\w+|any:[1-9]\d*|key:.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EventHandler:
    """A method that handles events of a type; the fields are the arguments of `@on`."""

    method: str
    event: type[Event]
    key: Key = "correlation"
    topic: str | None = None
    subclasses: bool = False
    where: Callable[[Any], bool] | None = None
    own: bool = False
    subscribe: bool = True
    access: AccessLevel | None = None

    def subscription(self, agent_type: str) -> Subscription:
        """Return what a publisher needs to know of it.

        Raises:
            PayloadError: a function of it cannot be serialised.
        """
        key, function = (self.key, None) if isinstance(self.key, str) else (CALLABLE, self.key)
        whose = f"{agent_type}.{self.method}"
        return Subscription(
            self.event.event_type,
            agent_type,
            key,
            topic=self.topic,
            subclasses=self.subclasses,
            own=self.own,
            where=None if self.where is None else encode(self.where, f"where of {whose}"),
            key_function=encode(function, f"key of {whose}") if function is not None else None,
        )


def declare(events: tuple[type[Event], ...], key: Key | None, **said: Any) -> list[EventHandler]:
    """Return a handler for each class, without its method.

    Raises:
        ConfigurationError: what is said of them makes no sense.
    """
    if not events or not all(inspect.isclass(e) and issubclass(e, Event) for e in events):
        raise ConfigurationError("@on takes one or more Event classes: @on(TextSubmitted).")
    topic, where = said["topic"], said["where"]
    if topic is not None:
        if not isinstance(topic, str):
            raise ConfigurationError(
                f"topic={topic!r}: write the type of a topic, as 'orders' or 'orders.*'."
            )
        check_topic_pattern(topic)
    if key is None:
        key = "correlation" if topic is None else "topic"
    elif isinstance(key, str):
        check_key_form(key)
        if key == "topic" and topic is None:
            raise ConfigurationError(
                "key='topic' is for events on a topic: write topic='*' for those on any."
            )
    else:
        _check_function("key", key)
    if where is not None:
        _check_function("where", where)
    if isinstance(key, str) and key.startswith("field:") and not said["subclasses"]:
        for event in events:  # subclasses may have fields of their own
            _check_field(event, key.partition(":")[2])
    return [EventHandler("", event, key, **said) for event in dict.fromkeys(events)]


def check_key_form(key: str) -> str:
    """Return how an instance is chosen when it is one of the written forms.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(key, str) or not _FORMS.fullmatch(key):
        raise ConfigurationError(
            f"key={key!r}: write correlation, topic, field:NAME, any:N (N ≥ 1) or key:KEY."
        )
    how, _, argument = key.partition(":")
    if how == "key":
        check_key(argument)
    return key


def _check_field(event: type[Event], name: str) -> None:
    if name not in event.model_fields:
        own = ", ".join(f for f in event.model_fields if f not in Event.model_fields) or "none"
        raise ConfigurationError(
            f"key='field:{name}': {event.__name__} has no field {name!r}. Its own: {own}."
        )


def _check_function(name: str, function: Any) -> None:
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    if not callable(function) or inspect.isclass(function):
        raise ConfigurationError(f"{name}={function!r}: give it a function of the event.")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        raise ConfigurationError(
            f"{name}={function!r}: it is called while an event is published, and cannot await."
        )
