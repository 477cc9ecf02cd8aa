"""A gateway of its own for every test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway import BreakableStore, Gateway, Http


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Gateway]:
    gateway = Gateway(
        BreakableStore(), tmp_path, max_body_bytes=2000, max_attachments_bytes=1, max_wait_s=20
    )
    await gateway.prepare()
    async with gateway.serving():
        yield gateway


@pytest.fixture
def store(gateway: Gateway) -> BreakableStore:
    assert isinstance(gateway.store, BreakableStore)
    return gateway.store


@pytest.fixture
async def http(gateway: Gateway) -> AsyncGenerator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(gateway.url, session)
