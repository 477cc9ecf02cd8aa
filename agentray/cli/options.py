"""Options that several commands have, and how what is written there is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from agentray.errors import ConfigurationError

LimitOption = Annotated[int, typer.Option(min=1, max=200, help="Most of them.")]
ManyOption = Annotated[int, typer.Option(min=1, max=10_000, help="Most of them.")]
BeforeOption = Annotated[str | None, typer.Option(metavar="ID", help="Only older ones than this.")]
AgentOption = Annotated[
    str | None, typer.Option(help="An agent type, or TYPE/KEY (default: the entry of the app).")
]
OnlyAgentOption = Annotated[
    str | None, typer.Option(help="Only those of this agent type, or TYPE/KEY.")
]
UntilEndedOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Until it has ended, at most 90s, 15m, 2h.")
]


def read_pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """Read values as they are written on the command line.

    Raises:
        ConfigurationError: one is not `NAME=VALUE`.
    """
    pairs = [word.partition("=") for word in words or ()]
    if wrong := [name for name, sign, _ in pairs if not sign or not name]:
        raise ConfigurationError(f"{option} {wrong[0]}: write NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def read_amounts(option: str, words: Sequence[str] | None) -> dict[str, float]:
    """Read amounts as they are written on the command line.

    Raises:
        ConfigurationError: one is not `NAME=AMOUNT`.
    """
    found = read_pairs(option, words)
    try:
        return {name: float(amount) for name, amount in found.items()}
    except ValueError as error:
        raise ConfigurationError(f"{option}: write NAME=AMOUNT, as licence=1: {error}.") from error


def read_object(option: str, text: str) -> dict[str, Any]:
    """Read a JSON object, given as such or as `@FILE`.

    Raises:
        ConfigurationError: it is none, or the file cannot be read.
    """
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text[:1] == "@" else text
        value: object = json.loads(source)
    except OSError as error:
        raise ConfigurationError(
            f"{option}: {text[1:]} cannot be read: {error.strerror}."
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{option} is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{option} is no JSON object.")
    return cast("dict[str, Any]", value)
