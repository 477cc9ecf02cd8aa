"""The connections of the PostgreSQL store: asyncpg with types, named queries and our errors."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

import asyncpg

from agentray.config import DATABASE, DatabaseLimits
from agentray.errors import (
    ConfigurationError,
    ManagerSuperseded,
    PayloadError,
    StoreUnavailable,
    UnknownRun,
)
from agentray.store.migrate import SCHEMA, migrate
from agentray.store.pulse import Pulse
from agentray.store.queries import queries

Row = Mapping[str, Any]
"""One row of a result."""

_GAP, _UNKNOWN_RUN = "AR001", "AR002"  # raised by commit_effects

_CONNECT_TIMEOUT_S = 10.0
_ACQUIRE_TIMEOUT_S = 10.0  # for a connection to be free, or made
_ATTEMPTS = 3  # of a statement that was chosen to end a deadlock
_PAUSE_S = 0.05  # between these; the other one shall get what it waits for, also on a busy machine
_RELEASE_TIMEOUT_S = 5.0  # for a statement that is given up to end; then its connection is
_CLOSE_TIMEOUT_S = 5.0
_KEPT_S = 300.0  # without use; then a connection is made anew

_END = """
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
WHERE pid = ANY ($1::integer[]) AND usename = current_user AND state = 'active'
"""
"""Ends what a server still does for connections that are lost, and waits for that, a second at
most: one that is held up ends as soon as it goes on."""

_LOST = (
    OSError,  # also TimeoutError
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
"""What becomes of a statement is unknown after these."""

MAX_WAITING = 10_000
"""Statements that wait for a connection; further ones fail at once."""

_SESSION = {
    "application_name": "agentray",
    "search_path": SCHEMA,
    # Statements look up a few rows by their keys. Plans that are made without the arguments, and do
    # without reading whole tables, do exactly that, also when made while a table was still small.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # For the server's own sake: whoever asked has gone by then, and others wait for its locks.
    "statement_timeout": "60s",
}

_UNHURRIED = {"statement_timeout": "0"}
"""Of the session that migrates: rows may be many."""

_FORMER_MANAGER = "AR003"  # raised by refuse_former_manager

_UNAVAILABLE = (
    OSError,  # also TimeoutError
    asyncpg.InterfaceError,  # the connection or the pool is closed
    asyncpg.InternalClientError,  # a connection was used in the moment in which it was lost
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down, cancelled by the operator
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.ReadOnlySQLTransactionError,  # a standby
    asyncpg.TransactionRollbackError,  # a deadlock, again and again: nothing was written
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,  # no such database
)


class _Pool(Protocol):
    """What is used of `asyncpg.Pool`, which has no types of its own."""

    async def acquire(self) -> Any: ...
    async def release(self, connection: Any, *, timeout: float) -> None: ...
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


class Database:
    """A pool of connections to one database.

    Args:
        dsn: `postgresql://…`.
        max_connections: how many may be open at once; they are opened when they are needed.
        limits: how long it may take to answer.
        session: settings of each connection, besides those of all.
    """

    def __init__(
        self,
        dsn: str,
        max_connections: int,
        limits: DatabaseLimits = DATABASE,
        session: Mapping[str, str] | None = None,
    ) -> None:
        self._dsn = dsn
        self._limits = limits
        self._pulse = Pulse(self._greet, limits.silence_s)
        self._session = {**_SESSION, **(session or {})}
        self._max_connections = max_connections
        self._open_pool: _Pool | None = None
        self._at_hand: list[tuple[Any, float]] = []  # connections of the pool, since when
        self._waiting = 0  # for a connection
        self._given_up: set[int] = set()  # processes of the server that may still be at work
        self._ending = asyncio.Lock()

    async def open(self) -> None:
        """Connect and migrate; does nothing when open.

        Raises:
            ConfigurationError: the DSN is malformed.
            StoreUnavailable: no connection.
            SchemaTooNew: written by a newer agentray.
        """
        if self._open_pool is not None:
            return
        with _our_errors():
            await self._migrate()
            self._open_pool = await self._connect()
        self._pulse.start()

    async def _greet(self) -> None:
        """Return when the server answers, if only that it has no room for another connection."""
        untyped: Any = asyncpg
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            connection = await untyped.connect(self._dsn, timeout=None)
            connection.terminate()

    async def _migrate(self) -> None:
        """Bring the schema up to date, in a session that may take its time."""
        untyped: Any = asyncpg
        connection = await untyped.connect(
            self._dsn,
            timeout=_CONNECT_TIMEOUT_S,
            server_settings={**self._session, **_UNHURRIED},
        )
        try:
            await migrate(connection)
        finally:
            connection.terminate()

    def as_manager(self, epoch: int) -> Database:
        """Return connections of their own, whose writes are those of the manager of this epoch."""
        session = {"agentray.manager_epoch": str(epoch)}
        return Database(self._dsn, self._max_connections, self._limits, session)

    async def close(self) -> None:
        """Close the connections; harmless when not open."""
        pool, self._open_pool = self._open_pool, None
        if pool is None:
            return
        await self._pulse.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while self._at_hand:
                    await pool.release(self._at_hand.pop()[0], timeout=_RELEASE_TIMEOUT_S)
                await pool.close()  # waits for the statements under way
        except TimeoutError:
            pool.terminate()

    async def fetch(self, name: str, *args: Any) -> list[Row]:
        """Run a named query and return its rows."""
        return await self._run("fetch", name, args)

    async def fetch_row(self, name: str, *args: Any) -> Row | None:
        """Run a named query and return its first row."""
        return await self._run("fetchrow", name, args)

    async def fetch_value(self, name: str, *args: Any) -> Any:
        """Run a named query and return the first value of its first row."""
        return await self._run("fetchval", name, args)

    async def execute(self, name: str, *args: Any) -> None:
        """Run a named query that returns nothing."""
        await self._run("execute", name, args)

    async def _run(self, method: str, name: str, args: tuple[Any, ...]) -> Any:
        """Run a named query on a connection of the pool.

        Raises:
            StoreUnavailable: also when none is free in time, or too many wait for one already.
        """
        with _our_errors():
            pool = self._pool
            connection = self._take_at_hand() or await self._acquire(pool)
            run, process = getattr(connection, method), connection.get_server_pid()
            self._pulse.began(connection, connection.terminate)
            done = False
            try:
                if self._given_up:
                    await self._end_given_up(connection)
                for attempt in range(1, _ATTEMPTS):
                    # Each statement is a transaction: one that is rolled back may be repeated.
                    with suppress(asyncpg.DeadlockDetectedError):
                        result = await run(queries()[name], *args)
                        done = True
                        return result
                    await asyncio.sleep(attempt * _PAUSE_S)
                return await run(queries()[name], *args)
            except _LOST as error:
                self._given_up.add(process)
                with suppress(asyncpg.InterfaceError):  # it is closed already
                    connection.terminate()  # its server may never answer, nor end the statement
                if self._pulse.silent and isinstance(error, asyncpg.PostgresConnectionError):
                    raise self._pulse.unanswered from error
                raise
            finally:
                self._pulse.ended(connection)
                if done and not self._waiting and pool is self._open_pool:
                    self._at_hand.append((connection, time.monotonic()))
                else:
                    await pool.release(connection, timeout=_RELEASE_TIMEOUT_S)

    async def _end_given_up(self, connection: Any) -> None:
        """Let nothing that was given up come after what is asked now.

        A statement whose client has gone may wait for a lock, and write when it has it: over what
        was written since, by who tried again.
        """
        async with self._ending:
            if processes := list(self._given_up):
                await connection.fetch(_END, processes)
                self._given_up.difference_update(processes)

    def _take_at_hand(self) -> Any | None:
        """Return a connection whose last statement went well; None: there is none.

        It was not given back to the pool: giving back and taking out looks after what was given up
        in the midst of a statement, and takes as long as a statement.
        """
        while self._at_hand and not self._pulse.silent:
            connection, since = self._at_hand.pop()
            with suppress(asyncpg.InterfaceError):  # it was lost, and the pool knows of it
                if time.monotonic() - since > _KEPT_S:
                    connection.terminate()  # something on the way may have forgotten it
                elif not connection.is_closed():
                    return connection
        return None

    async def _acquire(self, pool: _Pool) -> Any:
        if self._pulse.silent:
            raise self._pulse.unanswered
        if self._waiting >= MAX_WAITING:
            raise StoreUnavailable(
                f"The database is too slow: {self._waiting:,} statements wait for a connection."
            )
        self._waiting += 1
        waiting = asyncio.timeout(_ACQUIRE_TIMEOUT_S)

        def give_up() -> None:
            if not waiting.expired():
                waiting.reschedule(0.0)

        try:
            async with waiting:
                self._pulse.began(waiting, give_up)
                return await pool.acquire()
        except TimeoutError as error:
            if self._pulse.silent:
                raise self._pulse.unanswered from error
            raise StoreUnavailable(
                f"No connection to the database was free, or could be made, within "
                f"{_ACQUIRE_TIMEOUT_S:g} s."
            ) from error
        finally:
            self._pulse.ended(waiting)
            self._waiting -= 1

    @property
    def _pool(self) -> _Pool:
        if self._open_pool is None:
            raise StoreUnavailable("The store is not open.")
        return self._open_pool

    async def _connect(self) -> _Pool:
        pool: Any = asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
            self._dsn,
            min_size=1,
            max_size=self._max_connections,
            timeout=_CONNECT_TIMEOUT_S,
            command_timeout=self._limits.statement_s,
            server_settings=self._session,
            reset=_leave_as_it_is,
        )
        return cast("_Pool", await pool)


async def _leave_as_it_is(connection: Any) -> None:
    """Skip the reset of a returned connection: a round trip, and nothing here changes a session."""


@contextmanager
def _our_errors() -> Generator[None]:
    """Turn errors of asyncpg into those of the Store."""
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"The database URL is wrong: {error}") from error
    except asyncpg.DataError as error:
        raise PayloadError(f"PostgreSQL cannot keep a value: {error}") from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"The database cannot be reached: {_in_words(error)}.") from error
    except asyncpg.PostgresError as error:
        if getattr(error, "sqlstate", None) != _FORMER_MANAGER:
            raise
        raise ManagerSuperseded(str(error)) from error


def _in_words(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "nothing listens at its address (connection refused)"
        case socket.gaierror():
            return f"its host is not known ({error.strerror})"
        case TimeoutError():
            return "it did not answer in time"
        case FileNotFoundError():
            return "there is no socket of a server where its URL says"
        case OSError(strerror=str(said)):
            return said
        case _:
            return str(error).rstrip(".") or type(error).__name__


def error_of_commit(error: asyncpg.PostgresError) -> Exception:
    """Return what an error of `commit_effects` means to its caller."""
    sqlstate, text = getattr(error, "sqlstate", None), str(error)
    if sqlstate == _GAP:
        return ValueError(text)
    if sqlstate == _UNKNOWN_RUN:
        return UnknownRun(text)
    return error
