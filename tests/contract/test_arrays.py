"""Columns as text are the arrays that PostgreSQL reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentray.errors import PayloadError
from agentray.store.arrays import arrays
from tests.contract.samples import connect

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
awkward = st.sampled_from(["", "NULL", "null", "{}", '"', "\\", '\\"', ",", "a b", "\n", "\1", "é"])
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - they get the zone
columns = [
    ("text[]", st.none() | texts | awkward),
    ("json[]", st.none() | st.sampled_from(['{"a":"\\\\\\"\\u00e9"}', "[1,2]", '"x"'])),
    ("bigint[]", st.none() | st.integers(-(2**63), 2**63 - 1)),
    ("boolean[]", st.none() | st.booleans()),
    ("double precision[]", st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    ("timestamptz[]", st.none() | times),
]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, 5).flatmap(
        lambda size: st.tuples(
            *(st.lists(values, min_size=size, max_size=size) for _, values in columns)
        )
    )
)
async def test_postgresql_reads_what_was_written(postgres_dsn: str, given: tuple[list[Any], ...]):
    connection = await connect(postgres_dsn)
    try:
        for (kind, _), column in zip(columns, given, strict=True):
            [text] = arrays([column])
            read = await connection.fetchval(f"SELECT $1::text::{kind}", text)
            assert read == ([] if all(value is None for value in column) else column)
    finally:
        await connection.close()


@pytest.mark.parametrize("column", [["a\0b"], ["a", "\0"], [None, "\0"]])
def test_a_nul_is_refused(column: list[Any]):
    with pytest.raises(PayloadError, match="NUL"):
        arrays([column])
