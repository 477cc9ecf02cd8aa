"""Runs as OpenAI's objects: `model`, `chat.completion` and `response`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from agentray.compat.openai.errors import code_of
from agentray.protocol.chat import ChatMessage, ChatReply, Part, TextPart, TokenUsage
from agentray.protocol.requests import CHAT, FRONT
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.snapshot import TypeView

RESPONSES, COMPLETIONS = "openai.responses", "openai.chat"
"""Through which of the two interfaces a run came: in what the front keeps with it."""

_RUN = "run_"


def own_id(prefix: str, run_id: str) -> str:
    """Return the id of something that belongs to a run: `resp_…`, `chatcmpl-…`, `msg_…`."""
    return prefix + run_id.removeprefix(_RUN)


def run_id_of(response_id: str) -> str | None:
    """Return the run that a response is; None: it is no id of a response."""
    found = response_id.removeprefix("resp_")
    return None if found == response_id or not found.isalnum() else _RUN + found


class Said(NamedTuple):
    """What a run has come to, as a model's answer.

    Attributes:
        text: "" where it has only tool calls.
        reply: with its tool calls and usage.
    """

    text: str
    reply: ChatReply


def said_by(run: Run) -> Said:
    """Return what an agent has answered, or asks.

    A text is the answer, and so is the text of a `ChatReply`, or of a result whose one field is
    `text`; any other result is told as JSON. A run that waits says its question.
    """
    if run.status is RunStatus.WAITING and run.question is not None:
        return Said(run.question.question, ChatReply(text=run.question.question))
    reply = ChatReply.of_result(run.result) or ChatReply(text=_text(run.result))
    if reply.usage is None and run.usage is not None and run.usage.tokens:
        # What was counted for its budget has no directions.
        reply = reply.model_copy(update={"usage": TokenUsage(output_tokens=run.usage.tokens)})
    return Said(reply.text or "", reply)


def _text(result: Any) -> str:
    if result is None:
        return ""
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        told = cast("dict[str, Any]", result)
        if told.keys() == {"text"} and isinstance(told["text"], str):
            return told["text"]
    return json.dumps(result, ensure_ascii=False)


# Models


def model(view: TypeView) -> dict[str, Any]:
    """Return an agent type as a model."""
    return {
        "id": view.name,
        "object": "model",
        "created": int(view.since),
        "owned_by": view.app,
    }


def model_list(views: Iterable[TypeView]) -> dict[str, Any]:
    """Return the agent types that take prompts as models."""
    found = [model(v) for v in views if v.prompts and not v.stopped]
    return {"object": "list", "data": sorted(found, key=lambda each: each["id"])}


# Chat completions


def finish_reason(reply: ChatReply) -> str:
    """Return why an answer ends."""
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def tool_calls(reply: ChatReply) -> list[dict[str, Any]]:
    """Return the tool calls of an answer."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in reply.tool_calls
    ]


def chat_usage(usage: TokenUsage | None) -> dict[str, Any] | None:
    """Return the tokens of an answer; None: nobody counted."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def completion(run: Run, model_name: str) -> dict[str, Any]:
    """Return an ended run, or one that waits for an answer, as a chat completion."""
    said = said_by(run)
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
    if said.reply.tool_calls:
        message["tool_calls"] = tool_calls(said.reply)
        message["content"] = said.text or None
    choice = {"index": 0, "message": message, "logprobs": None}
    answer = {
        "id": own_id("chatcmpl-", run.id),
        "object": "chat.completion",
        "created": seconds(run.created_at),
        "model": model_name,
        "choices": [{**choice, "finish_reason": finish_reason(said.reply)}],
    }
    usage = chat_usage(said.reply.usage)
    return answer if usage is None else {**answer, "usage": usage}


def seconds(time: datetime) -> int:
    """Return a time in seconds since 1970."""
    return int(time.timestamp())


# Responses

_STATUS = {
    RunStatus.QUEUED: "queued",
    RunStatus.RUNNING: "in_progress",
    RunStatus.WAITING: "incomplete",
    RunStatus.SUCCEEDED: "completed",
    RunStatus.CANCELLED: "cancelled",
}


def is_response(given: Mapping[str, Any]) -> bool:
    """Whether the input of a run says that it is a response that can be got back."""
    front: Mapping[str, Any] = given.get(FRONT) or {}
    return bool(front.get("api") == RESPONSES and front.get("store", True))


def response(run: Run, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as a response.

    Args:
        run: as it is now.
        given: its input.
    """
    front: Mapping[str, Any] = given[FRONT]
    ended = run.status not in {RunStatus.QUEUED, RunStatus.RUNNING}
    said = said_by(run) if run.status in {RunStatus.SUCCEEDED, RunStatus.WAITING} else None
    status = _STATUS.get(run.status, "failed")
    cut = said is not None and said.reply.finish_reason is not None
    answer = {
        "id": own_id("resp_", run.id),
        "object": "response",
        "created_at": seconds(run.created_at),
        "completed_at": seconds(run.finished_at) if run.finished_at and ended else None,
        "status": "incomplete" if cut else status,
        "error": _error(run) if status == "failed" else None,
        "incomplete_details": _incomplete(run, said),
        "output": [] if said is None else output_items(run, said),
        "usage": None if said is None else response_usage(said.reply.usage),
    }
    return {**answer, **front["echo"]}


