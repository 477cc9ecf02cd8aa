"""A prompt that comes as `multipart/form-data`: its JSON in one part, its files in the others.

It is read as it comes, and no further than the limits: what is too large costs no memory.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from agentray.config import Settings
from agentray.gateway.problems import MALFORMED, TOO_LARGE, HttpProblem, from_validation, invalid
from agentray.gateway.prompt_extras import AttachmentBody, most_bytes, too_large
from agentray.protocol.attachments import MAX_ATTACHMENTS

MULTIPART = "multipart/form-data"

REQUEST, FILES = "request", "attachments"
"""Names of the parts: the prompt as it would come alone, and each file."""

_MOST_HEADERS, _MOST_HEADER_BYTES = 8, 4096
_FRAME_BYTES = 1024
"""Of each part: its boundary and what else is neither data nor headers."""


def is_multipart(content_type: str) -> bool:
    """Whether a Content-Type says that parts come."""
    return content_type[: len(MULTIPART)].lower() == MULTIPART


async def read_parts(request: Request, settings: Settings) -> tuple[bytes, list[AttachmentBody]]:
    """Read the parts of a prompt.

    Args:
        request: whose Content-Type is `multipart/form-data`.
        settings: the limits.

    Returns:
        The prompt's JSON, and its files.

    Raises:
        HttpProblem: 400, they cannot be read; 413, one of them, the files together or their number
            is too large; 422, with the part that is wrong.
    """
    parts = _Parts(settings)
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise HttpProblem(MALFORMED, "The Content-Type names no boundary of 1 to 70 characters.")
    parser = MultipartParser(
        boundary,
        parts.callbacks(),
        max_header_count=_MOST_HEADERS,
        max_header_size=_MOST_HEADER_BYTES,
    )
    left = most_bytes(settings) + (MAX_ATTACHMENTS + 2) * (_FRAME_BYTES + _MOST_HEADER_BYTES)
    try:
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                raise HttpProblem(TOO_LARGE, "The parts are too large together.")
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise HttpProblem(MALFORMED, f"The parts cannot be read: {error}.") from error
    if not parts.ended:
        raise HttpProblem(MALFORMED, "The parts end in the midst of one: a boundary is missing.")
    return parts.whole()


def openapi_parts(described: dict[str, Any]) -> dict[str, Any]:
    """Add, to the description of a body that is JSON, that it may come in parts."""
    content: dict[str, Any] = described["requestBody"]["content"]
    parts: dict[str, Any] = {
        "type": "object",
        "required": [REQUEST],
        "properties": {
            REQUEST: content["application/json"]["schema"],
            FILES: {
                "type": "array",
                "maxItems": MAX_ATTACHMENTS,
                "items": {"type": "string", "format": "binary"},
            },
        },
    }
    example = {REQUEST: '{"prompt": "Read it.", "wait_s": 10}', FILES: ["…"]}
    encoding = {REQUEST: {"contentType": "application/json"}}
    both = {**content, MULTIPART: {"schema": parts, "encoding": encoding, "example": example}}
    return {"requestBody": {**described["requestBody"], "content": both}}


class _Parts:
    """What has come so far."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.ended = False
        self._given: bytes | None = None
        self._files: list[AttachmentBody] = []
        self._files_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._field = b""
        self._value = b""
        self._name = ""
        self._file_name: str | None = None
        self._media_type: str | None = None
        self._data = bytearray()

    def callbacks(self) -> Any:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._headers.clear,
            "on_header_begin": self._begin_header,
            "on_header_field": self._take_field,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin,
            "on_part_data": self._take,
            "on_part_end": self._finish,
            "on_end": self._end,
        }

    def whole(self) -> tuple[bytes, list[AttachmentBody]]:
        """Return all of it.

        Raises:
            HttpProblem: 422, the prompt is missing.
        """
        if self._given is None:
            told = "A part of this name is needed: the prompt, as JSON"
            raise invalid(REQUEST, "body", told)
        return self._given, self._files

    def _begin_header(self) -> None:
        self._field = self._value = b""

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value

    def _begin(self) -> None:
        """Look at a part's headers."""
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = _text(options.get(b"name", b""))
        file_name = options.get(b"filename")
        self._file_name = None if file_name is None else _text(file_name)
        self._media_type = _text(self._headers.get(b"content-type", b"")).strip() or None
        self._data = bytearray()
        if self._name == REQUEST and self._given is not None:
            raise invalid(REQUEST, "body", "There is more than one part of this name")
        if self._name == FILES and self._file_name is None:
            raise invalid(self._where, "body", "A file has a name: its part needs a filename")
        if self._name == FILES and len(self._files) >= MAX_ATTACHMENTS:
            told = f"A prompt brings at most {MAX_ATTACHMENTS} files."
            raise HttpProblem(TOO_LARGE, told)
        if self._name not in {REQUEST, FILES}:
            told = f"Parts are called {REQUEST!r} (the prompt, as JSON) and {FILES!r} (each file)"
            raise invalid(self._name[:100] or "name", "body", told)

    @property
    def _where(self) -> str:
        return f"{FILES}.{len(self._files)}"

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        settings = self._settings
        if self._name == REQUEST:
            if len(self._data) > most_bytes(settings):
                raise too_large(most_bytes(settings))
            return
        if len(self._data) > settings.max_attachment_bytes:
            most = settings.max_attachment_bytes
            told = f"The attachment {self._file_name!r} has more than the {most} bytes allowed."
            raise HttpProblem(TOO_LARGE, told)
        if self._files_bytes + len(self._data) > settings.max_attachments_bytes:
            most = settings.max_attachments_bytes
            told = f"The attachments have more than the {most} bytes together that are allowed."
            raise HttpProblem(TOO_LARGE, told)

    def _finish(self) -> None:
        """Take in a part that is whole."""
        if self._name == REQUEST:
            self._given = bytes(self._data)
            return
        self._files_bytes += len(self._data)
        given = {
            "name": self._file_name,
            "media_type": self._media_type,
            "data": b64encode(self._data).decode(),
        }
        try:
            file = AttachmentBody.model_validate(given)
        except ValidationError as error:
            raise from_validation(error.errors(), "body", within=self._where) from error
        self._files.append(file)
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


def _text(told: bytes) -> str:
    """Return what a header says; programs write UTF-8 there, whatever the standards said once."""
    return told.decode(errors="replace")
