"""Errors on the routes of other systems have those systems' shape, wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentray.compat import synapse
from agentray.compat.openai import errors as openai
from agentray.gateway.problems import MEDIA_TYPE

_Translate = Callable[[bytes], tuple[int, dict[str, Any]]]

_TRANSLATE: tuple[tuple[str, _Translate], ...] = (
    ("/v1/models", openai.from_problem),
    ("/v1/chat/", openai.from_problem),
    ("/v1/responses", openai.from_problem),
    ("/repo/v1/", synapse.from_problem),
)


class OtherErrors:
    """Translates problem documents on these routes: of auth, limits, missing routes and all else.

    OpenAI's SDK repeats what was refused with 409 and 5xx, unless it is told that this is of no
    use.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        translate = _translation(scope) if scope["type"] == "http" else None
        if translate is None:
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
                    for each in _translated(held, *translate(body)):
                        await send(each)

        await self._app(scope, receive, translated)


def _translation(scope: Scope) -> _Translate | None:
    """Return how errors of a path are told; it is below the prefix at which the gateway is."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return next((how for prefix, how in _TRANSLATE if path.startswith(prefix)), None)


def _is_problem(message: Message) -> bool:
    headers = MutableHeaders(raw=list(message["headers"]))
    return headers.get("content-type", "").startswith(MEDIA_TYPE)


def _translated(start: Message, status: int, told: dict[str, Any]) -> tuple[Message, Message]:
    data = json.dumps(told).encode()
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(data))
    if status == 409:
        headers["x-should-retry"] = "false"
    begun: Message = {**start, "status": status, "headers": headers.raw}
    return begun, {"type": "http.response.body", "body": data, "more_body": False}
