"""The body of `POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError

from agentray.compat.openai.errors import invalid_value, refused_fields, unsupported
from agentray.compat.openai.params import (
    Common,
    FunctionTool,
    Given,
    JsonObjectFormat,
    JsonSchemaFormat,
    TextFormat,
    ToolName,
    check_tool_choice,
)
from agentray.protocol.chat import (
    AnswerFormat,
    Chat,
    ChatMessage,
    FilePart,
    ImagePart,
    Part,
    Sampling,
    TextPart,
    ToolCall,
)


class _InputText(Given):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return TextPart(text=self.text)


class _OutputText(Given):
    type: Literal["output_text"]
    text: str
    annotations: JsonValue = None
    logprobs: JsonValue = None
    parsed: JsonValue = None

    def part(self) -> Part:
        return TextPart(text=self.text)


class _Refusal(Given):
    type: Literal["refusal"]
    refusal: str

    def part(self) -> Part:
        return TextPart(text=self.refusal)


class _InputImage(Given):
    type: Literal["input_image"]
    image_url: str
    detail: str | None = None
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return ImagePart(url=self.image_url, detail=self.detail)


class _InputFile(Given):
    type: Literal["input_file"]
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return FilePart(data=self.file_data, url=self.file_url, filename=self.filename)


_Part = Annotated[
    _InputText | _OutputText | _Refusal | _InputImage | _InputFile, Field(discriminator="type")
]
_Status = Literal["in_progress", "completed", "incomplete"]


class _Message(Given):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[_Part], Field(min_length=1)]
    id: str | None = None
    status: _Status | None = None
    phase: str | None = None

    def message(self) -> ChatMessage:
        role = "system" if self.role == "developer" else self.role
        content = self.content
        parts = content if isinstance(content, str) else tuple(part.part() for part in content)
        return ChatMessage(role=role, content=parts)


class _FunctionCall(Given):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: _Status | None = None
    parsed_arguments: JsonValue = None
    caller: JsonValue = None
    namespace: JsonValue = None
    async_: JsonValue = Field(default=None, alias="async")

    def message(self) -> ChatMessage:
        call = ToolCall(id=self.call_id, name=self.name, arguments=self.arguments)
        return ChatMessage(role="assistant", tool_calls=(call,))


class _FunctionOutput(Given):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[_Part]
    id: str | None = None
    status: _Status | None = None
    caller: JsonValue = None

    def message(self) -> ChatMessage:
        output = self.output
        content = output if isinstance(output, str) else tuple(part.part() for part in output)
        return ChatMessage(role="tool", content=content, tool_call_id=self.call_id)


class _Reasoning(Given):
    """What a model thought before: agents think for themselves, so it says nothing to them."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: JsonValue = None
    content: JsonValue = None
    encrypted_content: JsonValue = None
    status: _Status | None = None

    def message(self) -> None:
        return None


def _item_type(item: Any) -> str:
    given = cast("dict[str, Any]", item if isinstance(item, dict) else vars(item))
    return str(given.get("type", "message"))


_Item = Annotated[
    Annotated[_Message, Tag("message")]
    | Annotated[_FunctionCall, Tag("function_call")]
    | Annotated[_FunctionOutput, Tag("function_call_output")]
    | Annotated[_Reasoning, Tag("reasoning")],
    Discriminator(_item_type),
]


class _Tool(FunctionTool):
    type: Literal["function"]
    defer_loading: Literal[False] | None = None


class _Chosen(Given):
    type: Literal["function"]
    name: ToolName


class _Text(Given):
    format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    verbosity: str | None = None


class _ReasoningParam(Given):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: JsonValue = None
    mode: str | None = None


