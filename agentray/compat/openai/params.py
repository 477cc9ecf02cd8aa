"""What both of OpenAI's interfaces have in common in their parameters, checked and translated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from agentray.compat.openai.errors import RequestRefused, invalid_value, unsupported
from agentray.protocol.chat import AnswerFormat, Chat, ToolDefinition

MAX_METADATA = 16

_PARTS = {"image": "images", "file": "files", "audio": "audio"}

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
]

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Given(BaseModel):
    """A part of a request: what it does not know is refused, as there."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamOptions(Given):
    """How the answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Common(Given):
    """Parameters of both interfaces.

    Those that are only hints for the provider of a model (`service_tier`, `prompt_cache_key`, …)
    are accepted and change nothing.
    """

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    user: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonValue = None
    moderation: JsonValue = None

    def address(self) -> tuple[str, str | None]:
        """Return the agent type and the key that the model stands for."""
        type_name, slash, key = self.model.partition("/")
        return type_name, key if slash else None


class FunctionTool(Given):
    """A tool of the caller's: a function."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def definition(self, where: str) -> ToolDefinition:
        """Return it as agents get it.

        Raises:
            RequestRefused: its parameters are no JSON Schema.
        """
        schema = self.parameters or {"type": "object", "properties": {}}
        check_schema(schema, f"{where}.parameters")
        return ToolDefinition(
            name=self.name, description=self.description, parameters=schema, strict=self.strict
        )


class JsonSchemaFormat(Given):
    """The schema that the answer shall fit."""

    type: Literal["json_schema"] = "json_schema"
    name: ToolName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def format(self, where: str) -> AnswerFormat:
        """Return it as agents get it.

        Raises:
            RequestRefused: it is no JSON Schema of an object.
        """
        schema = self.schema_ or {"type": "object"}
        check_schema(schema, f"{where}.schema")
        return AnswerFormat(
            name=self.name, description=self.description, json_schema=schema, strict=self.strict
        )


class TextFormat(Given):
    """The answer is a text."""

    type: Literal["text"]


class JsonObjectFormat(Given):
    """The answer is any JSON object."""

    type: Literal["json_object"]


def check_schema(schema: dict[str, Any], param: str) -> None:
    """Refuse what is no JSON Schema.

    Raises:
        RequestRefused: it is none.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise RequestRefused(
            f"Invalid schema for '{param}': {error.message}.", param=param, code="invalid_schema"
        ) from error


def check_tool_choice(choice: str, tools: Collection[ToolDefinition]) -> str:
    """Return which tools may be asked for.

    Raises:
        RequestRefused: it names a tool that was not given, or there are no tools at all.
    """
    if choice in {"auto", "none"}:
        return choice
    if not tools:
        raise invalid_value("tool_choice", "'tool_choice' is only allowed when 'tools' are given.")
    if choice != "required" and choice not in {tool.name for tool in tools}:
        raise invalid_value("tool_choice", f"Tool choice '{choice}' not found in 'tools'.")
    return choice


def check_accepted(
    chat: Chat, accepts: Collection[str], model: str, *, names: Mapping[str, str]
) -> None:
    """Refuse what an agent has not said that it takes.

    Args:
        chat: what it is given.
        accepts: what it has said.
        model: its name.
        names: of the parameters that bring what the agent may not take.

    Raises:
        RequestRefused: it does not take something.
    """
    brought = {"tools": bool(chat.tools), "json_schema": chat.answer_format is not None}
    for message in chat.messages:
        for part in message.content if isinstance(message.content, tuple) else ():
            if part.type != "text":
                brought[_PARTS[part.type]] = True
    for what, there in brought.items():
        if there and what not in accepts:
            param = names.get(what, names["messages"])
            why = f"the agent takes no {what.replace('_', ' ')}."
            raise unsupported(param, f"'{param}' is not supported with the model '{model}': {why}")


def check_storable(told: Any, param: str) -> None:
    """Refuse what the database cannot keep: NUL characters.

    Raises:
        RequestRefused: there is one.
    """
    if isinstance(told, str):
        if "\0" in told:
            raise invalid_value(param, f"Invalid '{param}': NUL characters cannot be stored.")
    elif isinstance(told, dict):
        for name, value in cast("dict[str, Any]", told).items():
            check_storable(name, param)
            check_storable(value, param)
    elif isinstance(told, list):
        for value in cast("list[Any]", told):
            check_storable(value, param)
