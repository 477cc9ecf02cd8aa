"""Answers that are sent piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import cast

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send


class Streamed(Response):
    """An answer in pieces, which ends when its client leaves.

    What Starlette's does, without a task group of anyio around each answer: that takes longer than
    sending the first piece.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        *,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        """Make one.

        Args:
            pieces: its body; closed at its end, whatever that is.
            headers: further ones.
            media_type: of the body.
        """
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.pieces = pieces
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as ASGI has it."""
        del scope
        sender = cast("asyncio.Task[None]", asyncio.current_task())
        sending, left = True, False

        def leave(_: asyncio.Task[None]) -> None:
            nonlocal left
            if sending:
                left = True
                sender.cancel()

        listening = asyncio.create_task(_until_disconnected(receive), name="client of a stream")
        listening.add_done_callback(leave)
        try:
            async with aclosing(self.pieces) as pieces:
                # What was set going for it leaves this process first, then the headers do.
                await asyncio.sleep(0)
                await send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not left or sender.uncancel():
                raise  # it is not the client that has gone
        finally:
            sending = False
            listening.cancel()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
