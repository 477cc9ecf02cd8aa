"""What agents may rely on, hosted in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from agentray import ManagerClient
from agentray.testing import LocalRuntime
from tests.contract.hosting import APP, HostingContract
from tests.contract.in_full import IN_FULL, InFullContract
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


class TestInFullInOneProcess(InFullContract):
    @pytest.fixture
    async def full(self) -> AsyncGenerator[ManagerClient]:
        async with LocalRuntime() as manager:
            await manager.deploy(IN_FULL)
            yield manager
