"""One suite for every store: each test runs over the memory twin and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from agentray.store.base import Store
from agentray.store.embedded import EmbeddedPostgres
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from tests.contract.samples import empty


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the session; its schema is made by the first store that is opened."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data")
    yield server.start()
    server.stop()


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A bare connection, for what the Store does not show."""
    found = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "agentray"})
    yield found
    await found.close()


@pytest.fixture
async def postgres(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    """An open PostgreSQL store with nothing in it."""
    opened = PostgresStore(postgres_dsn)
    await opened.open()
    await empty(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
def memory() -> MemoryStore:
    """A store in memory."""
    return MemoryStore()


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each store in turn, open and empty."""
    return request.getfixturevalue(request.param)