class ResponsesParams(Common):
    """The body of `POST /v1/responses`."""

    input: str | Annotated[list[_Item], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _Chosen | None = None
    text: _Text | None = None
    reasoning: _ReasoningParam | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    max_tool_calls: int | None = None
    prompt: JsonValue = None
    conversation: JsonValue = None
    context_management: JsonValue = None
    access_programs: JsonValue = None

    @property
    def stored(self) -> bool:
        """Whether it can be got back."""
        return self.store is not False

    def echo(self) -> dict[str, Any]:
        """Return what the response repeats of its request."""
        choice = self.tool_choice
        told = self.model_dump(mode="json", exclude_none=True, by_alias=True)
        return {
            "background": bool(self.background),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "model": self.model,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": None, "summary": None} | told.get("reasoning", {}),
            "service_tier": self.service_tier or "auto",
            "store": self.stored,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": {"type": "text"}} | told.get("text", {}),
            "tool_choice": "auto" if choice is None else told["tool_choice"],
            "tools": told.get("tools", []),
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": self.truncation or "disabled",
            "user": self.user,
        }

    def messages(self) -> tuple[ChatMessage, ...]:
        """Return the messages that this request brings."""
        if isinstance(self.input, str):
            return (ChatMessage(role="user", content=self.input),)
        found = (item.message() for item in self.input)
        return tuple(_joined([message for message in found if message is not None]))

    def chat(self, before: Sequence[ChatMessage]) -> Chat:
        """Return the conversation as agents get it.

        Args:
            before: what was said before.

        Raises:
            RequestRefused: it asks for what an agent cannot give.
        """
        self._refuse()
        tools = tuple(tool.definition(f"tools[{n}]") for n, tool in enumerate(self.tools or ()))
        chosen = self.tool_choice.name if isinstance(self.tool_choice, _Chosen) else None
        choice = chosen or (self.tool_choice if isinstance(self.tool_choice, str) else "auto")
        messages = (*before, *self.messages())
        _check_outputs(messages)
        return Chat(
            messages=messages,
            instructions=self.instructions,
            tools=tools,
            tool_choice=check_tool_choice(choice, tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            answer_format=self._format(),
            sampling=Sampling(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_output_tokens,
                reasoning_effort=self.reasoning.effort if self.reasoning else None,
            ),
            metadata=self.metadata or {},
            user=self.user or self.safety_identifier,
        )

    def _format(self) -> AnswerFormat | None:
        match self.text and self.text.format:
            case JsonSchemaFormat() as schema:
                return schema.format("text.format")
            case JsonObjectFormat():
                return AnswerFormat(name="json_object")
            case _:
                return None

    def _refuse(self) -> None:
        """Refuse what would make the answer another one than was asked for."""
        if self.top_logprobs or "message.output_text.logprobs" in (self.include or ()):
            param = "top_logprobs" if self.top_logprobs else "include"
            raise unsupported(param, "Agents tell no log probabilities.")
        if self.prompt is not None:
            raise unsupported("prompt", "There are no prompt templates here: send 'input'.")
        if self.conversation is not None:
            raise unsupported("conversation", "Go on with 'previous_response_id'.")
        if self.background and not self.stored:
            raise invalid_value("background", "A response in the background must be stored.")
        if self.stream_options is not None and not self.stream:
            told = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise invalid_value("stream_options", told)


def _joined(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return messages in which the tool calls that come together are those of one message."""
    found: list[ChatMessage] = []
    for message in messages:
        last = found[-1] if found else None
        if message.tool_calls and last is not None and last.role == "assistant":
            calls = (*last.tool_calls, *message.tool_calls)
            found[-1] = last.model_copy(update={"tool_calls": calls})
        else:
            found.append(message)
    return found


def _check_outputs(messages: Sequence[ChatMessage]) -> None:
    asked: set[str] = set()
    for message in messages:
        if message.role == "tool" and message.tool_call_id not in asked:
            raise invalid_value(
                "input", f"No tool call found for function call output '{message.tool_call_id}'."
            )
        asked.update(call.id for call in message.tool_calls)


def parse_response(body: bytes) -> ResponsesParams:
    """Read the body of a request.

    Raises:
        RequestRefused: it is no JSON, or a parameter is wrong.
    """
    try:
        return ResponsesParams.model_validate_json(body)
    except ValidationError as error:
        raise refused_fields(error.errors()) from error
