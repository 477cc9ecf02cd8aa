"""What a prompt's body brings beside its text: files, and the form that its result shall have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentray.config import Settings
from agentray.core.output_schemas import check_schema
from agentray.errors import OutputSchemaInvalid
from agentray.gateway.problems import TOO_LARGE, HttpProblem, invalid
from agentray.protocol.attachments import (
    MAX_ATTACHMENTS,
    check_media_type,
    check_name,
    decoded,
    media_type_of,
)


class AttachmentBody(BaseModel):
    """A file that a prompt brings."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=255, description="As its user calls it; no path.")
    media_type: str | None = Field(
        default=None, description="Such as `image/png`. Left out: as its name says."
    )
    data: str = Field(description="Its content, in base64.", repr=False)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_name(name)

    @field_validator("media_type")
    @classmethod
    def _check_media_type(cls, media_type: str | None) -> str | None:
        return None if media_type is None else check_media_type(media_type)

    def as_input(self) -> dict[str, str]:
        """Return it as it is kept."""
        media_type = self.media_type or media_type_of(self.name)
        return {"name": self.name, "media_type": media_type, "data": self.data}


def most_bytes(settings: Settings) -> int:
    """Return how large the body of a prompt may be, with its files in base64."""
    return settings.max_body_bytes + -(-settings.max_attachments_bytes // 3) * 4


def check_size(body: bytes, settings: Settings) -> None:
    """Refuse a body that is too large and brings no files.

    Raises:
        HttpProblem: 413.
    """
    if len(body) > settings.max_body_bytes and b'"attachments"' not in body:
        raise too_large(settings.max_body_bytes)


def too_large(max_bytes: int) -> HttpProblem:
    """Return what is said of a body that is too large."""
    return HttpProblem(TOO_LARGE, f"The body is over {max_bytes} bytes.")


def check_files(files: tuple[AttachmentBody, ...], body: bytes, settings: Settings) -> None:
    """Check the files of a prompt.

    Args:
        files: as they came.
        body: in which they came.
        settings: the limits.

    Raises:
        HttpProblem: 413, one of them, all together, or the rest is too large; 422, one is no
            base64.
    """
    total = 0
    for number, file in enumerate(files):
        try:
            size = len(decoded(file.data))
        except ValueError as error:
            raise invalid(f"attachments.{number}.data", "body", str(error)) from None
        total += size
        if size > settings.max_attachment_bytes:
            most = settings.max_attachment_bytes
            told = f"The attachment {file.name!r} has {size} bytes; {most} are allowed."
            raise HttpProblem(TOO_LARGE, told)
    _check_total(total, settings)
    rest = len(body) - sum(len(file.data) for file in files)
    if rest > settings.max_body_bytes:
        told = f"The body is over {settings.max_body_bytes} bytes without its attachments."
        raise HttpProblem(TOO_LARGE, told)


def with_files(
    given: tuple[AttachmentBody, ...], files: Sequence[AttachmentBody], settings: Settings
) -> tuple[AttachmentBody, ...]:
    """Return the files of a prompt that has some in its JSON and others beside it.

    Args:
        given: in its JSON, checked.
        files: beside it, each within its limits.
        settings: the limits.

    Raises:
        HttpProblem: 413, they are too many or too large together.
    """
    both = (*given, *files)
    if len(both) > MAX_ATTACHMENTS:
        raise HttpProblem(TOO_LARGE, f"A prompt brings at most {MAX_ATTACHMENTS} files.")
    if given:
        _check_total(sum(len(decoded(file.data)) for file in both), settings)
    return both


def _check_total(total: int, settings: Settings) -> None:
    if total > settings.max_attachments_bytes:
        most = settings.max_attachments_bytes
        told = f"The attachments have {total} bytes together; {most} are allowed."
        raise HttpProblem(TOO_LARGE, told)


def check_output_schema(schema: dict[str, Any] | None) -> None:
    """Check the form that a result shall have.

    Raises:
        HttpProblem: 422, results cannot be checked against it; names the part.
    """
    if schema is None:
        return
    try:
        check_schema(schema)
    except OutputSchemaInvalid as error:
        field = ".".join(part for part in ("output_schema", error.field) if part)
        raise invalid(field, "body", error.reason) from error
