"""Requests with files: JSON in one part, each file as it is in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex

from agentray.client.calls.http import Request
from agentray.protocol.attachments import Attachment


def with_files(request: Request, files: Sequence[Attachment]) -> Request:
    """Return a request with JSON that brings files, too, as `multipart/form-data`.

    Args:
        request: with its JSON.
        files: what it brings.
    """
    boundary = token_hex(16)  # nobody who writes a file knows it
    chunks = [_head(boundary, 'name="request"', "application/json"), request.body or b""]
    for file in files:
        quoted = file.name.replace("\\", "\\\\").replace('"', '\\"')
        what = f'name="attachments"; filename="{quoted}"'
        chunks += [_head(boundary, what, file.media_type), file.data]
    chunks.append(f"\r\n--{boundary}--\r\n".encode())
    headers = {**request.headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    return replace(request, headers=headers, body=b"".join(chunks))


def _head(boundary: str, what: str, media_type: str) -> bytes:
    told = (
        f"\r\n--{boundary}\r\nContent-Disposition: form-data; {what}\r\n"
        f"Content-Type: {media_type}\r\n\r\n"
    )
    return told.encode()
