"""Events: the immutable facts that agents exchange."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, dataclass_transform

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from agentray.errors import ConfigurationError, PayloadError, UnknownEventType
from agentray.ids import TopicId, check_type_name, new_event_id
from agentray.protocol.attachments import Attachment
from agentray.protocol.chat import Chat
from agentray.protocol.codec import as_json, as_json_text
from agentray.protocol.trusted import set_extra, set_fields, set_names, set_private
from agentray.protocol.unchangeable import has_sure_json

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

_registry: dict[str, type[Event]] = {}

_NAME = "event_type"
"""Under which JSON has the name of an event's class, beside the fields."""

_NAME_FIRST = re.compile(rf'{{"{_NAME}": ("[^"\\]+"), (?=")')
"""How the text begins that `to_json_text` makes."""


_now = partial(datetime.now, UTC)


# As pydantic says of its own: type checkers do not look for it above a metaclass.
@dataclass_transform(kw_only_default=True, field_specifiers=(Field, PrivateAttr))
class _Named(ModelMetaclass):
    """Registers event classes by the name that they are given.

    A class that travels by value is made anew, empty, wherever it arrives; where it is known, the
    new one is thrown away and the known one gets everything, its name included. So the class that
    was given the name last is the one that lives.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == _NAME:
            _registry[value] = cast("type[Event]", self)


class Event(BaseModel, metaclass=_Named):
    """Something that happened. Subclass it with the fields that tell what.

    An event does not change: one whose fields hold lists, dicts and the like is copied when it is
    published, and for each recipient. What the runtime knows of it (correlation, cause, source) is
    filled in when it is published: a handler's events inherit the correlation of the event it
    handles.

    Attributes:
        event_id: unique.
        correlation_id: the conversation it belongs to; "" until it is published.
        causation_id: the event that caused it, None at the root.
        source: the agent that published it as type/key, "" outside of agents.
        time: when it was made, UTC.
        topic: what it is about, as the text of a `TopicId`; None: it is on no topic.
    """

    # `_encoded`: the bytes of one that was published, see `event_payloads`; `_answer`: what it says
    # of its run, as JSON values in a tuple. Copies have neither.
    __slots__ = ("__weakref__", "_answer", "_encoded")

    model_config = ConfigDict(frozen=True)

    event_type: ClassVar[str] = "Event"
    """Name under which subscriptions and JSON know the class: module-qualified."""

    event_lineage: ClassVar[tuple[str, ...]] = ("Event",)
    """This name, and those of the event classes that it is a subclass of, nearest first."""

    event_id: str = Field(default_factory=new_event_id)
    correlation_id: str = ""
    causation_id: str | None = None
    source: str = ""
    time: datetime = Field(default_factory=_now)
    topic: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_fields(cls)
        # A class may be made anew (a notebook cell, a module read twice): the newest one counts.
        cls.event_type = f"{cls.__module__}.{cls.__qualname__}"
        cls.event_lineage = tuple(
            base.event_type for base in cls.__mro__ if issubclass(base, Event)
        )

    @field_validator("topic", mode="before")
    @classmethod
    def _topic_as_text(cls, topic: Any) -> Any:
        if isinstance(topic, TopicId):
            return str(topic)
        return str(TopicId.parse(topic)) if isinstance(topic, str) else topic

    def __reduce__(self) -> Any:
        # In half of the time that pydantic's way takes: most of what travels is events.
        cls = type(self)
        usual = (cls.__getstate__, cls.__setstate__) == _PICKLED
        more = self.__pydantic_extra__ is not None or self.__pydantic_private__ is not None
        if more or not usual:
            return _empty, (cls,), self.__getstate__()
        return _read, (cls, self.__dict__, self.__pydantic_fields_set__)

    def content(self) -> dict[str, Any]:
        """Return the fields of the subclass as JSON values, without those of every event."""
        return self.model_dump(mode="json", exclude=_BASE_FIELDS)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values: its fields, and the name of its class as `event_type`.

        Raises:
            PayloadError: a field has no JSON form; the error names it.
        """
        return {_NAME: self.event_type, **as_json(self, f"event {self.event_type}")}

    def to_json_text(self) -> str:
        """Return the text of `to_json`.

        Raises:
            PayloadError: as `to_json`.
        """
        fields = as_json_text(self, f"event {self.event_type}")
        return f'{{"{_NAME}": {json.dumps(self.event_type)}, {fields[1:]}'

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str | bytes) -> Self:
        """Return the event that `to_json` was called on.

        Args:
            data: what it returned, or the text of it. It need not be trusted: nothing is imported.

        Raises:
            UnknownEventType: no class of its name is defined in this process.
            PayloadError: it is no event of this class, or its fields do not fit.
        """
        try:
            if isinstance(data, str) and (named := _NAME_FIRST.match(data)) is not None:
                found = cls._known_as(named[1][1:-1])
                return found.model_validate_json("{" + data[named.end() :])
            told: Any = data if isinstance(data, Mapping) else json.loads(data)
            fields = dict(cast("Mapping[str, Any]", told)) if isinstance(told, Mapping) else {}
            if not isinstance(fields.get(_NAME), str):
                raise PayloadError(f"This is no event: it has no {_NAME}.")
            found = cls._known_as(fields.pop(_NAME))
            # As text: there models read JSON as JSON, also where they are strict.
            return found.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            raise PayloadError(f"An event cannot be read: {error}") from error
        except (ValueError, TypeError) as error:
            if isinstance(error, ConfigurationError | PayloadError):
                raise
            raise PayloadError(f"An event cannot be read: {error}") from error

    @classmethod
    def _known_as(cls, name: str) -> type[Self]:
        """Return the class of this name, which is this one or below it."""
        found = event_class(name)
        if not issubclass(found, cls):
            raise PayloadError(f"This is {found.event_type}, and no {cls.event_type}.")
        return found

    def on_topic(self, topic: TopicId | str) -> Self:
        """Return this event as one on a topic.

        Raises:
            ConfigurationError: the topic is malformed.
        """
        known = topic if isinstance(topic, TopicId) else TopicId.parse(topic)
        return self.model_copy(update={"topic": str(known)})

    def caused_by(self, *, correlation_id: str, causation_id: str | None, source: str) -> Event:
        """Return this event as one that was published for a cause.

        What was set by hand stays: a correlation id that the author chose is respected.
        """
        known = self.__dict__  # past pydantic's look at each name
        if known["correlation_id"]:
            if known["source"] and (known["causation_id"] or causation_id is None):
                return self
            correlation_id = known["correlation_id"]
        fields, names = known.copy(), self.__pydantic_fields_set__
        fields["correlation_id"] = correlation_id
        caused = known["causation_id"] is None and causation_id is not None
        if caused:
            fields["causation_id"] = causation_id
        sent = not known["source"] and source
        if sent:
            fields["source"] = source
        # At once where it can be: each event that a handler publishes comes this way.
        filled = _FILLED if caused and sent else _filled(caused=caused, sent=bool(sent))
        return _copied(self, fields, names | filled)


