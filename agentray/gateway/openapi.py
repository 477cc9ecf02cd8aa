"""The OpenAPI document: what every route promises, with examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI

from agentray.gateway.bodies import REFERENCE
from agentray.gateway.problems import (
    CONFLICT,
    FORBIDDEN,
    INTERNAL,
    INVALID,
    MALFORMED,
    MEDIA_TYPE,
    MISDIRECTED,
    OVERLOADED,
    TOO_LARGE,
    UNAUTHORIZED,
    UNAVAILABLE,
    UNKNOWN,
    VERSION_MISMATCH,
    VERSION_REQUIRED,
    FieldProblem,
    HttpProblem,
    Problem,
)
from agentray.protocol.runs import Run, RunEvent

TAGS: list[dict[str, Any]] = [
    {"name": "prompts", "description": "Give work to agents."},
    {"name": "runs", "description": "Look at accepted work: its state, events and trace."},
    {"name": "dead letters", "description": "What came to nothing: look, try again, forget."},
    {"name": "sessions", "description": "Conversations: an agent of its own, and its runs."},
    {"name": "schedules", "description": "Give work to agents again and again."},
    {"name": "keys", "description": "Who may do what."},
    {"name": "async jobs", "description": "Typed requests: start, then get, follow or cancel."},
    {"name": "openai", "description": "Agents as models: OpenAI's Chat Completions and Responses."},
    {"name": "webhooks", "description": "Be told when a run has ended."},
    {"name": "synapse", "description": "Agents, sessions and chats as `synapseclient` asks for."},
    {"name": "jobs", "description": "Programs on the cluster, and their logs."},
    {"name": "cluster", "description": "Machines, tasks, actors, Serve; what lets jobs in."},
    {
        "name": "operations",
        "description": "Drain hosts and nodes, reset agents, look after it all.",
    },
    {"name": "health", "description": "For probes and load balancers."},
]

_RUN: dict[str, Any] = {
    "id": "run_019a8c0d4e5f0123456789abcdef",
    "status": "succeeded",
    "agent": "greeter/ada",
    "result": {"text": "Hello, Ada!"},
    "error": None,
    "attempt": 1,
    "correlation_id": "run_019a8c0d4e5f0123456789abcdef",
    "created_at": "2026-01-15T10:00:00Z",
    "started_at": "2026-01-15T10:00:00.004Z",
    "finished_at": "2026-01-15T10:00:00.021Z",
}
_QUEUED = {**_RUN, "status": "queued", "result": None, "started_at": None, "finished_at": None}

_EVENTS = """\
id: 0
event: queued
data: {"offset":0,"kind":"queued","time":"2026-01-15T10:00:00Z","data":{}}

id: 1
event: succeeded
data: {"offset":1,"kind":"succeeded","time":"2026-01-15T10:00:00.021Z","data":{}}
"""

EVENTS_CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Server-Sent Events; each `data:` is a RunEvent.",
        },
        "example": _EVENTS,
    }
}

KEY_HEADER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the client, unique per piece of work.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}

_EXAMPLES = {
    example.kind.status: example
    for example in (
        HttpProblem(MALFORMED, "The body is not JSON: expected value at line 1 column 1."),
        HttpProblem(UNAUTHORIZED, "The API key is unknown or was revoked."),
        HttpProblem(FORBIDDEN, "The API key key_019a lacks the scope 'invoke'."),
        HttpProblem(UNKNOWN, "There is no agent type 'greter'. Known types: greeter."),
        HttpProblem(
            CONFLICT,
            f"The idempotency key 'order-17' was already used with another body, for {_RUN['id']}.",
            run_id=_RUN["id"],
        ),
        HttpProblem(VERSION_MISMATCH, "Somebody has changed the session since it was read."),
        HttpProblem(VERSION_REQUIRED, "Name the version that you have read in If-Match."),
        HttpProblem(TOO_LARGE, "The body is over 1048576 bytes."),
        HttpProblem(MISDIRECTED, "This gateway is not 'evil.example': ask for localhost."),
        HttpProblem(
            INVALID,
            "prompt: Field required",
            errors=[FieldProblem(field="prompt", location="body", message="Field required")],
        ),
        HttpProblem(OVERLOADED, "greeter/ada has too many messages waiting; retry in 1 s."),
        HttpProblem(INTERNAL, "Look for err_019a8c0d in the gateway's log.", id="err_019a8c0d"),
        HttpProblem(UNAVAILABLE, "The database cannot be reached."),
    )
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "Bearer"}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def run_content(status: str) -> dict[str, Any]:
    """Describe a response whose body is a run: `succeeded` or `queued` is its example."""
    example = _RUN if status == "succeeded" else _QUEUED
    return {
        "application/json": {"schema": {"$ref": "#/components/schemas/Run"}, "example": example}
    }


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may answer with; any may be told to come again."""
    every = {*statuses, 429} if 503 in statuses else statuses
    return {status: json.loads(_problem(status)) for status in sorted(every)}


@cache  # some hundred times in one document; as text, since FastAPI writes into what it is given
def _problem(status: int) -> str:
    example = _EXAMPLES[status]
    problem = {
        "description": f"{example.kind.title}.",
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": example.document().model_dump(exclude_none=True),
            }
        },
        "headers": _HEADERS.get(status, {}),
    }
    return json.dumps(problem)


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Go through all operations."""
    for path in document["paths"].values():
        yield from path.values()


def _leave_out_default(responses: dict[str, Any]) -> None:
    """Leave out the 200 that FastAPI adds where a route has said with what it succeeds."""
    others = [status for status in responses if status[0] == "2" and status != "200"]
    if others and responses.get("200") == {"description": "Successful Response"}:
        del responses["200"]


def _bodies(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Go through the schemas of all request bodies."""
    for operation in _operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            yield content["schema"]


def _drop_their_422(document: dict[str, Any]) -> None:
    """Drop FastAPI's own 422 where a route describes none: it answers otherwise."""
    for path in document["paths"].values():
        for operation in path.values():
            told = json.dumps(operation["responses"].get("422", {}))
            if "/HTTPValidationError" in told:
                del operation["responses"]["422"]


class GatewayApp(FastAPI):
    """A FastAPI app whose document also has the shapes that its routes write themselves."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (Problem, FieldProblem, Run, RunEvent):
                schema = model.model_json_schema(ref_template=REFERENCE)
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            _drop_their_422(document)
            for operation in _operations(document):
                _leave_out_default(operation["responses"])
            for body in _bodies(document):
                schemas.update(body.pop("$defs", {}))
            # FastAPI adds its own form of a 422 to routes with parameters; ours replaces it.
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
        return self.openapi_schema or {}
