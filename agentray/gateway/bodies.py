"""What comes in a request's body, read within limits and checked."""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime
from functools import cache
from typing import Any

from fastapi import Request
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from agentray.core.delays import MAX_DELAY_S
from agentray.gateway.problems import TOO_LARGE, HttpProblem, from_validation, invalid
from agentray.gateway.prompt_extras import AttachmentBody, check_output_schema
from agentray.ids import AgentId, check_type_name
from agentray.protocol.attachments import MAX_ATTACHMENTS
from agentray.protocol.budgets import Budget
from agentray.protocol.event_runs import Durability, PromptDurability
from agentray.protocol.moments import Moment
from agentray.protocol.sessions import SessionPolicy
from agentray.protocol.webhooks import WebhookSpec

DEFAULT_WAIT_S = 30.0

REFERENCE = "#/components/schemas/{model}"
"""How the OpenAPI document refers to a schema."""

MAX_TIMEOUT_S = 365 * 86_400.0
"""The longest time that a run may be given: a year."""


class PromptBody(BaseModel):
    """The body of `POST /v1/prompts`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [
                {"prompt": "What is this text about? …"},
                {"prompt": "Hello", "agent": "greeter/ada", "wait_s": 5},
            ]
        },
    )

    prompt: str = Field(min_length=1, description="What the agent is asked.")
    agent: str | None = Field(
        default=None,
        description="Who is asked: an agent type (a fresh instance answers) or type/key. Left out: "
        "the entry of the deployed app.",
    )
    wait_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for the end of the run before the answer is 202. Left out: "
        f"{DEFAULT_WAIT_S:g}, or the gateway's longest wait where that is shorter; 0 for a run "
        "that begins later.",
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        le=MAX_TIMEOUT_S,
        description="Seconds from its acceptance after which the run is ended as `timed_out`, "
        "wherever it is then. Left out: it has no deadline.",
    )
    budget: Budget | None = Field(
        default=None,
        description="What the run may use; beyond it, it ends as `budget_exceeded`. What it does "
        "not limit the agent type's own budget does.",
    )
    max_attempts: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="After so many attempts that each lost a host the run is `dead`. Left out: as "
        "the cluster's settings say.",
    )
    durability: PromptDurability = Field(
        default="run",
        description="`run`: the run begins again when a host dies. `step`: each event of it is "
        "kept until it is handled, and it goes on after the last commit.",
    )
    attachments: tuple[AttachmentBody, ...] = Field(
        default=(),
        max_length=MAX_ATTACHMENTS,
        description="Files that the agent is given with the prompt.",
    )
    output_schema: dict[str, Any] | None = Field(
        default=None,
        description="JSON Schema (2020-12) of the result. The agent is told, and a result that "
        "does not fit it ends the run as `failed`, with the error `OutputInvalid`. References "
        "within it only; no `patternProperties`; patterns without look-around.",
    )
    session: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="The session that it is given in: its agent takes it, after the session's "
        "earlier runs.",
    )
    policy: SessionPolicy = Field(
        default=SessionPolicy.ENQUEUE,
        description="What happens while an earlier run of the session is under way. `enqueue`: it "
        "begins after that; `reject`: 409, with the run in its way; `interrupt`: that is cancelled "
        "first, and those that wait; `rollback`: the same, and the agent's state goes back to what "
        "it was before.",
    )
    stream: bool = Field(default=False, description="Answer with the run's events as they happen.")
    delay_s: float | None = Field(
        default=None,
        ge=0,
        le=MAX_DELAY_S,
        allow_inf_nan=False,
        description="Seconds after which the run begins. It is accepted now; the answer is 202, "
        "unless `wait_s` says to wait.",
    )
    at: Moment | None = Field(
        default=None, description="When the run begins, with its offset from UTC; as `delay_s`."
    )

    enable_trace: bool = Field(
        default=False,
        description="Each message that an agent has handled is one of the run's events, `span`, as "
        "soon as it was: the trace is whole, can be read and followed while the run goes on, and "
        "is kept as long as the run.",
    )
    webhook: WebhookSpec | None = Field(
        default=None, description="Whom to tell when the run has ended, with a signed POST."
    )

    @field_validator("prompt", "agent", "session")
    @classmethod
    def _check_text(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("NUL characters cannot be stored")
        return text

    @field_validator("agent")
    @classmethod
    def _check_agent(cls, agent: str | None) -> str | None:
        if agent is not None:
            check_type_name(agent) if "/" not in agent else AgentId.parse(agent)
        return agent

    @field_validator("at")
    @classmethod
    def _check_at(cls, at: datetime | None, info: ValidationInfo) -> datetime | None:
        if at is not None and info.data.get("delay_s") is not None:
            raise ValueError("Say when the run begins with delay_s or with at, not with both")
        return at

    @property
    def later(self) -> bool:
        """Whether the run is to begin later."""
        return self.delay_s is not None or self.at is not None

    def address(self) -> tuple[str | None, str | None]:
        """Return agent type and key, each None where not given."""
        if self.agent is None:
            return None, None
        type_name, slash, key = self.agent.partition("/")
        return type_name, key if slash else None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body, and stop where it becomes too large, whatever its headers promised.

    Raises:
        HttpProblem: 413, it is over `max_bytes`.
    """
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def parse_prompt(body: bytes, max_wait_s: float) -> PromptBody:
    """Read the body of a prompt.

    Raises:
        HttpProblem: 400, it is no JSON; 422, with the fields that are wrong.
    """
    try:
        prompt = PromptBody.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise from_validation(error.errors(), "body") from error
    check_wait(prompt.wait_s, max_wait_s)
    _check_session(prompt)
    check_output_schema(prompt.output_schema)
    if prompt.output_schema is not None and prompt.durability == Durability.STEP:
        told = "The result of a run that is durable per step is not checked: leave it out"
        raise invalid("output_schema", "body", told)
    return prompt