_BASE_FIELDS = set(Event.model_fields)


def _kebab_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _check_fields(cls: type[Event]) -> None:
    """Refuse a field that every event has already: the runtime would write over it."""
    taken = {*_BASE_FIELDS, _NAME, "event_lineage"}.intersection(get_annotations(cls))
    if taken:
        raise ConfigurationError(
            f"{cls.__qualname__}.{min(taken)}: every event has a field of this name, which the "
            "runtime fills in. Give this one another name."
        )


_FILLED = frozenset({"correlation_id", "causation_id", "source"})


def _filled(*, caused: bool, sent: bool) -> frozenset[str]:
    return _FILLED - {*(() if caused else ("causation_id",)), *(() if sent else ("source",))}


_new: Any = object.__new__
_answer: Any = vars(Event)["_answer"].__get__  # past pydantic's look for what is not there
_set: Any = object.__setattr__  # an event's own refuses: it is frozen


def with_fields(event: Event, update: dict[str, Any]) -> Event:
    """Return `event.model_copy(update=update)` in half of the time."""
    names = event.__pydantic_fields_set__
    return _copied(event, {**event.__dict__, **update}, {*names, *update})


def _copied(event: Event, fields: dict[str, Any], names: set[str]) -> Event:
    """Return a copy of an event with these fields, of which those named were given."""
    if event.__pydantic_extra__ is not None or event.__pydantic_private__ is not None:
        changed = {name: fields[name] for name in names if name in fields}
        return event.model_copy(update=changed)
    return _read(type(event), fields, names)


_PICKLED: Any = (BaseModel.__getstate__, BaseModel.__setstate__)


def _empty(cls: type[Event]) -> Event:
    """Return an event of a class that has no fields yet."""
    return _new(cls)


def _read(cls: type[Event], fields: dict[str, Any], names: set[str]) -> Event:
    """Return an event of a class, with these fields, of which those named were given."""
    made: Event = _new(cls)
    set_fields(made, fields)
    set_names(made, names)
    set_extra(made, None)
    set_private(made, None)
    return made


class TerminateEvent(Event):
    """Ends its own correlation, nothing else. Its content is the run's result.

    Attributes:
        end_grace_s: seconds in which what its run has under way may still end by itself; the rest
            is then cancelled, and the run ends with its result. None: all of it goes on to its end.
    """

    end_grace_s: ClassVar[float | None] = 2.0


