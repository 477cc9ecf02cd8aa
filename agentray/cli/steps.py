"""Steps of the way up or down, as they are told to whoever looks on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the way up or down; reported when it begins and when it has ended."""

    name: str
    done: bool
    detail: str = ""


Report = Callable[[Step], None]


@asynccontextmanager
async def reported(report: Report, name: str) -> AsyncGenerator[Callable[[str], None]]:
    """Report a step; the block may tell a detail."""
    report(Step(name, done=False))
    details: list[str] = []
    yield details.append
    report(Step(name, done=True, detail=", ".join(details)))
