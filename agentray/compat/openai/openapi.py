"""What the OpenAPI document says of these routes: examples, and errors in their own shape."""

from __future__ import annotations

from typing import Any

from agentray.compat.openai.errors import error_body, type_of

_ERRORS = {
    400: ("Unknown parameter: 'warmth'.", "warmth", "unknown_parameter"),
    401: ("The API key is unknown or was revoked.", None, "invalid_api_key"),
    403: ("The API key key_019a lacks the scope 'invoke'.", None, "insufficient_permissions"),
    404: ("The model 'greter' does not exist.", None, "model_not_found"),
    409: ("The idempotency key 'order-17' was already used with another body.", None, None),
    413: ("The body is over 1048576 bytes.", None, "request_too_large"),
    421: ("This gateway is not 'evil.example': ask for localhost.", None, None),
    429: ("Too many runs under way; retry in 1 s.", None, "rate_limit_exceeded"),
    500: ("ValueError: no (run_019a8c0d4e5f)", None, "agent_error"),
    503: ("The database cannot be reached.", None, None),
    504: ("No answer within 600 s. It goes on as run_019a8c0d4e5f.", None, "timeout"),
}  # fmt: skip
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
_ASKED = (400, 401, 403, 404, 409, 413, 421, 429, 500, 503)

_MODEL = {"id": "greeter", "object": "model", "created": 1768471200, "owned_by": "greetings"}
_MESSAGES = [{"role": "user", "content": "Hello, I am Ada."}]
_COMPLETION = {
    "id": "chatcmpl-019a8c0d4e5f0123456789abcdef",
    "object": "chat.completion",
    "created": 1768471200,
    "model": "greeter",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, Ada!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
}
_RESPONSE: dict[str, Any] = {
    "id": "resp_019a8c0d4e5f0123456789abcdef",
    "object": "response",
    "created_at": 1768471200,
    "status": "completed",
    "model": "greeter",
    "output": [
        {
            "id": "msg_019a8c0d4e5f0123456789abcdef",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello, Ada!", "annotations": []}],
        }
    ],
    "previous_response_id": None,
    "store": True,
}
_CHUNKS = """\
data: {"id":"chatcmpl-019a","choices":[{"index":0,"delta":{"content":"Hello"}}]}

data: [DONE]
"""
_EVENTS = """\
event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"delta":"Hello"}

event: response.completed
data: {"type":"response.completed","sequence_number":8,"response":{}}
"""


def _error(status: int) -> dict[str, Any]:
    message, param, code = _ERRORS[status]
    example = error_body(message, type_of(status), param=param, code=code)
    content = {"application/json": {"schema": _ERROR_SCHEMA, "example": example}}
    headers = _RETRY_AFTER if status in {429, 503} else {}
    return {"description": code or type_of(status), "content": content, "headers": headers}


def _json(example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object"}, "example": example}}


def _said(
    name: str,
    summary: str,
    answer: dict[str, Any],
    *statuses: int,
    body: dict[str, Any] | None = None,
    description: str = "",
) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _json(body)}
        extra["parameters"] = [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Chosen by the client, unique per piece of work.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        ]
    refused = {status: _error(status) for status in sorted({*statuses, 401, 403, 421, 500, 503})}
    return {
        "operation_id": name,
        "summary": summary,
        "description": description or summary + ".",
        "responses": {200: answer, **refused},
        "openapi_extra": extra,
    }


_STREAMED = {"schema": {"type": "string"}, "example": _CHUNKS}
_RESPONSE_STREAM = {"schema": {"type": "string"}, "example": _EVENTS}

OPERATIONS: dict[str, dict[str, Any]] = {
    "GET /models": _said(
        "listModels",
        "List agents as models",
        {
            "description": "The agent types that take prompts.",
            "content": _json({"object": "list", "data": [_MODEL]}),
        },
    ),
    "GET /models/{model:path}": _said(
        "getModel",
        "Look at an agent as a model",
        {"description": "The model.", "content": _json(_MODEL)},
        404,
    ),
    "POST /chat/completions": _said(
        "createChatCompletion",
        "Go on with a conversation (OpenAI's Chat Completions)",
        {
            "description": "The answer; with `stream`, its chunks and `[DONE]`.",
            "content": {**_json(_COMPLETION), "text/event-stream": _STREAMED},
        },
        *_ASKED,
        504,
        body={"model": "greeter", "messages": _MESSAGES},
        description="As OpenAI's API. `model` is an agent type, or `type/key`. The request is a "
        "run: `x-request-id` has its id, and it goes on when the client hangs up.",
    ),
    "POST /responses": _said(
        "createResponse",
        "Ask for a response (OpenAI's Responses)",
        {
            "description": "The response; with `stream`, its events.",
            "content": {**_json(_RESPONSE), "text/event-stream": _RESPONSE_STREAM},
        },
        *_ASKED,
        body={"model": "greeter", "input": "Hello, I am Ada."},
        description="As OpenAI's API. A response is a run. With `previous_response_id` the same "
        "agent goes on with the conversation; with `background` the answer comes at once.",
    ),
    "GET /responses/{response_id}": _said(
        "getResponse",
        "Get a response back",
        {
            "description": "The response as it is now; with `stream`, its events.",
            "content": {**_json(_RESPONSE), "text/event-stream": _RESPONSE_STREAM},
        },
        400,
        404,
    ),
    "DELETE /responses/{response_id}": _said(
        "deleteResponse",
        "Forget a response",
        {
            "description": "It is forgotten, and its run with it.",
            "content": _json({"id": _RESPONSE["id"], "object": "response", "deleted": True}),
        },
        404,
        409,
    ),
    "POST /responses/{response_id}/cancel": _said(
        "cancelResponse",
        "End a response that is under way",
        {"description": "The response as it is then.", "content": _json(_RESPONSE)},
        404,
    ),
    "GET /responses/{response_id}/input_items": _said(
        "listResponseInput",
        "List what a response was asked",
        {
            "description": "Items, the last one first.",
            "content": _json({"object": "list", "data": [], "has_more": False}),
        },
        400,
        404,
    ),
}
