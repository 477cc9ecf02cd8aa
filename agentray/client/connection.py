"""HTTP for the clients: sends the values of `calls`, and again where that may help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp

from agentray.client import calls
from agentray.client.access import Access
from agentray.client.calls import Request, Response
from agentray.client.errors import ClientError, ConnectionFailed

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
            raise _failed(str(self._answer.url.origin()), error) from error


class Connection:
    """The connections to one gateway. Belongs to the event loop in which it is first used."""

    def __init__(self, access: Access, timeout_s: float) -> None:
        """Make one; nothing is connected yet.

        Args:
            access: the gateway and the key.
            timeout_s: how long a request may take, repeats included, beyond the gateway's wait.
        """
        self._access = access
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Close the connections; harmless when called twice."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(self, request: Request, waiting_s: float = 0) -> Response:
        """Send a request, and again after a passing trouble; return a good answer.

        Args:
            request: what to ask.
            waiting_s: seconds that the gateway itself may wait before it answers.

        Raises:
            ClientError: the gateway refuses, or the trouble does not pass in time.
        """
        deadline = time.monotonic() + waiting_s + self._timeout_s
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self.exchange(request, deadline - time.monotonic())
                calls.check(response)
            except ClientError as error:
                await _pause_or_raise(error, attempt, deadline)
            else:
                return response

    async def exchange(self, request: Request, timeout_s: float | None = None) -> Response:
        """Send a request once and return the answer, whatever it is.

        Raises:
            ConnectionFailed: there is none.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s)
        try:
            async with await self._request(request, timeout) as answer:
                return await _read(answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _failed(self._access.url, error) from error

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[Stream]:
        """Open a stream, trying again after a passing trouble.

        Raises:
            ClientError: the gateway refuses, or the trouble does not pass in time.
        """
        deadline = time.monotonic() + self._timeout_s
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._connect(request)
                break
            except ClientError as error:
                await _pause_or_raise(error, attempt, deadline)
        try:
            yield Stream(answer)
        finally:
            answer.close()  # not release: the rest of the body may never end

    async def _connect(self, request: Request) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout_s, sock_read=_SILENCE_S
        )
        try:
            answer = await self._request(request, timeout)
            if answer.status == 200:
                return answer
            async with answer:
                raise calls.error_of(await _read(answer))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _failed(self._access.url, error) from error

    async def _request(
        self, request: Request, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._closed:
            raise RuntimeError("The client is closed.")
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        headers = dict(request.headers)
        if self._access.api_key:
            headers["Authorization"] = f"Bearer {self._access.api_key}"
        return await self._session.request(
            request.method,
            self._access.url + request.path,
            params=request.query,
            headers=headers,
            data=request.body,
            timeout=timeout,
            # A gateway never redirects; whoever does shall not get the key.
            allow_redirects=False,
        )


async def _read(answer: aiohttp.ClientResponse) -> Response:
    return Response(answer.status, _lower(answer), await answer.read())


async def _pause_or_raise(error: ClientError, attempt: int, deadline: float) -> None:
    pause_s = calls.pause_before_retry(error, attempt)
    if pause_s is None or time.monotonic() + pause_s >= deadline:
        raise error
    await asyncio.sleep(pause_s)


def _failed(url: str, error: Exception) -> ConnectionFailed:
    return ConnectionFailed(f"{url}: {str(error) or type(error).__name__}")


def _lower(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
