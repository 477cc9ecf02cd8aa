"""Paths with a slash at their end are those without: clients of both kinds are about.

Nothing redirects: some clients make a GET of a POST that is redirected.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class BothForms:
    """Takes one slash from the end of each path, but for the path that is nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        path: str = scope.get("path", "")
        if path[-1:] == "/" and path != "/":
            raw: bytes = scope.get("raw_path") or path.encode()
            if raw[-1:] == b"/":  # else it is a part of the last name, written as %2F
                scope = {**scope, "path": path[:-1], "raw_path": raw[:-1]}
        await self._app(scope, receive, send)
