"""Routes whose endpoints read the request and make the answer themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

Check = Callable[[Request], Awaitable[None]]
"""A dependency that lets a request through, or raises."""


class OwnRoute(APIRoute):
    """A route that FastAPI finds and documents, and of which it does nothing else.

    Its endpoint takes the request and returns a response; its dependencies take the request too,
    and are awaited in their order. Solving them as FastAPI does takes a third of what a prompt
    costs in the gateway's own code.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request, as FastAPI asks for it."""
        checks = [cast("Check", each.dependency) for each in self.dependencies]
        endpoint = cast("Callable[[Request], Awaitable[Response]]", self.endpoint)

        async def answer(request: Request) -> Response:
            for check in checks:
                await check(request)
            return await endpoint(request)

        return answer
