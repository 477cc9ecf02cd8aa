"""How the commands show what they were told: as JSON, or as people read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from agentray.cli import console

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType

M = TypeVar("M", bound="BaseModel")


def show(found: M, readable: Callable[[M], RenderableType], *, as_json: bool) -> None:
    """Show one thing.

    Args:
        found: what it is.
        readable: lays it out for people.
        as_json: print JSON instead.
    """
    if as_json:
        console.write(found.model_dump_json(indent=2))
    else:
        console.out().print(readable(found))


def show_all(
    rows: Sequence[M], readable: Callable[[Sequence[M]], RenderableType], *, as_json: bool
) -> None:
    """Show all that there is of something; as JSON it is an array."""
    if as_json:
        console.write_json([row.model_dump(mode="json") for row in rows])
    else:
        console.out().print(readable(rows))


def show_page(
    name: str,
    rows: Sequence[M],
    following: str | None,
    readable: Callable[[Sequence[M]], RenderableType],
    *,
    as_json: bool,
    option: str = "--before",
) -> None:
    """Show some of many; as JSON it is an object with them, and with what the next page begins at.

    Args:
        name: what they are, in the JSON.
        rows: they themselves.
        following: what `option` says for the next page; None: there are no more.
        readable: lays them out for people.
        as_json: print JSON instead.
        option: of the command.
    """
    if as_json:
        told = [row.model_dump(mode="json") for row in rows]
        console.write_json({name: told, "next": following})
        return
    console.out().print(readable(rows))
    if following is not None:
        console.note(f"There are more: {option} {following}")