def _check_session(prompt: PromptBody) -> None:
    """Check what is said of a session.

    Raises:
        HttpProblem: 422, it does not go together with the rest.
    """
    if prompt.session is None:
        if prompt.policy is not SessionPolicy.ENQUEUE:
            raise invalid("policy", "body", "Only a prompt in a session has one")
        return
    for name in ("agent", "delay_s", "at"):
        if getattr(prompt, name) is not None:
            told = "A prompt in a session has none: the session's agent takes it in its turn"
            raise invalid(name, "body", told)


def check_wait(wait_s: float | None, max_wait_s: float) -> float:
    """Return how long is waited, also where a request does not say it.

    Raises:
        HttpProblem: 422, it is longer than the gateway waits.
    """
    if wait_s is None:
        return min(DEFAULT_WAIT_S, max_wait_s)
    if wait_s > max_wait_s:
        raise invalid("wait_s", "body", f"Input should be at most {max_wait_s:g} seconds")
    return wait_s


class CancelBody(BaseModel):
    """The body of `POST /v1/runs/{id}/cancel`; it may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    wait_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for the end of the run before the answer is 202. Left out: "
        f"{DEFAULT_WAIT_S:g}, or the gateway's longest wait where that is shorter.",
    )


def parse_cancel(body: bytes) -> CancelBody:
    """Read the body of a cancellation.

    Raises:
        HttpProblem: 400, it is no JSON; 422, with the fields that are wrong.
    """
    try:
        return CancelBody.model_validate_json(body) if body.strip() else CancelBody()
    except ValidationError as error:
        raise from_validation(error.errors(), "body") from error


class AnswerBody(BaseModel):
    """The body of `POST /v1/runs/{id}/answer`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"answer": True}, {"answer": {"amount": 20}, "wait_s": 5}]},
    )

    answer: Any = Field(description="The answer: any JSON, as the question's schema wants it.")
    question: str | None = Field(
        default=None,
        max_length=64,
        description="Id of the question that is answered. Left out: the one that is asked now.",
    )
    wait_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for the end of the run before the answer is 202. Left out: "
        f"{DEFAULT_WAIT_S:g}, or the gateway's longest wait where that is shorter.",
    )


def parse_answer(body: bytes) -> AnswerBody:
    """Read the body of an answer.

    Raises:
        HttpProblem: 400, it is no JSON; 422, with the fields that are wrong.
    """
    try:
        return AnswerBody.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error.errors(), "body") from error


def check_idempotency_key(key: str | None) -> str | None:
    """Return an `Idempotency-Key` header when it is well formed.

    Raises:
        HttpProblem: 422, empty, longer than 255 characters, or not printable ASCII.
    """
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise invalid("Idempotency-Key", "header", "Use 1 to 255 printable ASCII characters")
    return key


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that a route reads itself, for the OpenAPI document.

    What it refers to is in its `$defs`, which `GatewayApp` puts beside the other schemas.
    """
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": deepcopy(_schema(model))}},
        }
    }


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(ref_template=REFERENCE)


def _too_large(max_bytes: int) -> HttpProblem:
    return HttpProblem(TOO_LARGE, f"The body is over {max_bytes} bytes.")
