"""JSON Schemas of results. Callers write them, and agents' hosts check results against them.

So they are bounded: nothing is fetched, patterns take time in proportion to what they are matched
with, and one check does at most so many steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from itertools import islice
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema

from agentray.errors import OutputInvalid, OutputSchemaInvalid

MAX_SCHEMA_BYTES = 65_536
"""Of a schema as JSON."""

MAX_STEPS = 50_000
"""Keywords that one check of a result evaluates."""

_REFUSED = ("patternProperties", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor")
_OF_NAMES = ("properties", "$defs", "definitions", "dependentSchemas")
_DATA = ("const", "enum", "default", "examples")
_MAX_DEPTH = 64

_left: ContextVar[list[int]] = ContextVar("agentray_schema_steps")


class _TooMuchError(Exception):
    pass


def check_schema(schema: object) -> dict[str, Any]:
    """Return a JSON Schema when results can be checked against it.

    Raises:
        OutputSchemaInvalid: it is none, or does what is not allowed; names the part.
    """
    if not isinstance(schema, Mapping):
        raise OutputSchemaInvalid("", "it is a JSON object")
    plain = dict(cast("Mapping[str, Any]", schema))
    _walk(plain, (), plain)
    try:
        size = len(json.dumps(plain))
    except (TypeError, ValueError) as error:
        raise OutputSchemaInvalid("", f"it is no JSON: {error}") from None
    if size > MAX_SCHEMA_BYTES:
        raise OutputSchemaInvalid("", f"it is over {MAX_SCHEMA_BYTES} bytes")
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        cast("Any", Draft202012Validator).check_schema(plain)
    except SchemaError as error:
        path = ".".join(map(str, error.absolute_path))
        raise OutputSchemaInvalid(path, str(error.message)[:500]) from None
    if (why := _invalid(None, plain)) is not None and why.reason == _BEYOND:
        raise OutputSchemaInvalid("", "it refers to itself without end")
    return plain


def schema_of(wanted: Mapping[str, Any] | type[BaseModel]) -> dict[str, Any]:
    """Return what a result shall be as a schema that results can be checked against.

    Raises:
        OutputSchemaInvalid: it is none.
    """
    schema = wanted.model_json_schema() if isinstance(wanted, type) else wanted
    return check_schema(schema)


def check_output(result: Any, schema: Mapping[str, Any]) -> None:
    """Check a result against a schema that `check_schema` has let through.

    Args:
        result: JSON.
        schema: that it must fit.

    Raises:
        OutputInvalid: it does not; names the field.
    """
    if (why := _invalid(result, schema)) is not None:
        raise why


_BEYOND = f"checking it takes more than {MAX_STEPS} steps"


def _invalid(result: Any, schema: Mapping[str, Any]) -> OutputInvalid | None:
    from jsonschema import exceptions

    best_match: Any = cast("Any", exceptions).best_match
    token = _left.set([MAX_STEPS])
    try:
        errors: Any = _validator()(schema).iter_errors(result)
        error: Any = best_match(islice(errors, 50))
    except (_TooMuchError, RecursionError):
        return OutputInvalid("result", _BEYOND)
    finally:
        _left.reset(token)
    if error is None:
        return None
    field = ".".join(map(str, ("result", *error.absolute_path)))
    return OutputInvalid(field, str(error.message)[:500])


def _walk(
    part: object, path: tuple[str, ...], whole: Mapping[str, Any], *, named: bool = False
) -> None:
    """Look through a schema for what is not allowed.

    Args:
        part: of the schema.
        path: where it is.
        whole: the schema.
        named: its keys are names of schemas, and no keywords.

    Raises:
        OutputSchemaInvalid: there is some.
    """
    if len(path) > _MAX_DEPTH:
        raise OutputSchemaInvalid(".".join(path[:8]), "it is nested too deeply")
    if isinstance(part, list | tuple):
        for number, inner in enumerate(cast("Sequence[object]", part)):
            _walk(inner, (*path, str(number)), whole)
    if not isinstance(part, Mapping):
        return
    for name, inner in cast("Mapping[str, object]", part).items():
        where = (*path, str(name))
        if not named:
            _check_keyword(name, inner, where, whole)
        if named or name not in _DATA:
            _walk(inner, where, whole, named=not named and name in _OF_NAMES)


def _check_keyword(
    name: str, value: object, where: tuple[str, ...], whole: Mapping[str, Any]
) -> None:
    if name in _REFUSED or (name == "$id" and len(where) > 1):
        raise OutputSchemaInvalid(".".join(where), "this keyword is not supported")
    if name == "$ref" and isinstance(value, str):
        _check_reference(value, where, whole)
    if name == "pattern" and isinstance(value, str):
        _check_pattern(value, where)


def _check_reference(reference: str, where: tuple[str, ...], whole: Mapping[str, Any]) -> None:
    place: Any = whole
    if reference != "#":
        if not reference.startswith("#/"):
            raise OutputSchemaInvalid(".".join(where), "only parts of the schema itself, as #/…")
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, list):
                inner = cast("list[Any]", place)
                place = inner[int(name)] if name.isdecimal() and int(name) < len(inner) else None
            else:
                place = cast("Any", place).get(name) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping | bool):
        raise OutputSchemaInvalid(".".join(where), f"there is no {reference[:100]}")


def _check_pattern(pattern: str, where: tuple[str, ...]) -> None:
    try:
        _matcher(pattern)
    except PatternError:
        told = "it is no regular expression without look-around and back references"
        raise OutputSchemaInvalid(".".join(where), told) from None


def _matcher(pattern: str) -> SchemaValidator:
    # The engine of Rust, whose time is bounded whatever the pattern.
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not _matcher(pattern).isinstance_python(instance):
        yield ValidationError(f"{instance[:100]!r} does not match {pattern[:100]!r}")


@cache
def _validator() -> Any:
    """Return the class of validators: that of the draft, counted."""
    # Here, since few processes ever need it.
    from jsonschema import Draft202012Validator, validators

    keywords: dict[str, Any] = {**cast("Any", Draft202012Validator).VALIDATORS, "pattern": _pattern}
    counted = {name: _counted(check) for name, check in keywords.items()}
    return cast("Any", validators).extend(Draft202012Validator, counted)


def _counted(check: Callable[..., Iterator[Any] | None]) -> Callable[..., Iterator[Any]]:
    def counting(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuchError
        yield from check(validator, value, instance, schema) or ()

    return counting
