"""What agents may rely on, hosted by two processes of a real Ray cluster."""

from __future__ import annotations

import pytest

from agentray import ManagerClient
from agentray.ids import new_id
from tests.contract.hosting import APP, Book, HostingContract
from tests.contract.lives import LIVES, LivesContract
from tests.support.eventually import eventually_async


@pytest.mark.timeout(240)
class TestOnRay(HostingContract):
    @pytest.fixture
    async def hosted(self, manager: ManagerClient) -> ManagerClient:
        await manager.deploy(APP)
        return manager

    async def test_handlers_that_block_their_host_are_counted(self, hosted: ManagerClient) -> None:
        book = hosted.handle(Book, new_id("book"))

        async def counted() -> int:
            await book.block(0.6)
            return sum(host["blocked"] for host in (await hosted.status())["hosts"])

        await eventually_async(counted, timeout_s=60.0)


@pytest.mark.timeout(240)
class TestLivesOnRay(LivesContract):
    @pytest.fixture
    async def lives(self, manager: ManagerClient) -> ManagerClient:
        await manager.deploy(LIVES)
        return manager
