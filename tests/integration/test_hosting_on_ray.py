"""What agents may rely on, hosted by two processes of a real Ray cluster."""

from __future__ import annotations

import pytest

from agentray import ManagerClient
from tests.contract.hosting import APP, HostingContract
from tests.contract.in_full import IN_FULL, InFullContract
from tests.contract.lives import LIVES, LivesContract


@pytest.mark.timeout(240)
class TestOnRay(HostingContract):
    @pytest.fixture
    async def hosted(self, manager: ManagerClient) -> ManagerClient:
        await manager.deploy(APP)
        return manager


@pytest.mark.timeout(240)
class TestLivesOnRay(LivesContract):
    @pytest.fixture
    async def lives(self, manager: ManagerClient) -> ManagerClient:
        await manager.deploy(LIVES)
        return manager


@pytest.mark.timeout(240)
class TestInFullOnRay(InFullContract):
    @pytest.fixture
    async def full(self, manager: ManagerClient) -> ManagerClient:
        await manager.deploy(IN_FULL)
        return manager
