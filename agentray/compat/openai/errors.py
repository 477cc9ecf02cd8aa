"""Errors in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from pydantic_core import ErrorDetails

from agentray.errors import AgentrayError
from agentray.protocol.runs import Run, RunStatus

_CODES = {
    401: "invalid_api_key",
    403: "insufficient_permissions",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}
_TYPES = {403: "permission_error", 429: "rate_limit_error"}


class RequestRefused(AgentrayError):
    """A request that cannot be served; what is wrong, as OpenAI's API says it.

    Attributes:
        param: the parameter that is wrong; None: none in particular.
        code: stable name of the mistake.
        status: of the HTTP answer.
        retryable: the same request may do later.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code
        self.status, self.retryable = status, retryable


def unsupported(param: str, why: str) -> RequestRefused:
    """Return the error of a parameter whose value this server cannot honour."""
    return RequestRefused(why, param=param, code="unsupported_parameter")


def invalid_value(param: str, why: str) -> RequestRefused:
    """Return the error of a parameter whose value is wrong."""
    return RequestRefused(why, param=param, code="invalid_value")


def refused_fields(errors: Sequence[ErrorDetails]) -> RequestRefused:
    """Return the error of what pydantic found wrong; of several things, the first."""
    # Of a union it tells what each form lacks: what goes deepest is of the form that was meant.
    first = max(errors, key=lambda each: (len(each["loc"]), each["type"] == "literal_error"))
    if first["type"] == "json_invalid":
        told = first["msg"].removeprefix("Invalid JSON: ")
        return RequestRefused(f"We could not parse the JSON body of your request: {told}")
    param = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return RequestRefused(
            f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter"
        )
    if first["type"] == "missing":
        told = f"Missing required parameter: '{param}'."
        return RequestRefused(told, param=param, code="missing_required_parameter")
    told = first["msg"].removeprefix("Value error, ")
    return RequestRefused(f"Invalid '{param}': {told}.", param=param, code="invalid_value")


_UNIONS_OF = frozenset({"messages", "content", "input", "output"})
_UNIONS = frozenset({"response_format", "format"})
"""Whose items are, and which are themselves, of several forms: pydantic then names the form."""


def _path(location: Sequence[int | str]) -> str:
    """Write where a field is, as their errors do: `messages[0].content`."""
    path, name, tagged = "", "", False
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            tagged = name in _UNIONS_OF
        elif not tagged and part.isidentifier() and not part.startswith("_") and part != "str":
            path += f".{part}" if path else part
            name, tagged = part, part in _UNIONS
        else:
            tagged = tagged and not part.isidentifier()
    return path


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def type_of(status: int) -> str:
    """Return their type of an error, by its HTTP status."""
    if status >= 500:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")


def from_problem(document: bytes) -> tuple[int, dict[str, Any]]:
    """Translate a problem document.

    Returns:
        The HTTP status, and the body.
    """
    told = cast("dict[str, Any]", json.loads(document))
    status = 400 if told["status"] == 422 else int(told["status"])
    fields: list[dict[str, Any]] = told.get("errors") or []
    wrong = fields[0] if fields else {}
    header = wrong.get("location") == "header"
    param = None if header else (wrong.get("field") or None)
    body = error_body(
        str(told["detail"]), type_of(status), param=param, code=_CODES.get(told["status"])
    )
    return status, body


def error_of_run(run: Run) -> dict[str, Any]:
    """Return the body that tells why a run has no answer."""
    what = run.error.message if run.error else f"The run ended as {run.status}."
    return error_body(f"{what} ({run.id})", "server_error", code=code_of(run))


def code_of(run: Run) -> str:
    """Return the name of why a run has no answer."""
    return "agent_error" if run.status is RunStatus.FAILED else run.status.value
