"""The state of an agent in memory: read from what is kept, and made into what will be.

Nothing here waits or writes: the incarnation decides when, its host commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from agentray.agent import Agent, AgentType
from agentray.errors import PayloadError, StateInvalid, StateRefused, StateTooNew
from agentray.ids import AgentId
from agentray.protocol.codec import as_json, text_of
from agentray.store.base import StateWrite


def take_in(agent: Agent, kind: AgentType, kept: StateWrite | None) -> bytes | None:
    """Give an agent its kept state, or a new one.

    Returns:
        What `dump` will give as long as nothing changes; None: nothing is kept yet.

    Raises:
        StateTooNew: it was kept by newer code.
        StateInvalid: it does not fit this code, or its migration failed.
    """
    if kept is None:
        if kind.state_model is not None:
            agent.state = kind.state_model()
        return None
    name, version = str(agent.id), kept.schema_version
    if version > kind.state_version:
        raise StateTooNew(name, version, kind.state_version)
    data = dict(kept.state)
    try:
        if version < kind.state_version:
            data = kind.cls.migrate_state(data, version)
        agent.load_state(data)
        return dump(agent, kind)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise StateInvalid(name, version, field, f"{first['msg']}.") from error
    except Exception as error:
        why = f"{type(error).__name__}: {text_of(error)}"
        raise StateInvalid(name, version, "", why) from error


def dump(agent: Agent, kind: AgentType) -> bytes:
    """Return what is to be kept of an agent, as JSON.

    Raises:
        StateRefused: it has no JSON form.
    """
    state = agent.state
    if not kind.saves_by_itself and type(state) is kind.state_model:
        try:
            # Its types are looked at when it has changed: most handlers change nothing.
            return state.__pydantic_serializer__.to_json(state, warnings=False)
        except (ValueError, TypeError):
            return json.dumps(_plain(agent)).encode()
    if not kind.saves_by_itself and not isinstance(agent.state, kind.state_model or BaseModel):
        raise StateRefused(str(agent.id), f"it is a {type(agent.state).__name__}, not its model.")
    value: Any = agent.save_state()
    if not isinstance(value, Mapping):
        raise StateRefused(
            str(agent.id), f"save_state returned a {type(value).__name__}, not a dict."
        )
    return json.dumps(_as_json(agent.id, cast("object", value))).encode()


def _check_types(agent: Agent, model: type[BaseModel]) -> None:
    """Refuse a state that would not be read back, with the handler that left it.

    A tuple where a list belongs is read back as one, a text where a number belongs is not.
    """
    state: BaseModel = agent.state
    try:
        state.__pydantic_serializer__.to_json(state, warnings="error")
    except PydanticSerializationError:
        try:
            model.model_validate(_plain(agent))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise StateRefused(str(agent.id), f"{field}: {first['msg']}.") from error


def _check_numbers(agent: Agent, plain: object) -> None:
    """Refuse NaN and infinities where they would be kept as null."""
    found = _lost_number(cast("BaseModel", agent.state).model_dump(warnings=False), plain)
    if found is not None:
        where, number = ".".join(found[0]), found[1]
        raise StateRefused(str(agent.id), f"The state is not JSON: {where} is a float, {number}.")


def _lost_number(value: object, plain: object) -> tuple[tuple[str, ...], float] | None:
    """Return where a number has become null, and which one."""
    if isinstance(value, float):
        return ((), value) if plain is None else None
    if isinstance(value, dict) and isinstance(plain, dict):
        values = cast("dict[object, object]", value).values()
        items = cast("dict[object, object]", plain).items()
        pairs: list[tuple[object, object, object]] = [
            (key, inner, kept) for inner, (key, kept) in zip(values, items, strict=False)
        ]
    elif isinstance(value, list | tuple | set | frozenset) and isinstance(plain, list):
        inners = cast("Iterable[object]", value)
        both = zip(inners, cast("list[object]", plain), strict=False)
        pairs = [(number, inner, kept) for number, (inner, kept) in enumerate(both)]
    else:
        return None
    for step, inner, inner_plain in pairs:
        found = _lost_number(inner, inner_plain)
        if found is not None:
            return (str(step), *found[0]), found[1]
    return None


def _plain(agent: Agent) -> Any:
    try:
        plain = cast("BaseModel", agent.state).model_dump(mode="json", warnings=False)
    except (ValueError, TypeError):  # pydantic's and Unicode's errors are ValueErrors
        plain = agent.state  # `as_json` says which part of it has no JSON
    return _as_json(agent.id, plain)


def _as_json(agent: AgentId, value: object) -> Any:
    try:
        return as_json(value, "state")
    except PayloadError as error:
        raise StateRefused(str(agent), str(error)) from error


def to_write(agent: Agent, kind: AgentType, data: bytes, max_bytes: int) -> StateWrite:
    """Return what is written to the Store for a state that has changed.

    Raises:
        StateRefused: it is larger than `max_bytes`, would not be read back, or JSON has no word
            for a number in it.
    """
    if len(data) > max_bytes:
        raise StateRefused(
            str(agent.id),
            f"it is {len(data):,} bytes of JSON, and AGENTRAY_MAX_STATE_BYTES is {max_bytes:,}. "
            "Keep large values elsewhere, and their names in the state.",
        )
    plain = json.loads(data)
    if kind.state_model is not None and not kind.saves_by_itself:
        _check_types(agent, kind.state_model)
        if b"null" in data:
            _check_numbers(agent, plain)  # pydantic writes NaN and infinities as null
    return StateWrite(agent.id, plain, kind.state_version)


def restore(agent: Agent, kind: AgentType, data: bytes | None) -> None:
    """Undo what a handler did: give an agent the state that was dumped before."""
    if data is not None:
        agent.load_state(json.loads(data))
    elif kind.state_model is not None:
        agent.state = kind.state_model()


def go_back(agent: Agent, kind: AgentType, state: BaseModel | None, data: bytes) -> None:
    """Undo what a re-entrant handler did.

    The model stays the same object: the handlers that wait for this one may hold it.
    """
    try:
        unchanged = agent.state is state and dump(agent, kind) == data
    except Exception:  # noqa: BLE001 - what it left has no JSON form
        unchanged = False
    if unchanged:
        return
    if kind.saves_by_itself or state is None:
        agent.load_state(json.loads(data))
    else:
        # What pickling makes of a model and back, into this very object.
        state.__setstate__(type(state).model_validate(json.loads(data)).__getstate__())
        agent.state = state
