"""What agents may rely on, hosted in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from agentray import ManagerClient
from agentray.testing import LocalRuntime
from tests.contract.hosting import APP, HostingContract


class TestInOneProcess(HostingContract):
    @pytest.fixture
    async def hosted(self) -> AsyncGenerator[ManagerClient]:
        async with LocalRuntime() as manager:
            await manager.deploy(APP)
            yield manager
