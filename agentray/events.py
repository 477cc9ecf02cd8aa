"""Events: the immutable facts that agents exchange."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from agentray.errors import ConfigurationError
from agentray.ids import new_id

_registry: dict[str, type[Event]] = {}


class Event(BaseModel):
    """Something that happened. Subclass it with the fields that tell what.

    An event does not change. What the runtime knows of it (correlation, cause, source) is filled in
    when it is published: a handler's events inherit the correlation of the event it handles.

    Attributes:
        event_id: unique.
        correlation_id: the conversation it belongs to; "" until it is published.
        causation_id: the event that caused it, None at the root.
        source: the agent that published it as type/key, "" outside of agents.
        time: when it was made, UTC.
    """

    model_config = ConfigDict(frozen=True)

    event_type: ClassVar[str] = "Event"
    """Name under which subscriptions and JSON know the class: module-qualified."""

    event_id: str = Field(default_factory=lambda: new_id("evt"))
    correlation_id: str = ""
    causation_id: str | None = None
    source: str = ""
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.event_type = f"{cls.__module__}.{cls.__qualname__}"
        # A class may be made anew (a notebook cell, a module read twice): the newest one counts.
        _registry[cls.event_type] = cls

    def content(self) -> dict[str, Any]:
        """Return the fields of the subclass as JSON values, without those of every event."""
        return self.model_dump(mode="json", exclude=_BASE_FIELDS)

    def caused_by(self, *, correlation_id: str, causation_id: str | None, source: str) -> Event:
        """Return this event as one that was published for a cause.

        What was set by hand stays: a correlation id that the author chose is respected.
        """
        update: dict[str, Any] = {}
        if not self.correlation_id:
            update["correlation_id"] = correlation_id
        if self.causation_id is None and causation_id is not None:
            update["causation_id"] = causation_id
        if not self.source and source:
            update["source"] = source
        return self.model_copy(update=update) if update else self


_BASE_FIELDS = set(Event.model_fields)


class TerminateEvent(Event):
    """Ends its own correlation, nothing else. Its content is the run's result."""


class Prompt(Event):
    """What a person or program asks an agent: the root of a run."""

    text: str


def event_class(name: str) -> type[Event]:
    """Return the class registered under a name.

    Raises:
        ConfigurationError: no such class was defined in this process.
    """
    try:
        return _registry[name]
    except KeyError:
        raise ConfigurationError(f"No event class {name!r} is defined here.") from None
