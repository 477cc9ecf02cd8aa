"""Conversations: what a caller of the chat interfaces gives an agent, and what that answers.

A prompt that came through such an interface has all of it as `Prompt.chat`, beside its text. What
an agent can do with more than text it says in `AgentOptions(accepts=...)`: nothing else reaches it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

Accepts = Literal["tools", "json_schema", "images", "files", "audio"]
"""What an agent may be given beside text: `tools` of the caller's that it may ask to be called, a
`json_schema` that its answer shall fit, and parts of messages that are no text."""

REPLY = "chat.reply"
"""Marks a result that is a `ChatReply`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class TextPart(_Frozen):
    """A text within a message."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(_Frozen):
    """An image within a message: an address, or a `data:` URL."""

    type: Literal["image"] = "image"
    url: str
    detail: str | None = None


class FilePart(_Frozen):
    """A file within a message.

    Attributes:
        data: its content, as a `data:` URL or in base64; None: it is at `url`.
        url: where it is; None: its content is in `data`.
        filename: what it is called.
    """

    type: Literal["file"] = "file"
    data: str | None = None
    url: str | None = None
    filename: str | None = None


class AudioPart(_Frozen):
    """Audio within a message.

    Attributes:
        data: in base64.
        format: `wav` or `mp3`.
    """

    type: Literal["audio"] = "audio"
    data: str
    format: str


Part = Annotated[TextPart | ImagePart | FilePart | AudioPart, Field(discriminator="type")]


class ToolCall(_Frozen):
    """What a model wants the caller to do.

    Attributes:
        id: by which the result is known.
        name: of the tool.
        arguments: JSON text, as the model wrote it: it need not fit the tool's parameters.
    """

    id: str
    name: str
    arguments: str = "{}"


class ChatMessage(_Frozen):
    """One message of a conversation.

    Attributes:
        role: who says it; `tool`: the result of a tool call.
        content: a text, or parts; None: only tool calls.
        name: of the one who says it, where there are several of a role.
        tool_calls: that the assistant asked for.
        tool_call_id: of which this is the result.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """Its text; "" where there is none."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))


class ToolDefinition(_Frozen):
    """A tool of the caller's.

    Attributes:
        name: of the tool.
        description: for the model.
        parameters: JSON Schema of an object.
        strict: the arguments must fit it; None: the model's provider decides.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    strict: bool | None = None


class AnswerFormat(_Frozen):
    """The form that the answer shall have.

    Attributes:
        name: of the schema.
        description: for the model.
        json_schema: that the answer shall fit; None: any JSON object.
        strict: it must.
    """

    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | None = None
    strict: bool | None = None


class Sampling(_Frozen):
    """How the model shall write; None: as it does by itself."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None


class Chat(_Frozen):
    """A conversation that an agent is to go on with.

    Attributes:
        messages: in their order; the last ones want an answer.
        instructions: for this answer alone, before all messages.
        tools: that the caller has.
        tool_choice: `auto`, `none`, `required`, or the name of one tool.
        parallel_tool_calls: several tools may be asked for at once.
        answer_format: that the answer shall have; None: text.
        sampling: how the model shall write.
        metadata: that the caller keeps with it.
        user: whom the caller asks for, as the caller says it.
    """

    messages: tuple[ChatMessage, ...]
    instructions: str | None = None
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    answer_format: AnswerFormat | None = None
    sampling: Sampling = Sampling()
    metadata: dict[str, str] = Field(default_factory=dict[str, str])
    user: str | None = None

    @property
    def text(self) -> str:
        """The text of the last message of the user; "" where there is none."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")


class TokenUsage(_Frozen):
    """What an answer took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class ChatReply(_Frozen):
    """What a handler of a `Prompt` may return, where a text does not say it all.

    Attributes:
        text: the answer; None: only tool calls.
        tool_calls: what the caller shall do; it comes back with the results.
        usage: the tokens that it took; None: nobody counted.
        finish_reason: why it ends; None: it is complete, or has tool calls.
    """

    kind: Literal["chat.reply"] = REPLY
    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: TokenUsage | None = None
    finish_reason: Literal["length", "content_filter"] | None = None

    @classmethod
    def of_result(cls, result: Any) -> ChatReply | None:
        """Return the reply that the result of a run is; None: it is something else."""
        if not isinstance(result, dict):
            return None
        told = cast("dict[str, Any]", result)
        return cls.model_validate(told) if told.get("kind") == REPLY else None
