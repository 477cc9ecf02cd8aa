"""What the OpenAPI document says of the routes that `synapseclient` asks for."""

from __future__ import annotations

from typing import Any

from agentray.compat.synapse import CHAT_REQUEST, ERROR, RESPONSE, STATUS

_ERRORS = {
    400: "The request is malformed, or a field of it is wrong.",
    401: "A valid API key is needed.",
    403: "The API key does not allow this.",
    404: "What it names does not exist, or is another tenant's.",
    409: "It is in the way of something else.",
    413: "The body is too large.",
    421: "This gateway does not serve the host that was asked for.",
    429: "Too much is waiting already.",
    500: "Something went wrong here.",
    503: "It cannot be taken now.",
}
_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_REASON: dict[str, Any] = {
    **_object(concreteType={"const": ERROR}, reason=_TEXT),
    "required": ["concreteType", "reason"],
}
_PROFILE = _object(ownerId=_TEXT, userName=_TEXT, displayName=_TEXT)
_REGISTRATION = _object(
    awsAgentId=_TEXT, awsAliasId=_MAYBE, agentRegistrationId=_TEXT, registeredOn=_TEXT, type=_TEXT
)
_SESSION = _object(
    sessionId=_TEXT,
    agentAccessLevel=_TEXT,
    startedOn=_TEXT,
    startedBy=_TEXT,
    modifiedOn=_TEXT,
    agentRegistrationId=_TEXT,
    etag=_TEXT,
)
_TOKEN = _object(token=_TEXT)
_ANSWER = _object(concreteType=_TEXT, sessionId=_TEXT, responseText=_TEXT, jobId=_TEXT)
_JOB = _object(
    concreteType=_TEXT,
    jobId=_TEXT,
    jobState={"enum": ["PROCESSING", "FAILED"]},
    jobCanceling={"type": "boolean"},
    startedOn=_TEXT,
    startedByUserId=_MAYBE,
    progressMessage=_TEXT,
    progressCurrent={"type": "number"},
    progressTotal={"type": "number"},
    exception=_TEXT,
    errorMessage=_TEXT,
    errorDetails=_TEXT,
)
_TRACE = _object(
    jobId=_TEXT,
    page={"type": "array", "items": _object(message=_TEXT, timestamp={"type": "integer"})},
)

_WHEN = "2026-01-15T10:00:00.000Z"
_RUN = "run_019a8c0d4e5f0123456789abcdef"
_AN_AGENT = {
    "awsAgentId": "assistant",
    "awsAliasId": None,
    "agentRegistrationId": "assistant",
    "registeredOn": _WHEN,
    "type": "CUSTOM",
}
_A_SESSION = {
    "sessionId": "ses_019a8c0d4e5f0123456789abcdef",
    "agentAccessLevel": "PUBLICLY_ACCESSIBLE",
    "startedOn": _WHEN,
    "startedBy": "key_019a",
    "modifiedOn": _WHEN,
    "agentRegistrationId": "assistant",
    "etag": "1",
}
_AN_ANSWER = {
    "concreteType": RESPONSE,
    "sessionId": _A_SESSION["sessionId"],
    "responseText": "Hello, Ada!",
    "jobId": _RUN,
}
_UNDER_WAY = {
    "concreteType": STATUS,
    "jobId": _RUN,
    "jobState": "PROCESSING",
    "jobCanceling": False,
    "startedOn": _WHEN,
    "startedByUserId": None,
}
_FAILED = {
    **_UNDER_WAY,
    "jobState": "FAILED",
    "exception": "ValueError",
    "errorMessage": "no paper",
    "errorDetails": "",
}

BODIES: dict[str, Any] = {
    "synapseRegister": {"awsAgentId": "assistant"},
    "synapseStartSession": {
        "agentAccessLevel": "PUBLICLY_ACCESSIBLE",
        "agentRegistrationId": "assistant",
    },
    "synapseUpdateSession": {"agentAccessLevel": "READ_YOUR_PRIVATE_DATA"},
    "synapseStartChat": {
        "concreteType": CHAT_REQUEST,
        "sessionId": _A_SESSION["sessionId"],
        "chatText": "Hello",
        "enableTrace": True,
    },
    "synapseTrace": {"newerThanTimestamp": 1768471200000},
}
"""Examples of bodies, by the name of the operation."""

_Answer = tuple[int, str, dict[str, Any], dict[str, Any]]

_ANSWERS: dict[str, tuple[_Answer, ...]] = {
    "synapseProfile": (
        (200, "Who asks.", _PROFILE, dict.fromkeys(("ownerId", "userName", "displayName"), "ci")),
    ),
    "synapseRegister": ((200, "The agent is registered.", _REGISTRATION, _AN_AGENT),),
    "synapseRegistration": ((200, "The registration.", _REGISTRATION, _AN_AGENT),),
    "synapseStartSession": ((201, "The session is started.", _SESSION, _A_SESSION),),
    "synapseSession": ((200, "The session.", _SESSION, _A_SESSION),),
    "synapseUpdateSession": ((200, "The session as it is now.", _SESSION, _A_SESSION),),
    "synapseStartChat": ((201, "The prompt is accepted.", _TOKEN, {"token": _RUN}),),
    "synapseChat": (
        (201, "It has been answered.", _ANSWER, _AN_ANSWER),
        (202, "It has not ended yet.", _JOB, _UNDER_WAY),
        (200, "It has failed.", _JOB, _FAILED),
    ),
    "synapseTrace": (
        (
            200,
            "What has happened.",
            _TRACE,
            {"jobId": _RUN, "page": [{"message": f"{_WHEN} started", "timestamp": 1768471200000}]},
        ),
    ),
}
_NEEDS_NOTHING = frozenset({"synapseProfile"})  # it names nothing that might not be there
_WITH_BODIES = frozenset(BODIES)


def responses(operation: str) -> dict[int | str, dict[str, Any]]:
    """Return what an operation answers with: what it says, and its errors in that client's form."""
    told: dict[int | str, dict[str, Any]] = {
        status: {
            "description": said,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
        for status, said, schema, example in _ANSWERS[operation]
    }
    left_out: set[int] = set()
    if operation in _NEEDS_NOTHING:
        left_out |= {400, 404}
    if operation not in _WITH_BODIES:
        left_out |= {413}
    if operation != "synapseStartChat":
        left_out |= {409}
    return told | {s: _error(s, said) for s, said in _ERRORS.items() if s not in left_out}


def _error(status: int, said: str) -> dict[str, Any]:
    example = {"concreteType": ERROR, "reason": said}
    content = {"application/json": {"schema": _REASON, "example": example}}
    headers: dict[str, Any] = {}
    if status in {429, 503}:
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds to wait."}
    return {"description": said, "content": content, "headers": headers}
