"""The events of a run as OpenAI's streams. Both are state machines over run events; no I/O.

What agents say as they go is a preview of the result. A stream cannot take back what it has said,
so the two are brought together: what the result has beyond the preview is said at the end; a
preview that the result does not begin with stays, and the result follows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentray.compat.openai import answers, errors
from agentray.compat.openai.answers import Said, own_id
from agentray.protocol.runs import EventKind, Run, RunEvent, RunStatus

DONE = b"data: [DONE]\n\n"

_ANSWERED = frozenset({RunStatus.SUCCEEDED, RunStatus.WAITING})


class Preview:
    """What was said so far, also where an attempt was lost and the next says it all anew."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._again: str | None = None  # what a later attempt has said that was said before

    @property
    def said(self) -> str:
        """All of it."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def hear(self, event: RunEvent) -> str:
        """Return what an event adds to what was said; "": nothing."""
        if event.kind == EventKind.ATTEMPT_LOST and self._parts:
            self._again = ""
        text = event.data.get("text") if event.kind == EventKind.TEXT_DELTA else None
        if not isinstance(text, str) or not text:
            return ""
        return self._add(text if self._again is None else self._news(self._again + text))

    def _news(self, again: str) -> str:
        """Return what a later attempt has said beyond what was said before."""
        if self.said.startswith(again):
            self._again = again
            return ""
        self._again = None
        return again[len(self.said) :] if again.startswith(self.said) else f"\n\n{again}"

    def rest(self, text: str) -> str:
        """Return what is to be said so that it ends with the result's text."""
        if text.startswith(self.said):
            return self._add(text[len(self.said) :])
        if self.said.rstrip().endswith(text.rstrip()):  # also behind what others said before
            return ""
        return self._add(f"\n\n{text}")

    def _add(self, more: str) -> str:
        if more:
            self._parts.append(more)
        return more


class ChatStream:
    """A run as chunks of a chat completion."""

    def __init__(self, run: Run, model: str, *, include_usage: bool) -> None:
        """Begin it.

        Args:
            run: as it was admitted.
            model: as it was asked for.
            include_usage: the tokens come last, in a chunk of their own.
        """
        self._base: dict[str, Any] = {
            "id": own_id("chatcmpl-", run.id),
            "object": "chat.completion.chunk",
            "created": answers.seconds(run.created_at),
            "model": model,
        }
        self._include_usage = include_usage
        self._preview = Preview()

    def begin(self) -> Iterator[bytes]:
        """Say who speaks."""
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    def feed(self, event: RunEvent) -> Iterator[bytes]:
        """Say what an event has to say."""
        if more := self._preview.hear(event):
            yield self._chunk({"content": more})

    def end(self, run: Run) -> Iterator[bytes]:
        """Say what is left, and that this is all.

        Args:
            run: ended, or waiting for an answer.
        """
        if run.status not in _ANSWERED:
            yield _data(errors.error_of_run(run))
            yield DONE
            return
        said = answers.said_by(run)
        if more := self._preview.rest(said.text):
            yield self._chunk({"content": more})
        for number, call in enumerate(answers.tool_calls(said.reply)):
            yield self._chunk({"tool_calls": [{"index": number, **call}]})
        yield self._chunk({}, answers.finish_reason(said.reply))
        if self._include_usage:
            usage = answers.chat_usage(said.reply.usage)
            yield _data({**self._base, "choices": [], "usage": usage})
        yield DONE

    def fail(self, body: Mapping[str, Any]) -> Iterator[bytes]:
        """Say that it breaks off."""
        yield _data(body)
        yield DONE

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        told: dict[str, Any] = {**self._base, "choices": [choice]}
        if self._include_usage:
            told["usage"] = None
        return _data(told)


