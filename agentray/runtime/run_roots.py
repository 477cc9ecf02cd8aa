"""Roots of event runs: a dispatched event is taken in, kept, and sent to its subscribers.

A root is an address: it says which host works on a run, and whose epoch its end is written with.
Nobody is activated for it.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentray.context import Context
from agentray.errors import NoHandler
from agentray.events import Event, with_fields
from agentray.ids import AgentId, slot_of
from agentray.protocol.codec import NO_ARGUMENTS, decode, text_of
from agentray.protocol.envelope import Envelope, Failure, Kind, ReplyKind
from agentray.protocol.event_runs import (
    RETRY,
    DispatchOrder,
    Recording,
    Retry,
    RunOptions,
    is_root,
)
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.snapshot import Snapshot
from agentray.protocol.trusted import defaults_of, trusted
from agentray.runtime.active_run import ActiveRun
from agentray.runtime.dispatching import check_running
from agentray.runtime.message import inherit
from agentray.runtime.told_again import ToldAgain
from agentray.runtime.turn import Turn
from agentray.store.base import NewRun, StoredRun

if TYPE_CHECKING:
    from agentray.runtime.host import Host


_QUEUED = defaults_of(Run) | {"status": RunStatus.QUEUED}


class RunRoots:
    """Takes dispatched events in, on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._snapshot: Snapshot | None = None
        self._looked_at: tuple[Snapshot | None, bool] = (None, False)
        self._wanted: set[tuple[str, ...]] = set()  # classes of events, by it

    # Taking in

    async def admit(self, turn: Turn) -> None:
        """Begin a run that is kept first: `OPEN` says that it is, the end comes after it.

        One that is to begin later is answered with as it is kept.
        """
        order, new = _ordered(turn)
        check_running(self._host.channel.snapshot, order.event.event_lineage)
        new = _with_input(new, order)
        runs = self._host.runs
        created = (await runs.admit(new)).created
        if new.not_before is not None:
            kept = StoredRun.fresh(new).run if created else await runs.look(new.id)
            turn.reply(ReplyKind.VALUE, kept.model_dump_json().encode())
            return  # the manager gives it to a host when it is to begin
        turn.reply(ReplyKind.OPEN)
        if created:
            found = runs.begin(StoredRun.fresh(new), event=order.event)
        else:
            found = await runs.taking_up.take_up(new.id)  # sent again, after its host was lost
        self._host.control.answer_at_end(turn, found, ReplyKind.SETTLED)

    def begin(self, turn: Turn) -> None:
        """Begin a run that is not kept before its end."""
        order = DispatchOrder.of(decode(turn.envelope.payload))
        self._check(order.event)
        stored = _stored(order, turn.envelope.target)
        found = self._host.runs.begin_once(stored, order.event, order.options)
        self._host.control.answer_at_end(turn, found, ReplyKind.VALUE)

    def _check(self, event: Event) -> None:
        """Refuse an event that only stopped apps want; what is known of a class is remembered."""
        snapshot, lineage = self._host.channel.snapshot, event.event_lineage
        if snapshot is not self._snapshot:
            self._snapshot, self._wanted = snapshot, set()
        if lineage not in self._wanted:
            check_running(snapshot, lineage)
            self._wanted.add(lineage)

    def accepted(self, active: ActiveRun, event: Event | None) -> None:
        """Note what a run is about, which may have to wait until there is room for it.

        Args:
            active: the run.
            event: its root event, where it is at hand.
        """
        active.event = event
        # One that was accepted before goes on also where an app is stopped meanwhile.
        active.narrowed = self._some_stopped and active.run.attempt == 1

    def apps_of(self, active: ActiveRun) -> set[str]:
        """Return the apps that a run belongs to: those whose agents want its prompt or event."""
        types = self._host.channel.snapshot.types
        names = [active.agent.type]
        if active.stored.answers:
            names = [AgentId.parse(active.stored.answers[-1].question.agent).type]
        elif is_root(active.agent.type):
            event = active.event
            names = [] if event is None else self._host.publisher.types_that_want(event)
        return {view.app for name in names if (view := types.get(name)) is not None}

    # Sending

    def publish(self, active: ActiveRun, event: Event | None) -> None:
        """Send a run's root event to its subscribers; the run ends when all of it is done.

        Args:
            active: the run.
            event: where it is at hand; None: it is read from the run's input.
        """
        scope = active.scope
        scope.on_done(active.settled)
        scope.hold()
        try:
            given = active.stored.input
            if RETRY in given:
                self._retry(active, Retry(**given[RETRY]))
            else:
                self._publish(active, Event.from_json(given["event"]) if event is None else event)
        except Exception as error:  # noqa: BLE001 - routing calls code of the user's
            scope.fail(Failure(type(error).__name__, text_of(error), "", ()))
        scope.release()

    def _retry(self, active: ActiveRun, retry: Retry) -> None:
        """Send what a dead letter carried once more."""
        to = None if retry.to is None else AgentId.parse(retry.to)
        content = None if retry.content is None else b64decode(retry.content)
        if to is not None and retry.action is not None:
            self._tell(active, to, retry.action, content or NO_ARGUMENTS)
            return
        event = (
            Event.from_json(active.stored.input["event"]) if content is None else decode(content)
        )
        self._publish(active, event, to)

    def _tell(self, active: ActiveRun, to: AgentId, action: str, arguments: bytes) -> None:
        context = self._context(active, action)
        message = ToldAgain(to, action, arguments, active.scope)
        inherit(message, context)
        message.origin = message.origin._replace(sender=None, chain=())
        active.scope.sent(message)
        self._host.channel.post(message)

    def _context(self, active: ActiveRun, name: str) -> Context:
        correlation_id = active.conversation
        root = None if active.recording == Recording.NOTHING else active.agent
        envelope = Envelope(
            1,
            Kind.EVENT,
            *active.agent,
            name,
            None,
            correlation_id=correlation_id,
            root=root,
            trace_context=active.trace_context,
            run=active.key,
            access=active.options.access,
        )
        context = Context(active.agent, self._host, envelope)
        context.scope = active.scope
        return context

    def _publish(self, active: ActiveRun, event: Event, to: AgentId | None = None) -> None:
        active.event = event
        context = self._context(active, event.event_type)
        published = with_fields(event, {"correlation_id": active.conversation})
        sender = None if active.options.sender is None else AgentId.parse(active.options.sender)
        only = self._takes_new_runs if active.narrowed else None
        if not self._host.publisher.route(published, context, sender, only, to):
            missing = NoHandler("", event.event_type)
            active.scope.fail(Failure("NoHandler", str(missing), "", ()))

    @property
    def _some_stopped(self) -> bool:
        """Whether an app is stopped; it is looked up once for each snapshot."""
        snapshot = self._host.channel.snapshot
        if snapshot is not self._looked_at[0]:
            stopped = any(view.stopped for view in snapshot.types.values())
            self._looked_at = (snapshot, stopped)
        return self._looked_at[1]

    def _takes_new_runs(self, agent: AgentId) -> bool:
        view = self._host.channel.snapshot.types.get(agent.type)
        return view is None or not view.stopped


def _stored(order: DispatchOrder, root: AgentId) -> StoredRun:
    """Return a run as it would be kept, which it is at its end only."""
    known = {
        "id": order.id,
        "agent": str(root),
        "correlation_id": order.correlation_id,
        "created_at": order.created_at,
    }
    run = trusted(Run, {**_QUEUED, **known})
    given: dict[str, Any] = {"event": {}, "traceparent": order.options.traceparent}
    return StoredRun(run, root, order.pool, slot_of(root), given, 0)


def _ordered(turn: Turn) -> tuple[DispatchOrder, NewRun]:
    order = DispatchOrder.of(decode(turn.envelope.payload))
    root = turn.envelope.target
    new = NewRun(
        order.id,
        root,
        order.pool,
        slot_of(root),
        order.options._asdict() | {"event": {}},
        order.correlation_id,
        order.created_at,
        not_before=order.not_before,
    )
    return order, new


def _with_input(new: NewRun, order: DispatchOrder) -> NewRun:
    given: RunOptions = order.options
    return replace(new, input=given.as_input(order.event.to_json()))
