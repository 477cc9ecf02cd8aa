"""What agents may rely on, hosted in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from agentray import ManagerClient
from agentray.testing import LocalRuntime
from tests.contract.hosting import APP, HostingContract
from tests.contract.lives import LIVES, LivesContract


class TestInOneProcess(HostingContract):
    @pytest.fixture
    async def hosted(self) -> AsyncGenerator[ManagerClient]:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            yield manager


class TestLivesInOneProcess(LivesContract):
    @pytest.fixture
    async def lives(self) -> AsyncGenerator[ManagerClient]:
        async with LocalRuntime() as manager:
            await manager.deploy(LIVES)
            yield manager
