"""A bar that shows how far a job is."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agentray.protocol.async_jobs import JobProgress


class ProgressBar:
    """A bar on standard error, where that is a terminal, for as long as it is waited."""

    def __init__(self, title: str, *, shown: bool, console: Console | None = None) -> None:
        """Make one.

        Args:
            title: what is waited for, until there is a message.
            shown: False: it does nothing.
            console: where it is shown; None: standard error.
        """
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, progress: JobProgress | None) -> None:
        """Show how far it is; None: nothing is known."""
        if progress is None:
            return
        if progress.message:
            self._progress.update(self._task, description=progress.message)
        if progress.current is not None:
            self._progress.update(self._task, completed=progress.current)
        if progress.total is not None:
            self._progress.update(self._task, total=progress.total)
