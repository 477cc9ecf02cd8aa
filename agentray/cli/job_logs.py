"""Prints the log of a job as it comes, and shows how far the job is, and uploads are."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from agentray.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress

    from agentray.client import AsyncLogTail, LogEvent


class LogPrinter:
    """The log goes to standard output, all that is about it to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        """Make one.

        Args:
            as_json: a line of JSON for each thing that is told.
        """
        self._as_json = as_json
        self._bar = _Bar()
        self._within_line = False

    async def follow(self, tail: AsyncLogTail[LogEvent]) -> str:
        """Print all that comes; return the status of the job at the end.

        Raises:
            ClientError: the log cannot be read any further.
        """
        with self._bar:
            async with tail:
                while found := await tail.batch():
                    self._show(found)
        if self._within_line and sys.stdout.isatty():
            console.write("")
        end = tail.end
        if end is not None and end.reason in {"failed", "stopped"}:
            console.note(f"The job has {end.reason}: {end.message}")
        return end.status if end is not None else ""

    def _show(self, found: list[LogEvent]) -> None:
        from agentray.client import LogGap, LogPiece, ReportNews

        pieces = [event for event in found if isinstance(event, LogPiece)]
        if self._as_json:
            lines = [json.dumps(_told(event), ensure_ascii=False) for event in found]
            _write("".join(f"{line}\n" for line in lines).encode())
        elif pieces and sys.stdout.isatty():
            said = "".join(piece.text + "\n" * piece.ends for piece in pieces)
            self._within_line = not said.endswith("\n")
            self._bar.above(lambda: console.write(said, end=""))
        elif pieces:
            _write(b"".join(piece.data for piece in pieces))
        for event in found:
            if isinstance(event, LogGap) and not self._as_json:
                console.note(f"[{event.next - event.offset} bytes of the log were not kept]")
            elif isinstance(event, ReportNews) and event.progress is not None:
                self._bar.show(event.progress, event.metrics)


def _told(event: LogEvent) -> dict[str, object]:
    kind = type(event).__name__
    fields = {name: value for name, value in event._asdict().items() if name != "raw"}
    return {"type": _KINDS.get(kind, kind), **fields}


_KINDS = {"LogPiece": "line", "LogGap": "gap", "StatusNews": "status", "ReportNews": "report"}


def _write(data: bytes) -> None:
    """Write bytes as they are. Who reads them may have left, as `head` does: that is the end."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


class _Bar(AbstractContextManager["_Bar"]):
    """How far a job is, where it says so and a terminal shows it."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._progress: Progress | None = None

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def show(self, progress: float, metrics: dict[str, object]) -> None:
        """Show it."""
        err = console.err()
        if not err.is_terminal:
            return
        told = "  ".join(f"{name} {value}" for name, value in metrics.items())
        if self._progress is None:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._progress = Progress(
                TextColumn("job"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.description}", markup=False),
                console=err,
                transient=True,
            )
            self._progress.add_task("", total=1.0)
            self._exits.enter_context(self._progress)
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=progress, description=console.visible(told))

    def above(self, write: Callable[[], None]) -> None:
        """Write something where the bar does not go over it."""
        if self._progress is None:
            write()
            return
        self._progress.stop()
        write()
        self._progress.start()


@contextmanager
def uploads() -> Generator[Callable[[int, int], None] | None]:
    """Show how far an upload is, on a terminal; nothing where there is none.

    Yields:
        What hears how many bytes of how many were sent.
    """
    err = console.err()
    if not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    with Progress(
        TextColumn("uploading"), BarColumn(), DownloadColumn(), console=err, transient=True
    ) as progress:
        tasks = [progress.add_task("", total=None, visible=False)]

        def hear(sent: int, size: int) -> None:
            progress.update(tasks[0], completed=sent, total=size, visible=True)

        yield hear
