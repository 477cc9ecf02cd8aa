"""The SQL of the PostgreSQL store: named queries in `sql/*.sql`.

A query starts with `-- name: …` and a line that says what it does, and ends where the next starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def queries() -> Mapping[str, str]:
    """Return the text of every query by its name; the files are read once."""
    found: dict[str, str] = {}
    for file in (resources.files("agentray.store") / "sql").iterdir():
        _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
        found.update(zip(parts[::2], parts[1::2], strict=True))
    return found
