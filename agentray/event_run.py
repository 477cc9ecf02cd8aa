"""Runs of events as their dispatcher sees them: the result, the end, the events on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime
from inspect import isclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast, overload

from pydantic import BaseModel, ValidationError

from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import (
    ConfigurationError,
    DeadlineExceeded,
    DeploymentStopped,
    HostDied,
    Overloaded,
    PayloadError,
    RunFailed,
    UnknownRun,
)
from agentray.event_loop import time_of_day
from agentray.events import Event
from agentray.ids import AgentId, TopicId
from agentray.protocol.budgets import Budget
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Kind
from agentray.protocol.event_runs import NOT_KEPT
from agentray.protocol.questions import Question
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus

if TYPE_CHECKING:
    from agentray.context import Caller

M = TypeVar("M", bound=BaseModel)

_TERMINAL = frozenset(status.value for status in TERMINAL)
_WATCH_S = 20.0
_WATCH_SLACK_S = 10.0
_PAUSE_S = 0.25


OnErrorName = Literal["fail", "collect"]

DurabilityName = Literal["run", "step", "none"]


class DispatchOptions(TypedDict, total=False):
    """How an event is dispatched; see `ManagerClient.dispatch`."""

    topic: TopicId | str | None
    durability: DurabilityName
    on_error: OnErrorName
    timeout: float | None
    events: bool
    budget: Budget | None
    max_attempts: int | None
    delay_s: float | None
    at: datetime | None


class EventRun:
    """All that one dispatched event sets off, until all of it is done.

    Attributes:
        id: of the run.
        correlation_id: that its events inherit.
        root: the address at which the cluster works on it.
        not_before: when it begins; None: it has begun at once.
    """

    __slots__ = (
        "_before",
        "_caller",
        "_lost",
        "_records",
        "_run",
        "_waiting",
        "correlation_id",
        "id",
        "not_before",
        "root",
    )

    def __init__(
        self, run_id: str, correlation_id: str, root: AgentId, caller: Caller, *, records: bool
    ) -> None:
        """Made by `dispatch`."""
        self.id = run_id
        self.correlation_id = correlation_id
        self.root = root
        self._caller = caller
        self._records = records
        self.not_before: datetime | None = None
        self._run: Run | None = None
        self._before: Run | None = None  # as it was last seen before its end
        self._lost: BaseException | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"EventRun({self.id!r}, {self.status.value})"

    @property
    def status(self) -> RunStatus:
        """Its terminal status; before its end `running`, or what it waits for.

        That is `queued` until it is to begin, and `waiting` for an answer.
        """
        if self._run is not None:
            return self._run.status
        if self.question is not None:
            return RunStatus.WAITING
        waits = self.not_before is not None and time_of_day() < self.not_before
        return RunStatus.QUEUED if waits else RunStatus.RUNNING

    @property
    def question(self) -> Question | None:
        """What it waits to be told; see `ManagerClient.answer`. Seen up to a second late."""
        return None if self._run or not self._before else self._before.question

    @property
    def error(self) -> RunError | None:
        """Why it did not succeed; None before its end, and when it did."""
        return None if self._run is None else self._run.error

    @property
    def errors(self) -> tuple[RunError, ...]:
        """All that went wrong, also in a run that succeeded because errors are collected."""
        return () if self._run is None else self._run.errors

    async def wait(self, timeout: float | None = None) -> Run:
        """Return the run when it has ended, however that was.

        Args:
            timeout: seconds to wait; None: as long as it takes. The run goes on after it.

        Raises:
            DeadlineExceeded: it has not ended yet.
            ChannelClosed: this process has left the cluster; the run goes on.
        """
        if timeout is None:
            await self._until_known()
        else:
            try:
                async with asyncio.timeout(timeout):
                    await self._until_known()
            except TimeoutError:
                raise DeadlineExceeded(f"Run {self.id}", timeout) from None
        if self._run is None:
            raise cast("BaseException", self._lost)
        return self._run

    async def _until_known(self) -> None:
        """Wait until its end is known here, or will not be."""
        if self.not_before is not None:
            await self._follow(self.not_before)
        if self._run is None and self._lost is None:
            # One for each who waits: who is cancelled takes nothing from the others.
            ended: asyncio.Future[None] = self._caller.loop.create_future()
            self._waiting.append(ended)
            await ended

    async def _end_told(self, timeout: float) -> None:
        """Wait until the end is known here, or the time is over."""
        if self._run is None and self._lost is None:
            ended: asyncio.Future[None] = self._caller.loop.create_future()
            self._waiting.append(ended)
            await asyncio.wait((ended,), timeout=timeout)

    async def _follow(self, not_before: datetime) -> None:
        """Find out the end of a run that began long after it was dispatched."""
        while self._run is None:
            left_s = (not_before - time_of_day()).total_seconds()
            await self._end_told(max(0.0, left_s))  # it may be cancelled before
            if self._run is None:
                await self._join()

    async def _join(self) -> None:
        with suppress(HostDied, DeploymentStopped, Overloaded):  # it is asked again
            run = await join_run(self._caller, self.root, self.id)
            if run.status in TERMINAL:
                self.ended(run)
                return
            self.waits(run)
        await self._end_told(_PAUSE_S)

    @overload
    async def result(self, kind: None = None, *, timeout: float | None = None) -> Any: ...

    @overload
    async def result(self, kind: type[M], *, timeout: float | None = None) -> M: ...

    async def result(self, kind: type[M] | None = None, *, timeout: float | None = None) -> Any:
        """Return what its `TerminateEvent` told, when the run has ended.

        Args:
            kind: a `TerminateEvent` class, or another pydantic model, as which its fields are read;
                an event belongs to the run's conversation. None: it is returned as JSON values,
                None when there was no `TerminateEvent`.
            timeout: seconds to wait; None: as long as it takes. The run goes on after it.

        Raises:
            RunFailed: it ended in another state than `succeeded`; tells the error and what led to
                it.
            PayloadError: the result is not of this kind.
            ConfigurationError: `kind` is no pydantic model.
            DeadlineExceeded: it has not ended yet.
            ChannelClosed: this process has left the cluster; the run goes on.
        """
        if kind is not None and not (isclass(kind) and issubclass(kind, BaseModel)):
            raise ConfigurationError(f"A result is read as a pydantic model: {kind!r} is none.")
        run = await self.wait(timeout)
        if run.status != RunStatus.SUCCEEDED:
            error = run.error or RunError(type="", message="it has no error")
            raise RunFailed(self.id, run.status.value, error.message, error.type, error.path)
        if kind is None:
            return run.result
        result = run.result
        if issubclass(kind, Event) and isinstance(result, dict):
            result = {**cast("dict[str, Any]", result), "correlation_id": self.correlation_id}
        try:
            return kind.model_validate(result)
        except ValidationError as error:
            told = "is none: no TerminateEvent" if run.result is None else f"is no {kind.__name__}"
            raise PayloadError(f"The result of run {self.id} {told}: {error}") from error

    async def cancel(self) -> Run:
        """End it: handlers are cancelled, what waits is withdrawn; return when that is done.

        A run that has ended stays as it is. A handler that will not end is waited for at most ten
        seconds.

        Raises:
            ChannelClosed: this process has left the cluster.
        """
        if self._run is not None:
            return self._run
        with suppress(UnknownRun):  # it was not kept, and its host is gone: that is its end
            while self._run is None:
                # A run that came to wait for an answer in this very moment is told as it is.
                told = await cancel_run(self._caller, self.root, self.id)
                if told.status in TERMINAL:
                    self.ended(told)
        return await self.wait()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Go through the events of the run, from the root event on, as they are published.

        It ends with the run; after that, it gives all of them at once. When a host dies and a
        run that is durable as a whole begins again, so do its events, with the correlation `RUN#2`.

        Raises:
            ConfigurationError: it was dispatched with `events=False`.
            UnknownEventType: the class of an event is not defined in this process.
            PayloadError: an event that has no JSON form was not kept.
        """
        if not self._records:
            raise ConfigurationError(
                f"The events of run {self.id} are not kept: dispatch it with events=True."
            )
        after = -1
        if self.not_before is not None:
            await self._end_told(max(0.0, (self.not_before - time_of_day()).total_seconds()))
        while True:
            over = self._run is not None
            told = await self._watch(after)
            for event in told:
                after = event.offset
                if event.kind == "event":
                    if (why := event.data.get(NOT_KEPT)) is not None:
                        raise PayloadError(f"An event of run {self.id} was not kept: {why}")
                    yield Event.from_json(event.data)
                elif event.kind in _TERMINAL:
                    return
            if over and not told:
                return  # its last events were lost with its host
            if not told:
                # Nobody works on it now, or for long nothing has happened: look for its end, too.
                await self._until_ended(_PAUSE_S)

    async def _watch(self, after: int) -> list[RunEvent]:
        payload = encode((self.id, after, _WATCH_S))
        timeout = _WATCH_S + _WATCH_SLACK_S
        try:
            told = await self._caller.request(Kind.WATCH, self.root, "", payload, timeout=timeout)
        except (HostDied, DeploymentStopped, Overloaded):
            return []  # it is asked again
        return decode(told)

    async def _until_ended(self, wait_s: float) -> None:
        with suppress(DeadlineExceeded):
            await self.wait(wait_s)

    # What its message hears

    def kept(self, run: Run) -> None:
        """Note that it begins later."""
        self.not_before = run.not_before

    def ended(self, run: Run) -> None:
        """Note the end."""
        self._run = run
        self._wake()

    def waits(self, run: Run) -> None:
        """Note what it is like before its end."""
        self._before = run

    def lost(self, error: BaseException) -> None:
        """Note that its end will not be heard of here."""
        self._lost = error
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if not ended.done():
                ended.set_result(None)


