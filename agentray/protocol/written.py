"""JSON objects that are at hand as their text, and are read when somebody looks into them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast


class Written(Mapping[str, Any]):
    """A JSON object, as it is written."""

    __slots__ = ("_text", "_values", "_write")

    def __init__(self, write: Callable[[], str]) -> None:
        """Take what gives the text of one; it is called once, when somebody wants it."""
        self._write: Callable[[], str] | None = write
        self._text = ""
        self._values: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The object as it is written."""
        if self._write is not None:
            self._text, self._write = self._write(), None
        return self._text

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
