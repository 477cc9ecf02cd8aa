"""Runs of events for programs that do not await."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from datetime import datetime
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from agentray.blocking import read, wait_for
from agentray.event_run import EventRun
from agentray.events import Event
from agentray.protocol.questions import Question
from agentray.protocol.runs import Run, RunError, RunStatus

M = TypeVar("M", bound=BaseModel)


class SyncEventRun:
    """An `EventRun` whose methods block; see there for what each one does and raises."""

    __slots__ = ("_loop", "_run")

    def __init__(self, run: EventRun, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `SyncManager.dispatch`.

        Args:
            run: what does the work.
            loop: its event loop, which runs in another thread.
        """
        self._run = run
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._run)

    @property
    def id(self) -> str:
        """Of the run."""
        return self._run.id

    @property
    def correlation_id(self) -> str:
        """That its events inherit."""
        return self._run.correlation_id

    @property
    def not_before(self) -> datetime | None:
        """When it begins; None: it has begun at once."""
        return self._run.not_before

    @property
    def status(self) -> RunStatus:
        """Its terminal status; before its end `running`, or what it waits for."""
        return self._run.status

    @property
    def question(self) -> Question | None:
        """What it waits to be told; see `SyncManager.answer`."""
        return self._run.question

    @property
    def error(self) -> RunError | None:
        """Why it did not succeed; None before its end, and when it did."""
        return self._run.error

    @property
    def errors(self) -> tuple[RunError, ...]:
        """All that went wrong, also in a run that succeeded because errors are collected."""
        return self._run.errors

    def wait(self, timeout: float | None = None) -> Run:
        """Return the run when it has ended, however that was."""
        return wait_for(self._run.wait(timeout), self._loop)

    @overload
    def result(self, kind: None = None, *, timeout: float | None = None) -> Any: ...

    @overload
    def result(self, kind: type[M], *, timeout: float | None = None) -> M: ...

    def result(self, kind: type[M] | None = None, *, timeout: float | None = None) -> Any:
        """Return what its `TerminateEvent` told, when the run has ended."""
        return wait_for(self._run.result(kind, timeout=timeout), self._loop)

    def cancel(self) -> Run:
        """End it: handlers are cancelled, what waits is withdrawn; return when that is done."""
        return wait_for(self._run.cancel(), self._loop)

    def events(self) -> Generator[Event, None, None]:
        """Go through the events of the run, from the root event on, as they are published."""
        return read(self._run.events(), self._loop)