class Request(Event):
    """What somebody asks one agent: the root of a run. Subclass it with the fields that are asked.

    An agent that handles it answers with what its handler returns and is no event: that is the
    run's result. Clients ask with it by its name, over HTTP too, which is the class's name in kebab
    case, or what is given: `class MakeReport(Request, name="reports.make")`.
    """

    request_type: ClassVar[str] = "request"
    """Name under which clients know the class."""

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.request_type = check_type_name(name or _kebab_case(cls.__name__), "a request type")


class Prompt(Request):
    """What a person or program asks an agent in words.

    Attributes:
        text: what is asked; of a conversation, the last message of the user.
        chat: the whole conversation, where it came through an interface that has it.
        attachments: files that came with it.
        output_schema: JSON Schema of the result; a result that does not fit it ends the run as
            failed. None: whatever the agent answers.
    """

    text: str
    chat: Chat | None = None
    attachments: tuple[Attachment, ...] = ()
    output_schema: dict[str, Any] | None = None


class Ask(Event):
    """Asks a person. Return or publish it in a handler; the run then waits for the answer.

    When all else that the run set off is done, the run is `waiting`, and nothing is kept in memory
    for it. With the answer the agent that asked gets an `Answered`, in the same run: it must have a
    handler for it. Of several questions of a run the next one is asked when the first is answered.

    Attributes:
        question: what is asked.
        answer: what the answer must be: a type, such as `bool` or a pydantic model, or a JSON
            Schema; None: any JSON.
        details: what else a person, or the handler of the answer, needs to know, as JSON.
    """

    question: str
    answer: Any = None
    details: Any = None

    @field_validator("answer")
    @classmethod
    def _as_schema(cls, answer: Any) -> Any:
        if answer is None or isinstance(answer, Mapping):
            return cast("Any", answer)
        return TypeAdapter(answer).json_schema()


class Answered(Event):
    """What a person answered, for the agent that asked. What its handler returns ends the run.

    Attributes:
        question: what was asked.
        question_id: by which it is known.
        value: the answer, as JSON values.
        details: of the question.
    """

    question: str
    question_id: str
    value: Any
    details: Any = None


def check_event(event: object) -> None:
    """Refuse what could not leave later, when its handler has succeeded.

    Raises:
        PayloadError: it is no event, or it ends its run with fields that have no JSON form.
    """
    if not isinstance(event, Event):
        raise PayloadError(f"{type(event).__name__} is published, which is no event.")
    if isinstance(event, TerminateEvent):
        answer_of(event)


def answer_of(event: Event) -> Any:
    """Return the fields of an event that ends a run, as JSON values.

    Raises:
        PayloadError: they have no JSON form; it names the field.
    """
    try:
        known: tuple[Any] = _answer(event)
    except AttributeError:  # nobody has asked
        pass
    else:
        return known[0]
    what = f"content of {event.event_type}"
    try:
        answer: Any = _as_it_is(event)
        if answer is None:
            answer = as_json(event.content(), what)
        _set(event, "_answer", (answer,))
        return answer  # noqa: TRY300 - what else may fail is nothing
    except ValueError:
        fields = set(type(event).model_fields) - set(Event.model_fields)
        return as_json({name: getattr(event, name) for name in fields}, what)


def _as_it_is(event: Event) -> dict[str, Any] | None:
    """Return the content of an event whose fields are JSON already; None: that is to be seen.

    Raises:
        ValueError: a text has half of a surrogate pair.
    """
    names = _own_fields(type(event))
    if names is None:
        return None
    fields = event.__dict__
    content = {name: fields[name] for name in names}
    for value in content.values():
        if type(value) is str:
            if not value.isascii():
                value.encode()
        elif type(value) not in _PLAIN_JSON:
            return None
    return content


_PLAIN_JSON = frozenset({int, bool, type(None)})


_MAX_CLASSES = 4096
_own: dict[type[Event], tuple[str, ...] | None] = {}


def _own_fields(cls: type[Event]) -> tuple[str, ...] | None:
    """Return the fields that a class has beside those of every event; None: not all are shown."""
    try:
        return _own[cls]
    except KeyError:
        pass
    if len(_own) >= _MAX_CLASSES:
        _own.clear()  # of notebooks, where classes are made anew
    own = {n: field for n, field in cls.model_fields.items() if n not in _BASE_FIELDS}
    shown = all(field.exclude is None and field.exclude_if is None for field in own.values())
    renamed = cls.model_config.get("serialize_by_alias")
    _own[cls] = tuple(own) if has_sure_json(cls) and shown and not renamed else None
    return _own[cls]


def event_class(name: str) -> type[Event]:
    """Return the class registered under a name.

    Raises:
        UnknownEventType: no such class was defined in this process.
    """
    try:
        return _registry[name]
    except KeyError:
        raise UnknownEventType(name) from None
