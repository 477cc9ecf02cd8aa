"""Columns as PostgreSQL reads arrays in text: `{1,2}`, `{"a","b"}`.

asyncpg looks at each element of an array in Python, several times, which takes longer than all else
that is done with what a batch of prompts writes. As one text a column is made by a few calls. The
statements that take such texts say so: `$1::text::integer[]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_json

from agentray.errors import PayloadError

_BETWEEN = "\0"  # PostgreSQL has no place for it in a text


def arrays(columns: Iterable[Sequence[Any]]) -> list[str]:
    """Return columns as arrays, each of texts, or of numbers, booleans or times; None is NULL.

    A column of nothing but None has no elements: beside longer ones that is the same.

    Raises:
        PayloadError: a text has a NUL.
    """
    return [_array(column) for column in columns]


def _array(column: Sequence[Any]) -> str:
    first = next((value for value in column if value is not None), None)
    if first is None:
        return "{}"
    if not isinstance(first, str):
        return f"{{{to_json(column)[1:-1].decode()}}}"
    if None in column:
        each = ("NULL" if text is None else f'"{_quoted((text,))}"' for text in column)
        return f"{{{','.join(each)}}}"
    return f'{{"{_quoted(column)}"}}'


def _quoted(column: Sequence[str]) -> str:
    together = _BETWEEN.join(column)
    if together.count(_BETWEEN) >= len(column):
        raise PayloadError("A text has a NUL character.")
    return together.replace("\\", "\\\\").replace('"', '\\"').replace(_BETWEEN, '","')
