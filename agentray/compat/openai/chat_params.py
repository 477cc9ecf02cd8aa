"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

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
    AudioPart,
    Chat,
    ChatMessage,
    FilePart,
    ImagePart,
    Part,
    Sampling,
    TextPart,
    ToolCall,
)


class _Text(Given):
    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return TextPart(text=self.text)


class _Refusal(Given):
    type: Literal["refusal"]
    refusal: str

    def part(self) -> Part:
        return TextPart(text=self.refusal)


class _ImageUrl(Given):
    url: str
    detail: str | None = None


class _Image(Given):
    type: Literal["image_url"]
    image_url: _ImageUrl
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return ImagePart(url=self.image_url.url, detail=self.image_url.detail)


class _AudioData(Given):
    data: str
    format: str


class _Audio(Given):
    type: Literal["input_audio"]
    input_audio: _AudioData
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return AudioPart(data=self.input_audio.data, format=self.input_audio.format)


class _FileData(Given):
    file_data: str
    filename: str | None = None


class _File(Given):
    type: Literal["file"]
    file: _FileData
    prompt_cache_breakpoint: JsonValue = None

    def part(self) -> Part:
        return FilePart(data=self.file.file_data, filename=self.file.filename)


_Parts = Annotated[
    list[Annotated[_Text | _Refusal | _Image | _Audio | _File, Field(discriminator="type")]],
    Field(min_length=1),
]


class _Function(Given):
    name: str
    arguments: str


class _Call(Given):
    id: str
    type: Literal["function"] = "function"
    function: _Function

    def call(self) -> ToolCall:
        return ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


def _content(content: str | list[Any] | None) -> str | tuple[Part, ...] | None:
    if content is None or isinstance(content, str):
        return content
    return tuple(part.part() for part in content)


class _Said(Given):
    role: Literal["system", "developer", "user"]
    content: str | _Parts
    name: str | None = None

    def message(self) -> ChatMessage:
        role = "user" if self.role == "user" else "system"
        return ChatMessage(role=role, content=_content(self.content), name=self.name)


class _Assistant(Given):
    role: Literal["assistant"]
    content: str | _Parts | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    # What their SDK's own answers have beside it, which are often sent back as they came.
    audio: None = None
    function_call: None = None
    annotations: JsonValue = None
    parsed: JsonValue = None

    def message(self) -> ChatMessage:
        content = _content(self.content) if self.content is not None else self.refusal
        calls = tuple(call.call() for call in self.tool_calls or ())
        if content is None and not calls:
            content = ""
        return ChatMessage(role="assistant", content=content, name=self.name, tool_calls=calls)


class _ToolResult(Given):
    role: Literal["tool"]
    content: str | _Parts
    tool_call_id: str

    def message(self) -> ChatMessage:
        content = _content(self.content)
        return ChatMessage(role="tool", content=content, tool_call_id=self.tool_call_id)


_Message = Annotated[_Said | _Assistant | _ToolResult, Field(discriminator="role")]


class _Tool(Given):
    type: Literal["function"]
    function: FunctionTool


class _ChosenName(Given):
    name: ToolName


class _Chosen(Given):
    type: Literal["function"] = "function"
    function: _ChosenName


class _SchemaFormat(Given):
    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


_Format = Annotated[TextFormat | JsonObjectFormat | _SchemaFormat, Field(discriminator="type")]


class ChatParams(Common):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _Chosen | None = None
    response_format: _Format | None = None
    n: int | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    audio: JsonValue = None
    prediction: JsonValue = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: JsonValue = None
    functions: JsonValue = None
    function_call: JsonValue = None

    def chat(self) -> Chat:
        """Return the conversation as agents get it.

        Raises:
            RequestRefused: it asks for what an agent cannot give.
        """
        self._refuse()
        tools = tuple(
            tool.function.definition(f"tools[{n}].function")
            for n, tool in enumerate(self.tools or ())
        )
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, _Chosen) else None
        choice = chosen or (self.tool_choice if isinstance(self.tool_choice, str) else "auto")
        return Chat(
            messages=_messages(self.messages),
            tools=tools,
            tool_choice=check_tool_choice(choice, tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            answer_format=self._format(),
            sampling=Sampling(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                stop=self._stops(),
                seed=self.seed,
                frequency_penalty=self.frequency_penalty,
                presence_penalty=self.presence_penalty,
                reasoning_effort=self.reasoning_effort,
            ),
            metadata=self.metadata or {},
            user=self.user or self.safety_identifier,
        )

    def _stops(self) -> tuple[str, ...] | None:
        if isinstance(self.stop, str):
            return (self.stop,)
        return None if self.stop is None else tuple(self.stop)

    def _format(self) -> AnswerFormat | None:
        match self.response_format:
            case _SchemaFormat():
                return self.response_format.json_schema.format("response_format.json_schema")
            case JsonObjectFormat():
                return AnswerFormat(name="json_object")
            case _:
                return None

    def _refuse(self) -> None:
        """Refuse what would make the answer another one than was asked for."""
        if self.n not in {None, 1}:
            raise unsupported("n", "Agents answer once: 'n' must be 1.")
        if self.logprobs or self.top_logprobs:
            param = "logprobs" if self.logprobs else "top_logprobs"
            raise unsupported(param, f"Agents tell no log probabilities: leave '{param}' out.")
        if self.audio is not None or (self.modalities or ["text"]) != ["text"]:
            param = "audio" if self.audio is not None else "modalities"
            raise unsupported(param, "Agents answer with text.")
        for param in ("functions", "function_call"):
            if getattr(self, param) is not None:
                raise unsupported(param, f"'{param}' is deprecated: use 'tools'.")
        if self.web_search_options is not None:
            raise unsupported("web_search_options", "There is no web search here: use 'tools'.")
        if self.logit_bias:
            raise unsupported("logit_bias", "The tokens of agents are not known: no 'logit_bias'.")
        if self.stream_options is not None and not self.stream:
            told = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise invalid_value("stream_options", told)


def _messages(given: list[Any]) -> tuple[ChatMessage, ...]:
    """Return the messages; each result of a tool belongs to a call before it.

    Raises:
        RequestRefused: one does not.
    """
    messages: list[ChatMessage] = []
    asked: set[str] = set()
    for number, each in enumerate(given):
        message: ChatMessage = each.message()
        if message.role == "tool" and message.tool_call_id not in asked:
            raise invalid_value(
                f"messages[{number}].tool_call_id",
                "A message with role 'tool' must answer one of the 'tool_calls' before it.",
            )
        asked.update(call.id for call in message.tool_calls)
        messages.append(message)
    return tuple(messages)


def parse_chat(body: bytes) -> ChatParams:
    """Read the body of a request.

    Raises:
        RequestRefused: it is no JSON, or a parameter is wrong.
    """
    try:
        return ChatParams.model_validate_json(body)
    except ValidationError as error:
        raise refused_fields(error.errors()) from error
