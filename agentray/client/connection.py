"""HTTP for the clients: sends the values of `calls`, and again where that is safe and may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from agentray.client.access import Access
from agentray.client.calls.http import (
    Request,
    Response,
    check,
    error_of,
    pause_before_retry,
)
from agentray.client.errors import ClientError, ConnectionFailed, TimedOut
from agentray.client.transport import Transport

_SILENCE_S = 30.0  # a stream on which nothing comes, not even a keepalive, is broken


class Stream:
    """A body that comes bit by bit: `streams.OpenStream`."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    @property
    def head(self) -> Response:
        """Status and headers; the body is empty."""
        return Response(self._answer.status, _lower(self._answer), b"")

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body.

        Raises:
            ConnectionFailed: it broke.
        """
        try:
            async for chunk in self._answer.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise failed(str(self._answer.url.origin()), error) from error


class Connection:
    """The connections to one gateway. Belongs to the event loop in which it is first used."""

    def __init__(self, access: Access, transport: Transport) -> None:
        """Make one; nothing is connected yet.

        Args:
            access: the gateway and who asks.
            transport: how to get there.
        """
        self._access = access
        self._transport = transport
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """The gateway's."""
        return self._access.url

    async def close(self) -> None:
        """Close the connections; harmless when called twice."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(self, request: Request, waiting_s: float = 0) -> Response:
        """Send a request, again after a passing trouble where that is safe; return a good answer.

        Args:
            request: what to ask.
            waiting_s: seconds that the gateway itself may wait before it answers.

        Raises:
            ClientError: the gateway refuses, or the trouble does not pass in time.
        """
        deadline = time.monotonic() + waiting_s + self._transport.total_s
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self.exchange(request, waiting_s, deadline - time.monotonic())
                check(response)
            except ClientError as error:
                await _pause_or_raise(request, error, attempt, deadline)
            else:
                return response

    async def exchange(
        self, request: Request, waiting_s: float = 0, timeout_s: float | None = None
    ) -> Response:
        """Send a request once and return the answer, whatever it is.

        Args:
            request: what to ask.
            waiting_s: seconds that the gateway itself may wait before it answers.
            timeout_s: seconds that all of it may take; None: as the client's timeout says.

        Raises:
            ConnectionFailed: there is none.
        """
        way = self._transport
        timeout = aiohttp.ClientTimeout(
            total=timeout_s or way.total_s + waiting_s,
            sock_connect=way.connect_s,
            sock_read=None if way.read_s is None else way.read_s + waiting_s,
        )
        try:
            async with await self._request(request, timeout) as answer:
                return await _read(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise failed(self._access.url, error) from error

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[Stream]:
        """Open a stream, trying again after a passing trouble.

        Raises:
            ClientError: the gateway refuses, or the trouble does not pass in time.
        """
        way = self._transport
        deadline = time.monotonic() + way.total_s
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._connect(request, way.connect_s or way.total_s, _SILENCE_S)
                break
            except ClientError as error:
                await _pause_or_raise(request, error, attempt, deadline)
        try:
            yield Stream(answer)
        finally:
            answer.close()  # not release: the rest of the body may never end

    @asynccontextmanager
    async def once(
        self, request: Request, *, connect_s: float, silence_s: float
    ) -> AsyncGenerator[Stream]:
        """Open a stream, and do not try again.

        Args:
            request: what to ask.
            connect_s: seconds until a connection is there.
            silence_s: seconds without anything after which it is broken.

        Raises:
            ClientError: the gateway refuses, or cannot be reached.
        """
        answer = await self._connect(request, connect_s, silence_s)
        try:
            yield Stream(answer)
        finally:
            answer.close()

    async def upload(
        self,
        request: Request,
        data: Callable[[], AsyncGenerator[bytes]],
        size: int,
        *,
        timeout_s: float,
    ) -> Response:
        """Send a large body, again from its beginning after a passing trouble.

        Args:
            request: to which it belongs; it has none of its own.
            data: begins to read it.
            size: bytes of it.
            timeout_s: seconds that all of it may take.

        Raises:
            ClientError: the gateway refuses, or the trouble does not pass in time.
        """
        deadline = time.monotonic() + timeout_s
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._transport.connect_s)
        request = replace(request, headers={**request.headers, "Content-Length": str(size)})
        attempt = 0
        while True:
            attempt += 1
            try:
                async with await self._request(request, timeout, data()) as answer:
                    response = await _read(answer)
                check(response)
            except (aiohttp.ClientError, TimeoutError) as error:
                await _pause_or_raise(request, failed(self.url, error), attempt, deadline)
            except ClientError as error:
                await _pause_or_raise(request, error, attempt, deadline)
            else:
                return response

    async def _connect(
        self, request: Request, connect_s: float, silence_s: float
    ) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silence_s)
        try:
            answer = await self._request(request, timeout)
            if answer.status == 200:
                return answer
            async with answer:
                raise error_of(await _read(answer))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise failed(self._access.url, error) from error

    async def _request(
        self,
        request: Request,
        timeout: aiohttp.ClientTimeout,
        data: AsyncGenerator[bytes] | None = None,
    ) -> aiohttp.ClientResponse:
        return await self.session.request(
            request.method,
            self.address(request),
            headers=request.headers,
            data=request.body if data is None else data,
            timeout=timeout,
            # A gateway never redirects; whoever does shall not get the key.
            allow_redirects=False,
        )

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections; they send with each request who asks.

        Raises:
            RuntimeError: `close` was called.
        """
        if self._closed:
            raise RuntimeError("The client is closed.")
        if self._session is None:
            trust = self._transport.trust
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=True if trust is None else trust),
                headers=self._access.headers(),
                proxy=self._transport.proxy,
            )
        return self._session

    def address(self, request: Request) -> URL:
        """Return where a request goes to, exactly as it is written: ids stay within their part."""
        query = f"?{urlencode(request.query, doseq=True)}" if request.query else ""
        return URL(f"{self._access.url}{request.path}{query}", encoded=True)


async def _read(answer: aiohttp.ClientResponse) -> Response:
    return Response(answer.status, _lower(answer), await answer.read())


async def _pause_or_raise(
    request: Request, error: ClientError, attempt: int, deadline: float
) -> None:
    pause_s = pause_before_retry(error, attempt, repeatable=request.repeatable)
    if pause_s is None or time.monotonic() + pause_s >= deadline:
        raise error
    await asyncio.sleep(pause_s)


def failed(url: str, error: Exception) -> ConnectionFailed:
    """Return the error of a request that had no answer."""
    told = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, TimeoutError):
        return TimedOut(told, sent=not isinstance(error, aiohttp.ConnectionTimeoutError))
    return ConnectionFailed(told, sent=not isinstance(error, aiohttp.ClientConnectorError))


def _lower(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
