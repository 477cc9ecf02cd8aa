"""Output schemas: what is one, what fits it, and that checking is bounded whoever wrote it."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentray.core.output_schemas import check_output, check_schema, schema_of
from agentray.errors import OutputInvalid, OutputSchemaInvalid


class Item(BaseModel):
    name: str
    amount: int = 1


class Order(BaseModel):
    items: list[Item]
    note: str | None = None


FINE: list[tuple[dict[str, Any], Any, Any]] = [
    ({}, None, None),
    ({"type": "string"}, "a", 1),
    ({"enum": [1, {"$ref": "http://x"}]}, 1, 2),
    ({"type": "string", "pattern": "^a+$"}, "aaa", "b"),
    ({"properties": {"pattern": {"type": "null"}, "$ref": {"const": 1}}}, {"$ref": 1}, {"$ref": 2}),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, None, 1),
    ({"$ref": "#/definitions/x", "definitions": {"x": {"minimum": 3}}}, 3, 2),
    (
        {"properties": {"next": {"$ref": "#"}}, "required": ["n"]},
        {"n": 1, "next": {"n": 2}},
        {"n": 1, "next": {}},
    ),
    ({"$id": "http://x", "$schema": "http://json-schema.org/draft-07/schema#"}, [], None),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, "x"),
]  # fmt: skip

WRONG: list[tuple[Any, str]] = [
    ([], ""),
    ("string", ""),
    ({"type": "text"}, "type"),
    ({"properties": {"a": {"minimum": "x"}}}, "properties.a.minimum"),
    ({"$ref": "http://example.com/schema"}, "$ref"),
    ({"$ref": "file:///etc/passwd"}, "$ref"),
    ({"properties": {"a": {"$ref": "#/$defs/missing"}}}, "properties.a.$ref"),
    ({"$ref": "#anchor"}, "$ref"),
    ({"patternProperties": {"^(a+)+$": {}}}, "patternProperties"),
    (
        {"properties": {"properties": {"patternProperties": {}}}},
        "properties.properties.patternProperties",
    ),
    ({"properties": {"a": {"$id": "http://x"}}}, "properties.a.$id"),
    ({"pattern": "("}, "pattern"),
    ({"items": {"pattern": r"(?=a)b"}}, "items.pattern"),
    ({"items": {"pattern": r"(a)\1"}}, "items.pattern"),
    ({"$ref": "#"}, ""),
    ({"allOf": [{"$ref": "#"}]}, ""),
    ({"title": "x" * 70_000}, ""),
    ({"const": {1, 2}}, ""),
]


@pytest.mark.parametrize(("schema", "fits", "does_not"), FINE)
def test_results_that_fit_pass_and_others_do_not(
    schema: dict[str, Any], fits: Any, does_not: Any
) -> None:
    check_output(fits, check_schema(schema))
    if does_not is not None:
        with pytest.raises(OutputInvalid):
            check_output(does_not, schema)


@pytest.mark.parametrize(("schema", "field"), WRONG)
def test_what_is_wrong_with_a_schema_is_named(schema: Any, field: str) -> None:
    with pytest.raises(OutputSchemaInvalid) as wrong:
        check_schema(schema)
    assert wrong.value.field == field


def test_the_field_of_a_result_that_is_wrong_is_named() -> None:
    schema = schema_of(Order)
    check_output({"items": [{"name": "tea"}]}, schema)
    with pytest.raises(OutputInvalid) as wrong:
        check_output({"items": [{"name": "tea"}, {"name": 1}]}, schema)
    assert wrong.value.field == "result.items.1.name"
    with pytest.raises(OutputInvalid):
        check_output({}, schema)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def laughs(levels: int) -> dict[str, Any]:
    """A schema that is short, and takes two to the power of its levels."""
    laugh = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/l0", "$defs": {**laugh, f"l{levels}": {"type": "integer"}}}


@pytest.mark.parametrize("schema", [deep(50_000), deep(300), laughs(60)])
def test_a_schema_that_would_take_for_ever_is_refused_soon(schema: dict[str, Any]) -> None:
    begun = time.process_time()
    with pytest.raises((OutputSchemaInvalid, OutputInvalid)):
        check_output(1, check_schema(schema))
    assert time.process_time() - begun < 20


def test_a_pattern_takes_time_in_proportion_to_its_text() -> None:
    schema = check_schema({"type": "string", "pattern": "^(a+)+$"})
    with pytest.raises(OutputInvalid):
        check_output("a" * 50_000 + "b", schema)


def test_a_large_result_is_not_checked_for_ever() -> None:
    schema = check_schema({"type": "array", "items": {"type": "integer", "minimum": 0}})
    check_output(list(range(10_000)), schema)
    with pytest.raises(OutputInvalid, match="steps"):
        check_output(list(range(100_000)), schema)


WORDS = ["type", "$ref", "items", "properties", "allOf", "not", "pattern", "$defs", "enum", "x"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(schema=_json, result=_json)
def test_whatever_comes_there_is_a_verdict(schema: Any, result: Any) -> None:
    with suppress(OutputSchemaInvalid, OutputInvalid):
        known = check_schema(schema)
        assert json.loads(json.dumps(known)) == schema
        check_output(result, known)
