"""What a prompt has beside its text: files, and the form that its answer shall have."""

from __future__ import annotations

import binascii
import mimetypes
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentray.errors import ConfigurationError

ATTACHMENTS, OUTPUT_SCHEMA = "attachments", "output_schema"
"""In the input of a run: the files of its prompt, and the JSON Schema of its result."""

MAX_ATTACHMENTS = 32
"""Files of one prompt."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(;[ -~]{1,200})?")
_ANY = "application/octet-stream"


class Attachment(BaseModel):
    """A file that a prompt brings.

    Attributes:
        name: as its user calls it; no path.
        media_type: what is in it, such as `image/png`.
        data: its content.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    name: str = Field(min_length=1, max_length=255)
    media_type: str = _ANY
    data: bytes = Field(repr=False)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_name(name)

    @field_validator("media_type")
    @classmethod
    def _check_media_type(cls, media_type: str) -> str:
        return check_media_type(media_type)

    @property
    def text(self) -> str:
        """Its content as a text in UTF-8; what is none is replaced."""
        return self.data.decode(errors="replace")

    @classmethod
    def of_file(cls, path: Path | str, media_type: str | None = None) -> Attachment:
        """Read a file.

        Args:
            path: where it is.
            media_type: what is in it; None: as its name says.

        Raises:
            ConfigurationError: it cannot be read.
        """
        file = Path(path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be read: {error.strerror}.") from error
        return cls(name=file.name, media_type=media_type or media_type_of(file.name), data=data)


def check_name(name: str) -> str:
    """Return the name of a file when it is one.

    Raises:
        ValueError: it is not.
    """
    if not name.isprintable() or "/" in name or "\\" in name or name in {".", ".."}:
        raise ValueError("a name of a file has no path and no control characters")
    return name


def check_media_type(media_type: str) -> str:
    """Return a media type when it is well formed.

    Raises:
        ValueError: it is not.
    """
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise ValueError("a media type is of the form type/subtype, such as image/png")
    return media_type


def media_type_of(name: str) -> str:
    """Return what the name of a file says of what is in it."""
    return mimetypes.guess_type(name)[0] or _ANY


def decoded(data: str) -> bytes:
    """Return what a text in base64 stands for.

    Raises:
        ValueError: it is none.
    """
    try:
        return b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is no base64") from None


def as_input(attachments: Sequence[Attachment]) -> list[dict[str, str]]:
    """Return files as JSON."""
    return [
        {"name": a.name, "media_type": a.media_type, "data": b64encode(a.data).decode()}
        for a in attachments
    ]


def asked_with(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the input of a run says beside its text, as fields of `Prompt`."""
    told: dict[str, Any] = {}
    if ATTACHMENTS in given:
        told["attachments"] = tuple(
            Attachment(name=a["name"], media_type=a["media_type"], data=b64decode(a["data"]))
            for a in given[ATTACHMENTS]
        )
    if OUTPUT_SCHEMA in given:
        told["output_schema"] = given[OUTPUT_SCHEMA]
    return told
