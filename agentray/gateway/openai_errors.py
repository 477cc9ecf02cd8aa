"""Errors on OpenAI's routes have OpenAI's shape, wherever they come from."""

from __future__ import annotations

import json

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentray.compat.openai.errors import from_problem
from agentray.gateway.problems import MEDIA_TYPE

PREFIXES = ("/v1/models", "/v1/chat/", "/v1/responses")


class OpenAiErrors:
    """Translates problem documents on these routes: of auth, limits, missing routes and all else.

    Their SDK repeats what was refused with 409 and 5xx, unless it is told that this is of no use.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] != "http" or not _path(scope).startswith(PREFIXES):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = b""

        async def translated(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start" and _is_problem(message):
                held = message
            elif held is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    for each in _translate(held, body):
                        await send(each)

        await self._app(scope, receive, translated)


def _path(scope: Scope) -> str:
    """Return the path below the prefix under which the gateway is mounted, if it is."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _is_problem(message: Message) -> bool:
    headers = MutableHeaders(raw=list(message["headers"]))
    return headers.get("content-type", "").startswith(MEDIA_TYPE)


def _translate(start: Message, body: bytes) -> tuple[Message, Message]:
    status, told = from_problem(body)
    data = json.dumps(told).encode()
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(data))
    if status == 409:
        headers["x-should-retry"] = "false"
    begun: Message = {**start, "status": status, "headers": headers.raw}
    return begun, {"type": "http.response.body", "body": data, "more_body": False}
