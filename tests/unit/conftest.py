"""Unit tests: seconds in total, and no Ray."""

from __future__ import annotations

import sys
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ray.init` raise, should anything reach for it."""

    def forbidden(*_: object, **__: object) -> NoReturn:
        raise AssertionError("Unit tests must not start or join a Ray cluster.")

    ray = sys.modules.get("ray")
    if ray is not None:
        monkeypatch.setattr(ray, "init", forbidden)