async def join_run(caller: Caller, root: AgentId, run_id: str) -> Run:
    """Return a run when it has ended, or as it is when no host works on it.

    Args:
        caller: sends.
        root: the run's own agent, or the root of its event.
        run_id: of the run.

    Raises:
        UnknownRun: there is none of this id.
        CallError: its host cannot be asked now.
    """
    told = await caller.request(Kind.JOIN, root, "", encode(run_id), timeout=None)
    return Run.model_validate_json(told)


async def settle_run(caller: Caller, run: Run) -> Run:
    """Return a run when it has ended or waits for an answer; while its host is away it is waited.

    Args:
        caller: sends.
        run: as it was last seen.

    Raises:
        UnknownRun: there is none of this id.
        ChannelClosed: this process has left the cluster.
    """
    agent = AgentId.parse(run.agent)
    while not is_settled(run):
        with suppress(HostDied, DeploymentStopped, Overloaded):
            run = await join_run(caller, agent, run.id)
            if is_settled(run):
                break
        await asyncio.sleep(_PAUSE_S)
    return run


async def cancel_run(caller: Caller, root: AgentId, run_id: str) -> Run:
    """Have a run ended as cancelled, and return it when it has ended.

    Args:
        caller: sends.
        root: the run's own agent, or the root of its event.
        run_id: of the run.

    Raises:
        UnknownRun: there is none of this id.
    """
    told = await caller.request(Kind.CANCEL_RUN, root, "", encode(run_id), timeout=None)
    return Run.model_validate_json(told)
