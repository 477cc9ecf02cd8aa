"""Routes below a common prefix, each with the scope that its key must have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel

from agentray.gateway.auth import KeyRing, RequireScope
from agentray.gateway.bodies import openapi_body
from agentray.gateway.openapi import problems


class Routes:
    """Adds routes to a router."""

    def __init__(self, prefix: str, tag: str, keys: KeyRing) -> None:
        """Make one.

        Args:
            prefix: of all paths.
            tag: in the document.
            keys: knows who asks.
        """
        # What an endpoint returns is a response already, unless its route says otherwise.
        self.router = APIRouter(tags=[tag], default_response_class=Response)
        self._prefix = prefix
        self._keys = keys

    def add(  # noqa: PLR0913 - all that there is to say of a route
        self,
        methods: Sequence[str],
        path: str,
        endpoint: Any,
        name: str,
        scope: str | None,
        answers: dict[int | str, dict[str, Any]],
        *errors: int,
        body: type[BaseModel] | None = None,
        then: Sequence[Any] = (),
        hidden: bool = False,
        **more: Any,
    ) -> None:
        """Add a route.

        Args:
            methods: HTTP's.
            path: below the prefix.
            endpoint: answers.
            name: in the document, such as `listRuns`; its words are the summary.
            scope: that the key must have; None: the route checks by itself, and is hidden.
            answers: in the document.
            errors: statuses of further problems.
            body: what the endpoint reads by itself, for the document.
            then: dependencies after that of the key.
            hidden: it is not in the document.
            more: as FastAPI has it.
        """
        if body is not None:
            more["openapi_extra"] = openapi_body(body) | more.get("openapi_extra", {})
        keys = [Depends(RequireScope(self._keys, scope))] if scope else []
        self.router.add_api_route(
            f"{self._prefix}{path}",
            endpoint,
            methods=list(methods),
            operation_id=name,
            name=name,
            summary=_as_words(name),
            dependencies=[*keys, *then],
            responses={**answers, **problems(401, 403, 421, 422, 500, 503, *errors)},
            include_in_schema=scope is not None and not hidden,
            **more,
        )


def _as_words(name: str) -> str:
    return " ".join(re.findall(r"[A-Z]?[^A-Z]+", name)).capitalize()