def _error(run: Run) -> dict[str, Any]:
    told = run.error.message if run.error else f"The run ended as {run.status}."
    return {"code": "server_error", "message": f"{code_of(run)}: {told}"}


def _incomplete(run: Run, said: Said | None) -> dict[str, Any] | None:
    if run.status is RunStatus.WAITING:
        return {"reason": "waiting_for_answer"}
    if said is None or said.reply.finish_reason is None:
        return None
    cut = said.reply.finish_reason == "length"
    return {"reason": "max_output_tokens" if cut else "content_filter"}


def message_item(run_id: str, text: str, status: str = "completed") -> dict[str, Any]:
    """Return the message of a response."""
    return {
        "id": own_id("msg_", run_id),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if status == "in_progress" else [text_part(text)],
    }


def text_part(text: str) -> dict[str, Any]:
    """Return a text within a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(run_id: str, number: int, call: Any, status: str = "completed") -> dict[str, Any]:
    """Return a tool call of a response."""
    return {
        "id": own_id("fc_", f"{run_id}{number}"),
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": "" if status == "in_progress" else call.arguments,
        "status": status,
    }


def output_items(run: Run, said: Said) -> list[dict[str, Any]]:
    """Return what a response brings: a message, tool calls, or both."""
    calls = [call_item(run.id, n, call) for n, call in enumerate(said.reply.tool_calls)]
    if said.text or not calls:
        return [message_item(run.id, said.text), *calls]
    return calls


def response_usage(usage: TokenUsage | None) -> dict[str, Any] | None:
    """Return the tokens of a response; None: nobody counted."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def said_before(run: Run, given: Mapping[str, Any]) -> tuple[ChatMessage, ...]:
    """Return the conversation up to the end of a response, for the one that goes on with it."""
    messages = tuple(ChatMessage.model_validate(each) for each in given[CHAT]["messages"])
    if run.status is not RunStatus.SUCCEEDED:
        return messages
    said = said_by(run)
    calls = said.reply.tool_calls
    answer = ChatMessage(role="assistant", content=said.text or None, tool_calls=calls)
    return (*messages, answer if said.text or calls else answer.model_copy(update={"content": ""}))


def input_items(given: Mapping[str, Any], run_id: str) -> list[dict[str, Any]]:
    """Return what a response was asked, as items, in their order."""
    own = int(given[FRONT]["own"])
    found: list[dict[str, Any]] = []
    for told in given[CHAT]["messages"][-own:]:
        message = ChatMessage.model_validate(told)
        found += _items(message, f"{run_id}{len(found)}")
    return found


def _items(message: ChatMessage, item_id: str) -> list[dict[str, Any]]:
    if message.role == "tool":
        output = {"type": "function_call_output", "call_id": message.tool_call_id}
        told: dict[str, Any] = {"id": own_id("fco_", item_id), **output, "output": message.text}
        return [{**told, "status": "completed"}]
    items: list[dict[str, Any]] = []
    if message.content is not None:
        kind = "output_text" if message.role == "assistant" else "input_text"
        role = message.role
        told = {"id": own_id("msg_", item_id), "type": "message", "role": role}
        items.append({**told, "status": "completed", "content": _parts(message.content, kind)})
    items += [call_item(item_id, n, call) for n, call in enumerate(message.tool_calls)]
    return items


def _parts(content: str | Sequence[Part], kind: str) -> list[dict[str, Any]]:
    parts = (TextPart(text=content),) if isinstance(content, str) else content
    found: list[dict[str, Any]] = []
    for part in parts:
        match part.type:
            case "text":
                more: dict[str, Any] = {"annotations": []} if kind == "output_text" else {}
                found.append({"type": kind, "text": part.text, **more})
            case "image":
                found.append(
                    {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}
                )
            case _:
                told = part.model_dump(exclude={"type"}, exclude_none=True)
                found.append({"type": "input_file", **told})
    return found
