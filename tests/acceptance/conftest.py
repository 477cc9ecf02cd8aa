"""Plain HTTP to the cluster's gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import aiohttp
import pytest

from tests.support.cluster import Cluster
from tests.support.web import Web


@pytest.fixture
async def web(cluster: Cluster) -> AsyncGenerator[Web]:
    async with aiohttp.ClientSession() as session:
        yield Web(cluster.url, cluster.key, session)
