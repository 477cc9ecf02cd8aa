"""One suite for every store: each test runs over the memory twin and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from agentray.store import embedded
from agentray.store.base import Store
from agentray.store.embedded import EmbeddedPostgres
from agentray.store.memory import MemoryStore
from agentray.store.postgres import PostgresStore
from tests.contract.samples import connect, empty


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """A server for the session; its schema is made by the first store that is opened."""
    # Not in pytest's own directory: each session of pytest closes that to other users again, and
    # the server is another user when the tests run as root.
    with TemporaryDirectory(prefix="agentray-") as directory:
        server = EmbeddedPostgres(Path(directory) / "data")
        with pytest.MonkeyPatch.context() as settings:
            # Nobody here looks at what a power cut would leave.
            settings.setitem(embedded._SETTINGS, "fsync", "off")  # pyright: ignore[reportPrivateUsage]
            dsn = server.start()
        yield dsn
        server.stop()


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[Any]:
    """A bare connection, for what the Store does not show."""
    found = await connect(postgres_dsn)
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
