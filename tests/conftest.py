"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os

import pytest

for _name in [name for name in os.environ if name.startswith(("AGENTRAY_", "RAY_"))]:
    del os.environ[_name]  # the tests must not depend on whose shell they run in

pytest_plugins = ["tests.support.cluster"]


def pytest_collection_finish() -> None:
    """Let the garbage collector look less often, and never at what was imported, which stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
