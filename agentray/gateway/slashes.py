"""Routes that answer with and without a slash at their end: clients of both kinds are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends

from agentray.gateway.auth import KeyRing, RequireScope
from agentray.gateway.openapi import problems


class BothForms:
    """Adds routes in both forms, of which the document names the one without the slash."""

    def __init__(self, prefix: str, tag: str, keys: KeyRing) -> None:
        """Make one.

        Args:
            prefix: of all paths.
            tag: in the document.
            keys: knows who asks.
        """
        self.router = APIRouter(tags=[tag])
        self._prefix = prefix
        self._keys = keys

    def add(
        self,
        methods: Sequence[str],
        path: str,
        endpoint: Any,
        name: str,
        scope: str | None,
        answers: dict[int | str, dict[str, Any]],
        *errors: int,
        then: Sequence[Any] = (),
        hidden: bool = False,
        **more: Any,
    ) -> None:
        """Add a route.

        Args:
            methods: HTTP's.
            path: below the prefix, without a slash at its end.
            endpoint: answers.
            name: in the document.
            scope: that the key must have; None: the route checks by itself, and is hidden.
            answers: in the document.
            errors: statuses of further problems.
            then: dependencies after that of the key.
            hidden: it is not in the document.
            more: as FastAPI has it.
        """
        keys = [Depends(RequireScope(self._keys, scope))] if scope else []
        for form in ("", "/"):
            self.router.add_api_route(
                f"{self._prefix}{path}{form}",
                endpoint,
                methods=list(methods),
                operation_id=None if form else name,
                name=f"{name}{form}",
                dependencies=[*keys, *then],
                responses={**answers, **problems(401, 403, 421, 422, 500, 503, *errors)},
                include_in_schema=not form and scope is not None and not hidden,
                **more,
            )
