"""Server-Sent Events: parsing them, and following a run across broken connections."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from agentray.client.calls.http import Request, Response
from agentray.client.calls.runs import get_events, run_id_of
from agentray.client.errors import ClientError, ConnectionFailed
from agentray.core.lifecycle import TERMINAL
from agentray.protocol.cursors import NOTHING, Cursor
from agentray.protocol.runs import RunEvent

_TERMINAL_KINDS = frozenset(status.value for status in TERMINAL)


class ServerEvent(NamedTuple):
    """One event of a stream."""

    id: str
    kind: str
    data: str


class SseParser:
    """Turns the bytes of a stream into events, wherever they are cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._last_id = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that are complete with this chunk."""
        text = self._rest + self._decoder.decode(chunk)
        # A CR at the very end may be half of a CR LF: it stays until more comes.
        held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        self._rest = rest + held
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._last_id = value
        return None  # a comment has an empty name; what else there may be is to be ignored

    def _dispatch(self) -> ServerEvent | None:
        data, kind = self._data, self._kind
        self._data, self._kind = [], ""
        return ServerEvent(self._last_id, kind or "message", "\n".join(data)) if data else None


class OpenStream(Protocol):
    """A stream that the gateway answered with."""

    @property
    def head(self) -> Response:
        """Status and headers; the body is empty."""
        ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body.

        Raises:
            ConnectionFailed: it broke.
        """
        ...


Opener = Callable[[Request], AbstractAsyncContextManager[OpenStream]]
"""Opens a stream. Raises `ClientError`, after its own retries."""


async def follow(
    opener: Opener, first: Request, run_id: str | None, after: Cursor = NOTHING
) -> AsyncGenerator[RunEvent]:
    """Yield a run's events until the terminal one, coming back where a connection breaks.

    Args:
        opener: how to open a stream.
        first: what to ask first: the run's events, or the prompt that makes the run.
        run_id: the run; None: the first answer tells.
        after: the last event already seen.

    Raises:
        ClientError: the gateway refuses.
        ConnectionFailed: it cannot be reached, or its streams break twice without an event.
    """
    request = first
    fruitless = 0
    while True:
        before = after
        try:
            async with opener(request) as stream:
                run_id = run_id or run_id_of(stream.head)
                parser = SseParser()
                async for chunk in stream.chunks():
                    for event in map(_run_event, parser.feed(chunk)):
                        if not after.precedes(event):
                            continue
                        after = Cursor.at(event)
                        yield event
                        if event.kind in _TERMINAL_KINDS:
                            return
        except ConnectionFailed:
            if run_id is None:
                raise
        fruitless = fruitless + 1 if after == before else 0
        if fruitless == 2:
            raise ConnectionFailed(
                f"The events of run {run_id} break off after offset {after.offset}."
            )
        request = get_events(run_id, after)


def _run_event(event: ServerEvent) -> RunEvent:
    try:
        return RunEvent.model_validate_json(event.data)
    except ValidationError as error:
        raise ClientError(200, "The stream is not what an agentray gateway sends") from error
