"""A path before the gateway's own, where a proxy gives it a part of its name space.

With the setting `root_path` both are served: paths with the prefix, and those from which the proxy
has taken it. Where the gateway says `Location`, the prefix is there. What requests say of
themselves in `X-Forwarded-…` is not believed: behind Serve's ingress nobody can tell whether a
proxy said it or the client. Nor is it needed: the gateway's links have neither scheme nor host.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Prefix:
    """Takes the prefix from the paths of requests, and puts it before those in answers."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Make one.

        Args:
            app: what is below it.
            prefix: such as `/agents`, without a slash at its end.
        """
        self._app = app
        self._prefix = prefix
        self._raw = prefix.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            raw: bytes = scope.get("raw_path") or path.encode()
            rest = raw.removeprefix(self._raw) or b"/"
            scope = {**scope, "path": path.removeprefix(self._prefix) or "/", "raw_path": rest}

        async def located(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._raw + value)
                    if name.lower() == b"location" and value.startswith(b"/")
                    else (name, value)
                    for name, value in message["headers"]
                ]
            await send(message)

        await self._app(scope, receive, located)
