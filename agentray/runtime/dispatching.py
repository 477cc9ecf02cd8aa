"""Dispatching: an event goes to a root, and its run comes back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agentray import context as contexts
from agentray import telemetry
from agentray.core.delays import begin_at
from agentray.core.lifecycle import TERMINAL
from agentray.errors import (
    AddressError,
    CallError,
    ChannelClosed,
    ConfigurationError,
    DeploymentStopped,
    HostDied,
    PayloadError,
)
from agentray.event_loop import time_of_day
from agentray.event_run import DurabilityName, EventRun, OnErrorName, join_run
from agentray.events import Event
from agentray.ids import AgentId, TopicId, new_id
from agentray.protocol.budgets import Budget
from agentray.protocol.codec import encode, error_of, text_of
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.protocol.event_runs import (
    DispatchOrder,
    Durability,
    OnError,
    RunOptions,
    root_of,
)
from agentray.protocol.runs import Run, RunError, RunStatus
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.channel import Channel
from agentray.runtime.message import Message
from agentray.runtime.spans import sending
from agentray.runtime.tasks import TaskSet

_ON_ERROR, _DURABILITY = tuple(OnError), tuple(Durability)

_LOOK_S = 0.5
"""Between two looks at a run that waits for an answer."""


def _encoded(order: DispatchOrder) -> bytes:
    what = f"event {order.event.event_type}"
    try:
        return encode(order.plain(), what)
    except PayloadError:
        encode(order.event, what)  # raises what it is, with its place in the event
        raise


class DispatchMessage(Message):
    """A dispatched event on its way to its root, and its run on the way back."""

    __slots__ = ("_created_at", "_dispatches", "_run", "accepted", "on_its_way", "refused")

    def __init__(
        self, order: DispatchOrder, run: EventRun, dispatches: Dispatches, *, durable: bool
    ) -> None:
        kind = Kind.DISPATCH if durable else Kind.DISPATCH_ONCE
        super().__init__(int(kind), run.root, "", _encoded(order))
        self._run = run
        self._dispatches = dispatches
        self._created_at = order.created_at
        self.accepted: asyncio.Future[None] | None = None
        self.refused: BaseException | None = None  # it will not be heard of
        self.on_its_way = False  # whoever dispatched it has the run

    def on_value(self, payload: Any) -> None:
        """Take the end of a run, that it waits for an answer, or that it begins later."""
        self.closed = True
        run = Run.model_validate_json(payload)
        if run.status == RunStatus.WAITING:
            self._accept()
            self._dispatches.follow(self._run, run)
            return
        if run.status in TERMINAL:
            self._run.ended(run)
        else:
            self._run.kept(run)
        self._dispatches.ended(self._run)
        self._accept()

    def on_reply(self, reply: Reply) -> None:
        """Take the news that the run is kept, or its end, or what became of the message."""
        if reply.kind == ReplyKind.OPEN:
            self._accept()
        elif reply.kind in (ReplyKind.VALUE, ReplyKind.SETTLED):
            self.on_value(reply.payload)
        else:
            self.closed = True
            self._fail(error_of(reply))

    def _accept(self) -> None:
        if self.accepted is not None and not self.accepted.done():
            self.accepted.set_result(None)

    def _fail(self, error: BaseException) -> None:
        only_here = self.kind == Kind.DISPATCH_ONCE
        if only_here and (self.on_its_way or isinstance(error, HostDied)):
            self._run.ended(self._failed(error))
        else:
            self.refused = error
            self._run.lost(error)
            if self.accepted is not None and not self.accepted.done():
                self.accepted.set_exception(error)
        self._dispatches.ended(self._run)

    def _failed(self, error: BaseException) -> Run:
        """Return the end of a run that no Store knows."""
        return Run(
            id=self._run.id,
            status=RunStatus.FAILED,
            agent=str(self._run.root),
            error=RunError(type=type(error).__name__, message=text_of(error)),
            correlation_id=self._run.correlation_id,
            created_at=self._created_at,
            finished_at=time_of_day(),
        )


class Dispatches:
    """The runs that one connection, or one host's agents, have dispatched."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._open: dict[str, EventRun] = {}
        self._snapshot: Snapshot | None = None
        self._pools: dict[tuple[str, ...], str] = {}  # by the classes of events, for that
        self._tasks = TaskSet("dispatches")
        self._idle: asyncio.Future[None] | None = None

    async def dispatch(  # noqa: PLR0913 - as `ManagerClient.dispatch`
        self,
        event: Event,
        *,
        topic: TopicId | str | None = None,
        durability: DurabilityName = "run",
        on_error: OnErrorName = "fail",
        timeout: float | None = None,
        events: bool = True,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        delay_s: float | None = None,
        at: datetime | None = None,
        sender: AgentId | None = None,
    ) -> EventRun:
        """Begin a run; see `ManagerClient.dispatch`.

        Args:
            event: as there, and so are the arguments below.
            topic: of the event.
            durability: what of it survives the death of a host.
            on_error: what an error means for the run.
            timeout: after which it is ended.
            events: are recorded.
            budget: what it may use.
            max_attempts: after which it is given up.
            delay_s: after which it begins.
            at: when it begins.
            sender: the agent that dispatches, None from outside.
        """
        _check(event, on_error, timeout)
        check_limits(budget, max_attempts)
        check_durability(durability)
        now = time_of_day()
        not_before = begin_at(delay_s, at, now)
        if not_before is not None and durability == Durability.NONE:
            raise ConfigurationError("A run that begins later is kept: durability='none' is not.")
        if topic is not None:
            event = event.on_topic(topic)
        run_id = new_id("run")
        pool = self._pool_of(event)
        context = contexts.current.get()
        options = RunOptions(
            str(on_error),
            timeout,
            events,
            sender and str(sender),
            # An agent's run belongs to the trace of the message that it handles.
            None if context is None else context.traceparent,
            None if budget is None else budget.model_dump(mode="json", exclude_none=True),
            max_attempts,
            str(durability),
            None if context is None else context.envelope.access,  # no way around it
        )
        order = DispatchOrder(
            run_id, event.correlation_id or run_id, now, pool, options, event, not_before
        )
        root = root_of(pool, run_id)
        durable = durability != Durability.NONE
        if telemetry.active() is None:
            return await self._send(order, root, durable=durable)
        with sending(root, event.event_type, run_id) as sent:
            traced = order._replace(options=options._replace(traceparent=sent))
            return await self._send(traced, root, durable=durable)

    def _pool_of(self, event: Event) -> str:
        """Return the pool of an event's root; it is looked up once for each class and snapshot.

        Raises:
            DeploymentStopped: only stopped apps want it.
        """
        snapshot, lineage = self._channel.snapshot, event.event_lineage
        if snapshot is not self._snapshot:
            self._snapshot, self._pools = snapshot, {}
        pool = self._pools.get(lineage)
        if pool is None:
            check_running(snapshot, lineage)
            pool = self._pools[lineage] = pool_for(snapshot, lineage)
        return pool

    async def _send(self, order: DispatchOrder, root: AgentId, *, durable: bool) -> EventRun:
        """Send a run's event to its root; return when the run is kept, or on its way."""
        channel, records = self._channel, order.options.events
        run = EventRun(order.id, order.correlation_id, root, channel, records=records)
        message = DispatchMessage(order, run, self, durable=durable)
        self._open[order.id] = run
        if durable:
            message.accepted = channel.loop.create_future()
        channel.post(message)
        if message.accepted is not None:
            await message.accepted
        elif message.refused is not None:
            raise message.refused
        message.on_its_way = True
        return run

    def follow(self, run: EventRun, waiting: Run) -> None:
        """Look after a run that waits for an answer: no host tells of its end any more."""
        run.waits(waiting)
        self._tasks.spawn(self._follow(run), name=f"follow {run.id}")

    async def _follow(self, run: EventRun) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                found = await join_run(self._channel, run.root, run.id)
            except ChannelClosed as error:
                run.lost(error)
                return
            except (CallError, AddressError):
                continue  # nobody can tell just now
            if found.status in TERMINAL:
                run.ended(found)
                self.ended(run)
                return
            run.waits(found)

    async def close(self) -> None:
        """Look after nothing any more."""
        await self._tasks.close()

    def ended(self, run: EventRun) -> None:
        """Note that a run has ended, or will not be heard of any more."""
        self._open.pop(run.id, None)
        if not self._open and self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    def find(self, run_id: str) -> EventRun | None:
        """Return a run that has not ended."""
        return self._open.get(run_id)

    async def wait_idle(self, timeout: float | None) -> bool:
        """Wait until all runs have ended; return whether they have."""
        if not self._open:
            return True
        if self._idle is None:
            self._idle = self._channel.loop.create_future()
        done, _ = await asyncio.wait((self._idle,), timeout=timeout)
        return bool(done)


