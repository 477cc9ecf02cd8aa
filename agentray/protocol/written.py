"""JSON objects that are at hand as their text, and are read when somebody looks into them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast


class Written(Mapping[str, Any]):
    """A JSON object, as it is written."""

    __slots__ = ("_values", "text")

    def __init__(self, text: str) -> None:
        """Take a text that is known to be one."""
        self.text = text
        self._values: Mapping[str, Any] | None = None

    @property
    def _read(self) -> Mapping[str, Any]:
        values = self._values
        if values is None:
            values = self._values = cast("Mapping[str, Any]", json.loads(self.text))
        return values

    def __getitem__(self, name: str) -> Any:
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)
