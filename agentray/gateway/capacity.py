"""How many requests one replica takes at once; the others are told to come again.

A request that waits for a run's end holds its place for as long. One that follows events, which
costs little more than memory, gives it back when its stream begins, for one of another kind; where
there is none left of these, it keeps it. What is beyond the limit costs a replica next to nothing:
it is refused before its body is read.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentray.gateway.problems import OVERLOADED, HttpProblem, retry_after
from agentray.gateway.sockets import refuse

RETRY_AFTER_S = 1

_PROBES = frozenset({"/healthz", "/readyz"})
"""Never refused: a replica that is busy is not ill."""


class Capacity:
    """Refuses requests beyond a limit with 429."""

    def __init__(self, app: ASGIApp, limit: int, streams: int) -> None:
        """Make one.

        Args:
            app: what is below it.
            limit: requests at once.
            streams: of events, besides.
        """
        self._app = app
        self._limit = limit
        self._most_streams = streams
        self._under_way = 0
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] not in {"http", "websocket"} or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._limit:
            detail = f"This gateway answers {self._limit} requests already; retry in 1 s."
            problem = HttpProblem(OVERLOADED, detail, headers=retry_after(RETRY_AFTER_S))
            await refuse(scope, receive, send, problem)
            return
        self._under_way += 1
        streams = False

        async def watched(message: Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start" and self._begins(message):
                streams = True
                self._streams += 1
                self._under_way -= 1
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if streams:
                self._streams -= 1
            else:
                self._under_way -= 1

    def _begins(self, head: Message) -> bool:
        """Whether an answer is a stream for which there is a place."""
        if self._streams >= self._most_streams:
            return False
        return any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in head["headers"]
        )
