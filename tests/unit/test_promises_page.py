"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs/guide/promises.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_PROMISE = re.compile(r"^- .*?(?=^- |^#|\Z)", re.MULTILINE | re.DOTALL)


def _promises() -> list[str]:
    return _PROMISE.findall(_PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("promise", _promises())
def test_each_promise_names_tests_that_exist(promise: str):
    named = _TEST.findall(promise)
    assert named, f"No test is named for: {promise}"
    for path, function in named:
        file = _ROOT / path
        assert file.is_file(), path
        assert re.search(rf"def {function}\b", file.read_text(encoding="utf-8")), (path, function)


def test_there_are_promises():
    assert _promises()
