"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

for _name in [name for name in os.environ if name.startswith(("AGENTRAY_", "RAY_"))]:
    del os.environ[_name]  # the tests must not depend on whose shell they run in

# How long an example takes says how busy the machine is.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

pytest_plugins = ["tests.support.cluster"]


def pytest_collection_finish() -> None:
    """Let the garbage collector look less often, and never at what was imported, which stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
