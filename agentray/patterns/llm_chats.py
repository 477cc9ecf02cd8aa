"""Conversations that a caller keeps, with a language model: their messages, tools and schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentray.errors import ConfigurationError
from agentray.protocol.chat import (
    AnswerFormat,
    AudioPart,
    Chat,
    ChatMessage,
    ChatReply,
    FilePart,
    ImagePart,
    Part,
    TextPart,
    TokenUsage,
    ToolCall,
)

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.run import AgentRunResult

_SETTINGS = ("temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty")


def options_of(chat: Chat) -> dict[str, Any]:
    """Return what a model is given of a conversation, as arguments of pydantic-ai's `Agent.iter`.

    Raises:
        ConfigurationError: the schema of the answer is not that of an object.
    """
    from pydantic_ai import DeferredToolRequests
    from pydantic_ai.toolsets import ExternalToolset

    options: dict[str, Any] = {"message_history": _history(chat), "model_settings": _settings(chat)}
    answer: Any = str if chat.answer_format is None else _answer_type(chat.answer_format)
    options["output_type"] = answer
    if chat.tools and chat.tool_choice != "none":
        # The model asks for them, and the run ends there: the caller comes back with the results.
        options["toolsets"] = [ExternalToolset(_tools(chat))]
        options["output_type"] = [answer, DeferredToolRequests]
    return options


def _tools(chat: Chat) -> list[Any]:
    from pydantic_ai.tools import ToolDefinition

    only = None if chat.tool_choice in {"auto", "required"} else chat.tool_choice
    return [
        ToolDefinition(
            name=tool.name,
            description=tool.description,
            parameters_json_schema=tool.parameters,
            strict=tool.strict,
        )
        for tool in chat.tools
        if only is None or tool.name == only
    ]


def _settings(chat: Chat) -> Any:
    sampling = chat.sampling
    told = {name: getattr(sampling, name) for name in _SETTINGS}
    told["stop_sequences"] = None if sampling.stop is None else list(sampling.stop)
    told["thinking"] = sampling.reasoning_effort
    if chat.tools:
        told["parallel_tool_calls"] = chat.parallel_tool_calls
        forced = chat.tool_choice not in {"auto", "none"}
        told["tool_choice"] = "required" if forced else None
    return {name: value for name, value in told.items() if value is not None}


def _answer_type(wanted: AnswerFormat) -> Any:
    from pydantic_ai import StructuredDict, UserError

    schema = wanted.json_schema or {"type": "object"}
    try:
        return StructuredDict(schema, name=wanted.name, description=wanted.description)
    except UserError as error:
        raise ConfigurationError(f"A model cannot answer as the schema says: {error}") from error


# Messages


def _history(chat: Chat) -> list[ModelMessage]:
    """Return the messages as pydantic-ai has them: what is said to the model, and what it said."""
    from pydantic_ai.messages import ModelRequest, ModelResponse, SystemPromptPart

    names = {call.id: call.name for message in chat.messages for call in message.tool_calls}
    first: list[Any] = [SystemPromptPart(chat.instructions)] if chat.instructions else []
    found: list[ModelMessage] = [ModelRequest(parts=first)] if first else []
    for message in chat.messages:
        if message.role == "assistant":
            found.append(ModelResponse(parts=_said(message)))
            continue
        parts = _asked(message, names)
        last = found[-1] if found else None
        if isinstance(last, ModelRequest):
            found[-1] = ModelRequest(parts=[*last.parts, *parts])
        else:
            found.append(ModelRequest(parts=parts))
    return found


def _said(message: ChatMessage) -> list[Any]:
    from pydantic_ai import messages as ai

    parts: list[Any] = [ai.TextPart(message.text)] if message.text else []
    parts += [
        ai.ToolCallPart(call.name, call.arguments, tool_call_id=call.id)
        for call in message.tool_calls
    ]
    return parts or [ai.TextPart("")]


def _asked(message: ChatMessage, names: dict[str, str]) -> list[Any]:
    from pydantic_ai import messages as ai

    match message.role:
        case "system":
            return [ai.SystemPromptPart(message.text)]
        case "tool":
            call_id = message.tool_call_id or ""
            name = names.get(call_id, "")
            return [ai.ToolReturnPart(name, message.text, tool_call_id=call_id)]
        case _:
            content = message.content
            parts = content if isinstance(content, tuple) else ()
            told: Any = [_part(part) for part in parts] if parts else message.text
            return [ai.UserPromptPart(told)]


def _part(part: Part) -> Any:
    from pydantic_ai import messages as ai

    match part:
        case TextPart():
            return part.text
        case ImagePart():
            return _file(part.url, ai.ImageUrl)
        case AudioPart():
            return _file(f"data:audio/{part.format};base64,{part.data}", ai.AudioUrl)
        case FilePart():
            data = part.data or ""
            inline = data if data.startswith("data:") else f"data:application/pdf;base64,{data}"
            return _file(part.url or inline, ai.DocumentUrl)


def _file(url: str, kind: Any) -> Any:
    from pydantic_ai.messages import BinaryContent

    return BinaryContent.from_data_uri(url) if url.startswith("data:") else kind(url)


# Answers


def reply_of(result: AgentRunResult[Any]) -> ChatReply:
    """Return what a model has answered: a text, an object as JSON, or tools that it asks for."""
    from pydantic_ai import DeferredToolRequests

    output: Any = result.output
    used = result.usage
    usage = TokenUsage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_tokens=used.cache_read_tokens,
    )
    cut = getattr(result.response, "finish_reason", None)
    reason = cut if cut in {"length", "content_filter"} else None
    if isinstance(output, DeferredToolRequests):
        calls = tuple(
            ToolCall(id=call.tool_call_id, name=call.tool_name, arguments=call.args_as_json_str())
            for call in output.calls
        )
        said = _texts(result.response.parts)
        return ChatReply(text=said or None, tool_calls=calls, usage=usage)
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return ChatReply(text=text, usage=usage, finish_reason=reason)


def _texts(parts: Sequence[Any]) -> str:
    return "".join(part.content for part in parts if part.part_kind == "text")
