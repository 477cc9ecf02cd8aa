"""Runs the Python code of documentation pages, as their readers would."""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1`*[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: Path
    line: int  # of its first line of code, from 1
    language: str  # what follows the fence: `python`, `sh`, `python title`, …
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def compiled(self) -> CodeType:
        """Return its code, in which `await` is allowed outside of functions.

        Its lines are those of the page, in tracebacks too.
        """
        source = "\n" * (self.line - 1) + self.code
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(source, str(self.page), "exec", flags=flags, dont_inherit=True)


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of code of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(3)) + 1, found[2].strip(), found[3])
        for found in _FENCE.finditer(text)
    ]


@contextmanager
def module(name: str, file: Path) -> Generator[ModuleType]:
    """Make an empty module that can be imported, so that its classes can be pickled."""
    made = ModuleType(name)
    made.__file__ = str(file)
    sys.modules[name] = made
    linecache.checkcache(str(file))
    try:
        yield made
    finally:
        del sys.modules[name]


async def run_block(block: Block, namespace: dict[str, Any], timeout_s: float = 30.0) -> None:
    """Run a block in a module's namespace.

    Raises:
        AssertionError: it raised something, or took longer; names page and line.
    """
    before = asyncio.all_tasks()
    try:
        async with asyncio.timeout(timeout_s):
            result = eval(block.compiled(), namespace)
            if inspect.isawaitable(result):
                await result
    except TimeoutError as error:
        raise AssertionError(f"{_place(block, error)}: it timed out: {error}") from error
    except Exception as error:
        raise AssertionError(f"{_place(block, error)}: {error!r}") from error
    left = asyncio.all_tasks() - before
    assert not left, f"{block}: tasks were left behind: {left}"


def _place(block: Block, error: BaseException) -> str:
    """Return where on its page a block failed."""
    raised = error.__cause__ if isinstance(error, TimeoutError) else None  # where it was cancelled
    frames = traceback.extract_tb((raised or error).__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(block.page)]
    if isinstance(error, SyntaxError) and error.filename == str(block.page):
        lines = [error.lineno]
    return f"{block.page.name}:{lines[-1] if lines else block.line} (block at {block.line})"
