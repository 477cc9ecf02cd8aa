"""Where the commands write: results to standard output, all that is about them to standard error.

What agents and other programs say is never read as markup, and on a terminal its control characters
are made visible: a result must not be able to drive the terminal of who reads it.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_FILES = 200  # columns; a table in a file or a pipe is not cut at 80

_VISIBLE = {
    code: chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}


def out() -> Console:
    """Return a console on standard output."""
    return _console(stderr=False)


def err() -> Console:
    """Return a console on standard error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console


def write(text: str, end: str = "\n") -> None:
    """Write text to standard output: to a terminal safely, to all else as it is."""
    sys.stdout.write((visible(text) if sys.stdout.isatty() else text) + end)
    sys.stdout.flush()


def write_json(document: Any) -> None:
    """Write a document as indented JSON to standard output."""
    write(json.dumps(document, indent=2, ensure_ascii=False))


def visible(text: str) -> str:
    """Replace control characters, but for line ends and tabs, by characters that show them."""
    return text.translate(_VISIBLE)


def complain(message: str) -> None:
    """Say what went wrong, as one paragraph on standard error."""
    from rich.text import Text

    # Not one word of an error may be lost to the width of a terminal: it wraps by itself.
    said = Text("error: ", style="bold red").append(visible(message), style="not bold default")
    err().print(said, soft_wrap=True)


def waiting(what: str) -> AbstractContextManager[object]:
    """Show that something is waited for, on a terminal."""
    shown = err()
    return shown.status(what) if shown.is_terminal else nullcontext()


def nothing() -> AbstractContextManager[object]:
    """Show nothing."""
    return nullcontext()


def note(message: str) -> None:
    """Say something about what is done, on standard error."""
    err().print(visible(message), style="dim", soft_wrap=True)