def check_durability(durability: object, known: Sequence[Durability] = _DURABILITY) -> None:
    """Check what somebody says of a run.

    Args:
        durability: what was said.
        known: what may be said of the durability.

    Raises:
        ConfigurationError: it is something else.
    """
    if durability not in list[object](known):
        names = " or ".join(repr(each.value) for each in known)
        raise ConfigurationError(f"durability is {names}: {durability!r}.")


def check_running(snapshot: Snapshot, lineage: Sequence[str]) -> None:
    """Refuse an event, told by the names of its classes, that only stopped apps want.

    Raises:
        DeploymentStopped: they are.
    """
    types = {s.agent_type for n in lineage for s in snapshot.subscriptions.get(n, ())}
    views = [view for name in types if (view := snapshot.types.get(name)) is not None]
    if views and all(view.stopped for view in views):
        raise DeploymentStopped(min(view.app for view in views))


def pool_for(snapshot: Snapshot, lineage: Sequence[str]) -> str:
    """Return a pool whose hosts can read an event: one in which agents live that want it."""
    for name in lineage:
        for subscription in snapshot.subscriptions.get(name, ()):
            view = snapshot.types.get(subscription.agent_type)
            if view is not None and not view.isolated:
                return view.pool
    return "default"


def _check(event: object, on_error: object, timeout: object) -> None:
    if not isinstance(event, Event):
        raise ConfigurationError(
            f"dispatch() takes an event, such as OrderPlaced(item='tea'): {event!r} is none."
        )
    if on_error not in _ON_ERROR:
        known = " or ".join(repr(each.value) for each in OnError)
        raise ConfigurationError(f"on_error is {known}: {on_error!r}.")
    check_timeout("timeout", timeout)


def check_limits(budget: object, max_attempts: object) -> None:
    """Check what a run may use, and how often it may be tried.

    Raises:
        ConfigurationError: the budget is none, or the attempts are no number above 0.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise ConfigurationError(f"budget is a Budget, such as Budget(tokens=1000): {budget!r}.")
    if max_attempts is not None and not (isinstance(max_attempts, int) and max_attempts > 0):
        raise ConfigurationError(f"max_attempts is a number above 0, or None: {max_attempts!r}.")


def check_timeout(name: str, timeout: object) -> None:
    """Check the seconds that a run may take.

    Raises:
        ConfigurationError: they are no number above 0.
    """
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
        raise ConfigurationError(f"{name} is a number of seconds above 0, or None: {timeout!r}.")
