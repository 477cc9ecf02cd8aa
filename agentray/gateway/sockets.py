"""WebSockets that are refused before they are one."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from agentray.gateway.problems import HttpProblem

_DENIAL = "websocket.http.response"
_REFUSED = 1008  # policy violation


async def deny(websocket: WebSocket, problem: HttpProblem) -> None:
    """Answer a handshake with a problem document; where the server cannot, with a plain 403."""
    if _DENIAL in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(problem.response())
    else:
        await websocket.close(_REFUSED, problem.detail[:100])


async def refuse(scope: Scope, receive: Receive, send: Send, problem: HttpProblem) -> None:
    """Answer a request or a handshake with a problem document."""
    if scope["type"] == "websocket":
        await deny(WebSocket(scope, receive, send), problem)
    else:
        await problem.response()(scope, receive, send)
