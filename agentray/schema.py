"""What an agent type can do, as JSON: from type hints and docstrings."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from agentray.agent import Agent
from agentray.events import Event, Request
from agentray.protocol.requests import RequestView

if TYPE_CHECKING:
    from agentray.agent import ActionSpec, AgentType

_YIELDING = (AsyncIterator, AsyncGenerator, AsyncIterable, Iterator, Generator)


def describe_agent_type(agent_type: AgentType) -> dict[str, Any]:
    """Return what an agent type can do.

    Returns:
        `type`, `doc`, `actions` (by name: `doc`, `parameters` and `returns` as JSON schema,
        `streams`, `idempotent`), `events` (what it handles), `state` (JSON schema or None).
        A type that has no JSON schema is told by its name.
    """
    model = agent_type.state_model
    return {
        "type": agent_type.name,
        "doc": _doc_of_class(agent_type.cls),
        "actions": {
            name: _describe_action(agent_type.cls, spec)
            for name, spec in sorted(agent_type.actions.items())
        },
        "events": sorted(agent_type.handlers),
        "state": None if model is None else _schema(model),
    }


def request_view(request: type[Request]) -> RequestView:
    """Return what others need to know of a type of requests."""
    schema = _schema(request)
    known: dict[str, Any] = schema.get("properties", {})
    schema["properties"] = {k: v for k, v in known.items() if k not in Event.model_fields}
    # What nobody reads was meant otherwise, unless the class says that it takes anything.
    schema.setdefault("additionalProperties", False)
    schema.pop("title", None)
    doc = _doc(request) if vars(request).get("__doc__") else ""  # not that of `Request`
    return RequestView(request.request_type, request.event_type, json.dumps(schema), doc)


def _describe_action(cls: type[Any], spec: ActionSpec) -> dict[str, Any]:
    method = getattr(cls, spec.name)
    hints = _hints(method)
    return {
        "doc": _doc(method),
        "parameters": _parameters(method, hints),
        "returns": _schema(_yielded(hints) if spec.streams else hints.get("return", Any)),
        "streams": spec.streams,
        "idempotent": spec.idempotent,
    }


def _parameters(method: Any, hints: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with the arguments by name."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        hint: Any = hints.get(parameter.name, Any)
        if parameter.kind is parameter.VAR_POSITIONAL:
            hint = list[hint]
        elif parameter.kind is parameter.VAR_KEYWORD:
            hint = dict[str, hint]
        elif parameter.default is parameter.empty:
            required.append(parameter.name)
        schema = properties[parameter.name] = _schema(hint)
        definitions |= schema.pop("$defs", {})
    found = {"type": "object", "properties": properties, "required": required}
    return {**found, "$defs": definitions} if definitions else found


def _hints(method: Any) -> dict[str, Any]:
    """Return the type hints that can be resolved; a name for type checkers only cannot."""
    try:
        return get_type_hints(method)
    except NameError:
        return {}


def _yielded(hints: dict[str, Any]) -> Any:
    hint = hints.get("return", Any)
    return get_args(hint)[0] if get_origin(hint) in _YIELDING and get_args(hint) else Any


def _schema(hint: Any) -> dict[str, Any]:
    try:
        return TypeAdapter(hint).json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema):
        return {"description": getattr(hint, "__qualname__", repr(hint))}


def _doc_of_class(cls: type[Any]) -> str:
    """Return the text of a class, or of the nearest base that the user wrote."""
    for base in cls.__mro__:
        if base is Agent:
            break
        if text := base.__dict__.get("__doc__"):
            return inspect.cleandoc(text)
    return ""


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""