class ResponseStream:
    """A run as the events of a response. The same run gives the same events again."""

    def __init__(self, run: Run, given: Mapping[str, Any], *, after: int = -1) -> None:
        """Begin it.

        Args:
            run: as it was admitted.
            given: its input.
            after: the number of the last event that the client has; -1: it has none.
        """
        waiting = {"status": RunStatus.QUEUED, "result": None, "error": None, "usage": None}
        self._run = run.model_copy(update={**waiting, "finished_at": None, "question": None})
        self._given = given
        self._number = -1
        self._after = after
        self._preview = Preview()
        self._item = own_id("msg_", run.id)
        self._opened = False

    def begin(self) -> Iterator[bytes]:
        """Say that it is accepted."""
        yield from self._response("response.created", self._run)

    def feed(self, event: RunEvent) -> Iterator[bytes]:
        """Say what an event has to say."""
        if event.kind == EventKind.STARTED and event.data.get("attempt", 1) == 1:
            running = self._run.model_copy(update={"status": RunStatus.RUNNING})
            yield from self._response("response.in_progress", running)
        if more := self._preview.hear(event):
            yield from self._delta(more)

    def end(self, run: Run) -> Iterator[bytes]:
        """Say what is left, and how it ends.

        Args:
            run: ended, or waiting for an answer.
        """
        if run.status in _ANSWERED:
            yield from self._rest(run, answers.said_by(run))
        status = answers.response(run, self._given)["status"]
        # A cancelled one has no event of its own: it failed, and says that it was cancelled.
        kind = status if status in {"completed", "incomplete"} else "failed"
        yield from self._response(f"response.{kind}", run)

    def fail(self, body: Mapping[str, Any]) -> Iterator[bytes]:
        """Say that it breaks off."""
        told = body["error"]
        yield from self._event(
            "error", {"code": told["code"], "message": told["message"], "param": told["param"]}
        )

    def _rest(self, run: Run, said: Said) -> Iterator[bytes]:
        if (more := self._preview.rest(said.text)) or (
            not self._opened and not said.reply.tool_calls
        ):
            yield from self._delta(more)
        if self._opened:
            where = {"item_id": self._item, "output_index": 0, "content_index": 0}
            # What it ends with is what the response says, whatever was said on the way.
            text: dict[str, Any] = {"text": said.text, "logprobs": []}
            yield from self._event("response.output_text.done", {**where, **text})
            part = {"part": answers.text_part(said.text)}
            yield from self._event("response.content_part.done", {**where, **part})
            item = answers.message_item(run.id, said.text)
            yield from self._event("response.output_item.done", {"output_index": 0, "item": item})
        for number, call in enumerate(said.reply.tool_calls):
            yield from self._call(run, number, call)

    def _call(self, run: Run, number: int, call: Any) -> Iterator[bytes]:
        index = number + self._opened
        item = answers.call_item(run.id, number, call, "in_progress")
        where = {"item_id": item["id"], "output_index": index}
        yield from self._event("response.output_item.added", {"output_index": index, "item": item})
        arguments = call.arguments
        name = "response.function_call_arguments"
        yield from self._event(f"{name}.delta", {**where, "delta": arguments})
        told = {"name": call.name, "arguments": arguments}
        yield from self._event(f"{name}.done", {**where, **told})
        done = answers.call_item(run.id, number, call)
        yield from self._event("response.output_item.done", {"output_index": index, "item": done})

    def _delta(self, text: str) -> Iterator[bytes]:
        where = {"item_id": self._item, "output_index": 0, "content_index": 0}
        if not self._opened:
            self._opened = True
            item = answers.message_item(self._run.id, "", "in_progress")
            yield from self._event("response.output_item.added", {"output_index": 0, "item": item})
            part = {"part": answers.text_part("")}
            yield from self._event("response.content_part.added", {**where, **part})
        if text:
            told: dict[str, Any] = {"delta": text, "logprobs": []}
            yield from self._event("response.output_text.delta", {**where, **told})

    def _response(self, kind: str, run: Run) -> Iterator[bytes]:
        yield from self._event(kind, {"response": answers.response(run, self._given)})

    def _event(self, kind: str, told: Mapping[str, Any]) -> Iterator[bytes]:
        self._number += 1
        if self._number > self._after:
            body = {"type": kind, "sequence_number": self._number, **told}
            yield b"event: %s\n%s" % (kind.encode(), _data(body))


def _data(body: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
