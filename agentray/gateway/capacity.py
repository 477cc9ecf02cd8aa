"""How many requests one replica takes at once; the others are told to come again.

A request that waits for a run's end, or follows its events or a log, holds its place for as long.
What is beyond the limit costs a replica next to nothing: it is refused before its body is read.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from agentray.gateway.problems import OVERLOADED, HttpProblem, retry_after
from agentray.gateway.sockets import refuse

RETRY_AFTER_S = 1

_PROBES = frozenset({"/healthz", "/readyz"})
"""Never refused: a replica that is busy is not ill."""


class Capacity:
    """Refuses requests beyond a limit with 429."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._under_way = 0

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
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
