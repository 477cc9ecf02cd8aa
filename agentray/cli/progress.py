"""Steps as they are taken: with spinners on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.spinner import Spinner

    from agentray.cli.steps import Step


class _State(Enum):
    RUNNING = ""
    DONE = "✓"
    FAILED = "✗"


@dataclass(slots=True)
class _Row:
    name: str
    begun: float
    state: _State = _State.RUNNING
    detail: str = ""
    seconds: float = 0.0
    spinner: Spinner | None = field(default=None, repr=False)


class Steps:
    """Steps that may overlap, in the order in which they began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}

    def report(self, step: Step) -> None:
        """Take note of a step."""
        row = self._rows.setdefault(step.name, _Row(step.name, self._clock()))
        if step.done:
            row.detail, row.seconds = step.detail, self._clock() - row.begun
            row.state = _State.DONE

    def fail_running(self) -> None:
        """Mark as failed what has not ended: it never will."""
        for row in self._rows.values():
            if row.state is _State.RUNNING:
                row.state, row.seconds = _State.FAILED, self._clock() - row.begun

    def line(self, name: str) -> str:
        """Return a step as a line of plain text."""
        row = self._rows[name]
        if row.state is _State.RUNNING:
            return f"{row.name} …"
        told = "failed" if row.state is _State.FAILED else row.detail or "done"
        return f"{row.name}: {told} ({row.seconds:.1f} s)"

    def failed(self) -> list[str]:
        """Return the names of failed steps."""
        return [row.name for row in self._rows.values() if row.state is _State.FAILED]

    def __rich__(self) -> RenderableType:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for row in self._rows.values():
            match row.state:
                case _State.RUNNING:
                    row.spinner = row.spinner or Spinner("dots", style="cyan")
                    mark, seconds = row.spinner, self._clock() - row.begun
                case _State.DONE:
                    mark, seconds = Text(row.state.value, style="green"), row.seconds
                case _State.FAILED:
                    mark, seconds = Text(row.state.value, style="red"), row.seconds
            table.add_row(
                mark,
                Text(row.name),
                Text(row.detail, style="dim"),
                Text(f"{seconds:.1f} s", style="dim"),
            )
        return table


@contextmanager
def shown(console: Console) -> Generator[Callable[[Step], None]]:
    """Show steps while the block runs; what has not ended with it has failed.

    Args:
        console: where to.

    Yields:
        What hears of each step.
    """
    with _live(console) if console.is_terminal else _plain(console) as report:
        yield report


@contextmanager
def _live(console: Console) -> Generator[Callable[[Step], None]]:
    from rich.live import Live

    steps = Steps()
    with Live(steps, console=console, refresh_per_second=12.5):
        try:
            yield steps.report
        finally:
            steps.fail_running()


@contextmanager
def _plain(console: Console) -> Generator[Callable[[Step], None]]:
    steps = Steps()

    def report(step: Step) -> None:
        steps.report(step)
        console.print(steps.line(step.name), soft_wrap=True)

    try:
        yield report
    finally:
        steps.fail_running()
        for name in steps.failed():
            console.print(steps.line(name), soft_wrap=True)
