"""Answers in pieces: sent as they come, closed at their end, ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agentray.gateway.streamed import Streamed


class Client:
    """What reads an answer, and may leave."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        self.broken: Exception | None = None

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class Pieces:
    """A body that is waited for, and knows whether it was closed."""

    def __init__(self, *, then: str = "end") -> None:
        self.closed = asyncio.Event()
        self.began = asyncio.Event()
        self._then = then

    async def __call__(self) -> AsyncGenerator[bytes]:
        try:
            yield b"one "
            self.began.set()
            if self._then == "wait":
                await asyncio.Event().wait()
            if self._then == "fail":
                raise ValueError("no more")
            yield b"two"
        finally:
            self.closed.set()


async def answer(pieces: Pieces, client: Client) -> None:
    streamed = Streamed(pieces(), headers={"x-more": "yes"}, media_type="text/event-stream")
    await streamed({"type": "http"}, client.receive, client.send)


async def others() -> set[asyncio.Task[Any]]:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_it_is_sent_in_pieces_and_leaves_nothing_behind() -> None:
    pieces, client = Pieces(), Client()
    await answer(pieces, client)
    start, *rest = client.sent
    assert start["status"] == 200
    headers = dict(start["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"x-more"] == b"yes"
    assert b"content-length" not in headers
    assert [(m["body"], m["more_body"]) for m in rest] == [
        (b"one ", True),
        (b"two", True),
        (b"", False),
    ]
    assert pieces.closed.is_set()
    assert not await others()


async def test_a_client_that_leaves_ends_it() -> None:
    pieces, client = Pieces(then="wait"), Client()
    answering = asyncio.create_task(answer(pieces, client))
    await pieces.began.wait()
    client.leaves.set()
    await answering  # without an error: there is nobody to tell
    assert client.body == b"one "
    assert pieces.closed.is_set()
    assert not await others()


async def test_who_cancels_it_hears_of_it() -> None:
    pieces, client = Pieces(then="wait"), Client()
    answering = asyncio.create_task(answer(pieces, client))
    await pieces.began.wait()
    client.leaves.set()
    await asyncio.sleep(0)
    answering.cancel()  # in the same moment
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert pieces.closed.is_set()
    assert not await others()


@pytest.mark.parametrize("whose", ["the body's", "the connection's"])
async def test_an_error_ends_it_before_its_last_piece(whose: str) -> None:
    pieces, client = Pieces(then="fail" if whose == "the body's" else "end"), Client()
    if whose == "the connection's":
        client.broken = ConnectionResetError("gone")
    with pytest.raises((ValueError, ConnectionResetError)):
        await answer(pieces, client)
    assert all(message.get("more_body", True) for message in client.sent)
    assert not await others()
