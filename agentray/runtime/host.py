"""The host: one process, one event loop, many agents.

A plain class; `ray_adapter` wraps it into an actor. It runs the agents of the slots that it leases,
and answers `MOVED` for all others. What its agents change goes to the Store with the epochs of its
leases: a host that lost them cannot write any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, Unpack

from agentray import telemetry
from agentray.blocking import wait_for
from agentray.config import BATCH, MAX_ATTEMPTS, MAX_STATE_BYTES, METRICS_INTERVAL_S, BatchLimits
from agentray.context import Context
from agentray.errors import (
    AgentFailed,
    Fenced,
    NoHandler,
    PayloadError,
    UnknownAgentType,
    UnknownRun,
)
from agentray.event_run import DispatchOptions, EventRun
from agentray.events import Ask, Event
from agentray.ids import AgentId, slot_of
from agentray.protocol.budgets import Usage
from agentray.protocol.envelope import Envelope, Frame, Kind, Packet, ReplyKind
from agentray.protocol.event_runs import STEPS, is_root
from agentray.protocol.runs import RunStatus
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.app_code import AppCode
from agentray.runtime.asking import Asking
from agentray.runtime.background import BackgroundWork
from agentray.runtime.call_backs import CalledBack, called_back
from agentray.runtime.channel import OF_HOSTS, Channel
from agentray.runtime.control import Control
from agentray.runtime.dead_letters import DeadLetters
from agentray.runtime.departures import Departures
from agentray.runtime.dispatching import Dispatches
from agentray.runtime.failures import Failures
from agentray.runtime.flight_record import FlightRecord, in_memory
from agentray.runtime.group_commit import PATIENCE_S, GroupCommit
from agentray.runtime.health import check_app
from agentray.runtime.held_leases import HeldLeases, Lease
from agentray.runtime.hooked_publishing import HookedPublishing
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.launching import Launching
from agentray.runtime.local_link import LocalLink
from agentray.runtime.message import Message
from agentray.runtime.metrics import HostMetrics
from agentray.runtime.outbox import (
    COLLECT_S,
    FORGOTTEN,
    GRACE_S,
    NOTHING,
    RUN_GRACE_S,
    Outbox,
    patience_s,
)
from agentray.runtime.permanents import Permanents
from agentray.runtime.ports import Connector, MetricsPort
from agentray.runtime.publishing import Publisher
from agentray.runtime.residents import Residents
from agentray.runtime.run_book import RunBook
from agentray.runtime.run_parts import RunParts
from agentray.runtime.run_roots import RunRoots
from agentray.runtime.scope import scope_of
from agentray.runtime.session_turns import SessionTurns
from agentray.runtime.steps import Steps
from agentray.runtime.tasks import TaskSet
from agentray.runtime.telling import Telling
from agentray.runtime.threads import Threads
from agentray.runtime.turn import ReplySink, Turn
from agentray.runtime.turn_tasks import TurnTasks
from agentray.runtime.watchdog import Watchdog
from agentray.store.base import CommitOutcome, Effects, StateWrite, Store

logger = logging.getLogger(__name__)

R = TypeVar("R")

MAX_COMMITS = 256
"""Effects in one transaction: beyond it, the fsync is shared well enough."""

_FOR_AGENTS = frozenset({int(Kind.CALL), int(Kind.TELL), int(Kind.EVENT), int(Kind.STREAM)})
_UNANSWERED = frozenset({int(Kind.CANCEL), int(Kind.CREDIT), int(Kind.AWAITED)})
_RUNS = frozenset(map(int, (Kind.RUN, Kind.ADMIT, Kind.DISPATCH, Kind.DISPATCH_ONCE)))
_LOAD = _FOR_AGENTS | _RUNS
_CANCEL, _AWAITED = int(Kind.CANCEL), int(Kind.AWAITED)
_EVENT = int(Kind.EVENT)

_SWEEP_S = 1.0
_FETCH_S = 1.0
"""How long a host that has stopped waits for senders to fetch their last replies."""
_FETCH_LOOK_S = 0.02
_READER_GONE_S = 3 * COLLECT_S


def _nobody(agent_id: Any) -> None:
    """Find no agent: the message takes the longer way, on which it is looked at."""
    del agent_id


class Host:
    """Runs agents."""

    def __init__(  # noqa: PLR0913 - all that there is to say of a host, and its parts
        self,
        host_id: str,
        store: Store,
        connector: Connector,
        *,
        max_state_bytes: int = MAX_STATE_BYTES,
        threads: int | None = None,
        blocked_warning_s: float = 0.0,
        max_runs: int | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        batch: BatchLimits = BATCH,
        metrics: MetricsPort | None = None,
        metrics_interval_s: float = METRICS_INTERVAL_S,
        record: FlightRecord | None = None,
    ) -> None:
        """Make a host without leases; needs a running event loop.

        Args:
            host_id: unique in the cluster.
            store: opened; closed by whoever opened it.
            connector: finds the other hosts.
            max_state_bytes: of one agent's state as JSON; more is refused.
            threads: most threads for `run_sync`; None: as many as suit the machine.
            blocked_warning_s: a handler that blocks the event loop for longer is told; 0: none is.
            max_runs: worked on at once; the others wait in order. None: any number.
            max_attempts: of a run that does not say it; each of them lost a host.
            batch: most that leaves together for one host.
            metrics: where what it counts goes; None: it counts nothing.
            metrics_interval_s: how often.
            record: where it notes who is under way, for after its death; None: only it knows.
        """
        self.host_id = host_id
        self.max_state_bytes = max_state_bytes
        self.store, self.connector = store, connector
        self.tasks = TaskSet(f"host {host_id}")
        self.threads = Threads(threads, name=f"agentray-{host_id}")
        self.background = BackgroundWork(self)
        self._watchdog = Watchdog(blocked_warning_s) if blocked_warning_s else None
        self.link = LocalLink(self)
        self.channel = Channel(connector, local=self, batch=batch)
        self.link.channel = self.channel
        self._dispatches = Dispatches(self.channel)
        self.roots, self.parts = RunRoots(self), RunParts(self)
        self.runs = RunBook(self, self._make_commits(), limit=max_runs, max_attempts=max_attempts)
        self.sessions = SessionTurns(self)
        self.code = AppCode()
        self.types = self.code.types
        self.held = HeldLeases()
        self._placed = Snapshot()  # the one of these leases: where agents live
        self._outboxes: dict[str, Outbox] = {}
        self.launching = Launching(self)
        self.failures = Failures(self)
        self.permanents = Permanents(self)
        self.residents = Residents(self)
        self._find: Callable[[Any], Incarnation | None] = self.residents.getter
        self.departures = Departures(self)
        self.dead_letters = DeadLetters(store, self.pool_of)
        self.telling = Telling(self)
        self.publisher = Publisher(self)
        self.asking = Asking(self)
        self._publish_hooks = self.code.publish_hooks
        self._hooked = HookedPublishing(self)
        self.dropped = 0  # messages, events and replies, by middleware
        self.loop = asyncio.get_running_loop()
        self.steps = Steps(self)
        self.control = Control(self)
        self.turns = TurnTasks(self.loop, record or in_memory()[0])  # what handles messages
        self._handled = self._requests = 0  # messages, and what brought them or fetched replies
        self._observe(metrics, metrics_interval_s)
        self.tasks.spawn(self._sweep(), name="sweep")

    def _observe(self, port: MetricsPort | None, interval_s: float) -> None:
        """Begin to count, and to make spans, where that is asked for."""
        self.metrics = None if port is None else HostMetrics(self, port, interval_s)
        self.meters = None if self.metrics is None else self.metrics.meters
        self.spans = telemetry.active()  # where messages are spans; None: nobody wants them
        if self.metrics is not None:
            self.tasks.spawn(self.metrics.run(), name="metrics")

    def _make_commits(self) -> GroupCommit[Effects, CommitOutcome]:
        self._transactions = 0

        async def commit(batch: Sequence[Effects]) -> Sequence[CommitOutcome | Exception]:
            self._transactions += 1
            outcomes: Sequence[Any]  # with a `StepCommitted` for each step
            try:
                if any(effects.step is not None for effects in batch):
                    told = await self.store.commit_steps(self.host_id, batch)
                    refused = [each.outcome for each in told]
                    outcomes = [
                        each.outcome if effects.step is None else each
                        for effects, each in zip(batch, told, strict=True)
                    ]
                else:
                    outcomes = refused = await self.store.commit(self.host_id, batch)
            except (PayloadError, UnknownRun, ValueError) as error:
                if len(batch) == 1:
                    return [error]
            else:
                self.judged([(e.pool, e.slot, e.epoch) for e in batch], refused)
                return outcomes
            # One of them cannot be written, and nothing was: find it, and write the others.
            return [(await commit([effects]))[0] for effects in batch]

        self.commits = GroupCommit(
            commit, max_batch=MAX_COMMITS, name="host commits", patience_s=PATIENCE_S
        )
        return self.commits

    def now(self) -> float:
        """Return the event loop's time, in seconds."""
        return self.loop.time()

    # What the manager asks

    async def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """Learn the code of apps; see `AppCode.load`."""
        failures = self.code.load(apps)
        self.permanents.look()
        return failures

    async def check(self, app: str) -> str:
        """Return what is wrong with an app here; "": nothing."""
        return await check_app(self, app)

    async def update(self, snapshot: Snapshot, epochs: Mapping[tuple[str, int], int]) -> None:
        """Take the newest snapshot and leases; agents of lost slots leave at once.

        So do those of slots that are leased anew: somebody else may have written their states.
        """
        if snapshot.version < self.channel.snapshot.version:
            return
        before = self.held.held
        same = self.held.update(epochs)
        self._placed = snapshot
        self.parts.taken.placed(snapshot.hosts)
        if before != self.held.held:
            self.leases_changed()
        for agent in self.residents:
            lease = self.lease_of(agent.id)
            if lease in same:
                continue
            if (grace_s := self.departures.grace_of(lease)) is not None:
                self.residents.leave(agent, grace_s)
            else:
                self.residents.lose(agent, anew=lease in self.held)
        self.departures.forget([lease for lease in before if lease not in same])
        self.channel.update(snapshot)
        self.steps.placed(same)
        self.residents.quarantine(snapshot.quarantined)
        self.turns.suspects = snapshot.suspects
        self.turns.proved &= snapshot.suspects.keys()
        if self.held.held.keys() - before.keys():
            self.permanents.look()

    async def release(
        self, pool: str, slots: Sequence[int], grace_s: float, together: bool = False
    ) -> list[int]:
        """Let slots leave within the grace; return those that have, see `Departures.release`.

        What their agents do meanwhile is still written, and nothing after they were returned.
        """
        return await self.departures.release(pool, slots, grace_s, together=together)

    def watch_doors(self, watched: bool) -> None:
        """Look at each message before it reaches its agent, or not any more."""
        self._find = _nobody if watched else self.residents.getter

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """Wait until the runs of an app have ended here; return how many have not.

        Args:
            app: its name.
            cancel: they are cancelled.
            wait_s: the longest wait.
        """
        runs = [active for active in self.runs if app in self.roots.apps_of(active)]
        if cancel:
            for active in runs:
                active.stop(RunStatus.CANCELLED)
        return len(await self.runs.until_ended(runs, wait_s))

    def heartbeat(self) -> dict[str, Any]:
        """Return counters. That it answers at all shows that the event loop turns."""
        return {
            "host": self.host_id,
            "pid": os.getpid(),
            "agents": len(self.residents),
            "runs": len(self.runs),
            "runs_waiting": self.runs.waiting,
            "load": self._load(),
            "slots": len(self.held),
            "missed_leases": self.held.missed(),
            "handled": self._handled,
            "requests": self._requests,
            "commits": self._transactions,
            "dropped": self.dropped,
            "threads_busy": self.threads.busy,
            "threads_waiting": self.threads.waiting,
            "blocked": self._watchdog.blocked if self._watchdog else 0,
            "background_errors": self.background.errors,
            "missed_ticks": self.background.missed_ticks,
            "dead_letters": self.dead_letters.count,
            "dead_letters_by_reason": self.dead_letters.by_reason(),
            "undelivered": self.parts.undelivered,
            "dropped_traces": self.runs.traces.dropped,
            "proved": [str(agent) for agent in self.turns.proved],
            "version": self.channel.snapshot.version,
            "code": dict(self.code.digests),
        }

    def _load(self) -> int:
        """Count the messages for agents that are under way or wait here, runs among them."""
        return sum(t.envelope.kind in _LOAD for sink in self.sinks() for t in sink.active.values())

    def sinks(self) -> list[ReplySink]:
        """Return where what is under way here is answered to."""
        return [self.link, self.steps, *self._outboxes.values()]

    async def stop(self, grace_s: float) -> None:
        """Finish what is under way within the grace, then let go of everything."""
        end = self.now() + grace_s
        await self.departures.leave_all(grace_s)
        self.held.clear()
        await self._until_passed_on(end)
        await self._until_fetched()
        self.steps.reports.tell_all()
        self._close_surroundings()
        await self.sessions.close()
        await self.runs.write_rows()
        await self.runs.traces.close()
        await self.runs.close()
        await self._dispatches.close()
        await self.channel.close()
        await self.turns.close()
        await self.dead_letters.close()
        await self.tasks.close()
        await self.commits.close()
        if self.metrics is not None:
            await self.metrics.report()

    async def _until_passed_on(self, end: float) -> None:
        """Wait for what messages have set off that were handled here: it is reported through here.

        Args:
            end: when to wait no longer, in seconds of the event loop's clock.
        """
        while any(t.scope is not None for sink in self.sinks() for t in sink.active.values()):
            if self.now() > end:
                return
            await asyncio.sleep(_FETCH_LOOK_S)

    async def _until_fetched(self) -> None:
        """Wait for the senders to fetch the replies that are there; the process ends after this."""
        end = self.now() + _FETCH_S
        while any(outbox.unfetched for outbox in self._outboxes.values()):
            if self.now() > end:
                return
            await asyncio.sleep(_FETCH_LOOK_S)

    def _close_surroundings(self) -> None:
        self.background.close()
        self.parts.close()
        self.steps.close()
        self.threads.close()
        if self._watchdog is not None:
            self._watchdog.close()

    async def abandon(self) -> None:
        """End all tasks at once, as the end of the process would; nothing more is written."""
        self.held.clear()
        self._close_surroundings()
        await self.sessions.close()
        await self.runs.close()
        await self._dispatches.close()
        await self.channel.close()
        await self.turns.close()
        await self.dead_letters.abandon()
        await self.tasks.close()

    # Messages from other processes

    async def deliver(self, packet: Packet) -> Packet:
        """Take a batch; see `ports.HostPort.deliver`."""
        request = Frame.unpack(packet)
        outbox = self._outbox(request)
        new = outbox.is_new(request)
        if new is None:
            return NOTHING
        outbox.acknowledged(request)
        envelopes = request.envelopes() if new else []
        delivery = outbox.begin({e[0] for e in envelopes if e[1] not in _UNANSWERED})
        now, cancelled, find = self.now(), outbox.cancelled, self._find
        for envelope in envelopes:
            if cancelled and envelope.id in cancelled:
                outbox.reply(envelope.id, ReplyKind.CANCELLED)
            elif envelope[1] == _EVENT and (agent := find(envelope[2:4])) is not None:
                self._handled += 1
                agent.offer(Turn(envelope, outbox, now))
            else:
                self.accept(envelope, outbox, now)
        only_runs = all(envelope[1] in _RUNS for envelope in envelopes)
        await outbox.after_grace(delivery, RUN_GRACE_S if only_runs else GRACE_S)
        return outbox.answer(request)

    async def collect(self, packet: Packet) -> Packet:
        """Wait for replies; see `ports.HostPort.collect`."""
        request = Frame.unpack(packet)
        if request.link not in self._outboxes:
            return FORGOTTEN  # nobody fetches replies before something was delivered
        outbox = self._outbox(request)
        outbox.acknowledged(request)
        return outbox.take() if await outbox.until_ready(request.number) else NOTHING

    def _outbox(self, request: Frame) -> Outbox:
        self._requests += 1
        outbox = self._outboxes.get(request.link)
        if outbox is None:
            outbox = self._outboxes[request.link] = Outbox(self.now())
        outbox.last_used = self.now()
        return outbox

    # Messages, from wherever

    def accept(self, envelope: Envelope, sink: ReplySink, now: float) -> None:
        """Take a message in that came `now`; its reply goes to `sink`."""
        kind = envelope.kind
        if kind in _FOR_AGENTS:
            # A plain tuple is equal to an `AgentId`, and made in a tenth of the time.
            self.take_in((envelope.type, envelope.key), Turn(envelope, sink, now))
            return
        self._handled += 1
        if kind in _UNANSWERED:
            self._about(envelope, sink)
        else:
            turn = Turn(envelope, sink, now)
            if kind in OF_HOSTS or not self._refused(turn, ReplyKind.REFUSED):
                if self.departures.closing and self.departures.holds_back(turn):
                    turn.reply(ReplyKind.REFUSED)
                else:
                    self.control.handle(turn)

    def take_in(self, agent_id: tuple[str, str], turn: Turn) -> None:
        """Take in a message for an agent."""
        self._handled += 1
        agent = self._find(agent_id)
        if agent is None:
            self.deliver_turn(turn)
        else:
            agent.offer(turn)

    def _about(self, envelope: Envelope, sink: ReplySink) -> None:
        """Take in what a sender says about a message that is under way."""
        message_id, _, parts = envelope.name.partition(":")
        turn = sink.active.get(int(message_id))
        if turn is None:
            # It has ended meanwhile, or is yet to come.
            if envelope.kind == _CANCEL and isinstance(sink, Outbox):
                sink.cancelled_before(int(message_id))
        elif envelope.kind == _CANCEL:
            self.cancel(turn)
        elif envelope.kind == _AWAITED:
            turn.awaited_by(envelope.payload)
            if (agent := self.find(turn.envelope.target)) is not None:
                agent.reconsider(turn)
        elif turn.writer is not None:
            turn.writer.read(int(parts))

    def deliver_turn(self, turn: Turn) -> None:
        """Hand a message to its agent, which is activated if need be."""
        agent_id = turn.envelope.target
        if self.departures.closing and self.departures.holds_back(turn):
            turn.reply(ReplyKind.MOVED)
            return
        agent = self.find(agent_id)
        if agent is None and turn.envelope.chain:
            agent = self.residents.waits_for(turn)
        if agent is None:
            if self._refused(turn) or self.launching.refuses(turn):
                return
            if agent_id.type not in self.types:  # the root of a run: an address, and no agent
                turn.fail(NoHandler(str(agent_id), turn.envelope.name))
                return
            agent = self.residents.activate(agent_id, self.types[agent_id.type].type)
        agent.offer(turn)

    def _refused(self, turn: Turn, elsewhere: ReplyKind = ReplyKind.MOVED) -> bool:
        """Answer a message that this host cannot take; False when it can.

        Args:
            turn: the message.
            elsewhere: what to answer when another host leases the slot.
        """
        agent_id = turn.envelope.target
        known = agent_id.type in self.types or is_root(agent_id.type)
        if not self.leases(agent_id) and (known or self._placed.view(agent_id.type)):
            turn.reply(elsewhere)  # also what only hosts of another pool know
            return True
        if not known and agent_id.type in self.code.broken:
            turn.fail(AgentFailed(str(agent_id), self.code.broken[agent_id.type]))
            return True
        if not known:
            turn.fail(UnknownAgentType(agent_id.type, tuple(sorted(self.types))))
            return True
        return False

    def cancel(self, turn: Turn) -> None:
        """Cancel what handles a message, once; its sender hears when that has ended."""
        if turn.cancelled:
            return
        turn.cancelled = True
        if turn.task is not None:
            turn.task.cancel()
            return
        if turn.scope is not None:
            self.loop.call_soon(self._abandon, turn)  # not at once: chains may be long
            return
        if (agent := self.find(turn.envelope.target)) is not None:
            agent.withdraw(turn)
        turn.reply(ReplyKind.CANCELLED)

    def called_back(self, message: Message) -> CalledBack | None:
        """Return the handlers that a call has come back with to its own sender."""
        return called_back(self, message)

    def _abandon(self, turn: Turn) -> None:
        """Cancel what a message has set off whose handler has ended."""
        if turn.scope is not None and turn.envelope.id in turn.sink.active:
            turn.scope.abandon(self.channel, turn.given_up)

    # Leases

    def epoch(self, pool: str, slot: int) -> int:
        """Return the epoch with which something may be written.

        Raises:
            Fenced: this host does not hold it.
        """
        epoch = self.held.epoch((pool, slot))
        if epoch is None:
            raise Fenced
        return epoch

    def leases_changed(self) -> None:
        """Let what is known of agents be looked up anew."""
        self.launching.leases_changed()
        self.failures.leases_changed()
        self.sessions.leases_changed()

    def leases(self, agent_id: AgentId) -> bool:
        """Whether an agent belongs to this host."""
        return self.lease_of(agent_id) in self.held

    def judged(
        self, writes: Iterable[tuple[str, int, int]], outcomes: Iterable[CommitOutcome]
    ) -> None:
        """Let go of what the Store refused: another host leases it, and nobody told this one.

        Args:
            writes: pool, slot and epoch of each.
            outcomes: of each.
        """
        fenced = CommitOutcome.FENCED
        refused = [w for w, outcome in zip(writes, outcomes, strict=True) if outcome is fenced]
        lost = {
            (pool, slot) for pool, slot, epoch in refused if self.held.fenced((pool, slot), epoch)
        }
        if not lost:
            return
        extra = {"action": "leases_lost", "host": self.host_id}
        logger.warning("%d slots are leased to other hosts", len(lost), extra=extra)
        self.leases_changed()
        self.departures.forget(lost)
        for agent in self.residents:
            if self.lease_of(agent.id) in lost:
                self.residents.let_go(agent)

    def finishes(self, agent_id: AgentId) -> bool:
        """Whether an agent's slot was given up, and what it does may still be written."""
        return self.held.ending(self.lease_of(agent_id))

    def lease_of(self, agent_id: AgentId) -> Lease:
        """Return the slot of an agent, by the present leases."""
        return self.pool_of(agent_id) or "", slot_of(agent_id)

    def pool_of(self, agent_id: AgentId) -> str | None:
        """Return the pool in which an agent lives by the present leases."""
        return self._placed.pool_of(agent_id) if self._placed.view(agent_id.type) else None

    async def commit_states(self, agent_id: AgentId, states: Sequence[StateWrite]) -> None:
        """Commit what a handler changed.

        Raises:
            Fenced: the slot is leased to another host; nothing was written.
        """
        if not states:
            return
        pool, slot = self.pool_of(agent_id) or "", slot_of(agent_id)
        effects = Effects(pool, slot, self.epoch(pool, slot), states)
        if await self.commits.submit(effects) is not CommitOutcome.COMMITTED:
            raise Fenced

    # Agents in memory

    def find(self, agent_id: AgentId) -> Incarnation | None:
        """Return an agent that is in memory."""
        return self.residents.find(agent_id)

    def resident(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents in memory, the most recently used first."""
        return self.residents.list(agent_type, limit)

    async def _sweep(self) -> None:
        """Evict agents that have been idle for long, and outboxes of senders that are gone."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.residents.evict_idle()
            self.steps.sweep(self.now())
            self.sessions.sweep(self.now())
            self._sweep_outboxes(self.now())

    def _sweep_outboxes(self, now: float) -> None:
        for name, outbox in list(self._outboxes.items()):
            silent_s = now - outbox.last_used
            if silent_s > _READER_GONE_S:
                # A sender that waits asks again every 20 s: this one is gone. Its calls go on, for
                # their effects; nobody will read its streams, which wait for that.
                for turn in [t for t in outbox.active.values() if t.writer is not None]:
                    self.cancel(turn)
            if not outbox.disposable:
                outbox.busy_at = now
            elif min(silent_s, now - outbox.busy_at) > patience_s(outbox):
                del self._outboxes[name]

    # What handlers ask (Surroundings)

    def publish(self, event: Event, context: Context) -> Event:
        """Send an event to its subscribers; it belongs to the message that is being handled.

        Returns:
            The event as it went out.
        """
        if self._publish_hooks and context.agent.type in self._publish_hooks:
            return self._hooked.publish(event, context)
        return self.send_event(event, context)

    def send_event(self, event: Event, context: Context) -> Event:
        """Send an event that has passed its app's middleware, if there is any."""
        if isinstance(event, Ask):
            return self.asking.ask(event, context)
        return self.publisher.publish(event, context)

    async def dispatch(
        self, event: Event, context: Context, **options: Unpack[DispatchOptions]
    ) -> EventRun:
        """Begin a run for an agent."""
        sent = event.caused_by(
            correlation_id="",
            causation_id=context.event.event_id if context.event else None,
            source=str(context.agent),
        )
        return await self._dispatches.dispatch(sent, sender=context.agent, **options)

    def progress(self, context: Context, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to the run that a message belongs to."""
        self.telling.tell(context, kind, data)

    def say(self, context: Context, text: str) -> None:
        """Add a piece of text to the run that a message belongs to."""
        self.telling.text(context, text)

    def spend(self, context: Context, spent: Usage) -> None:
        """Count what a handler has used against the budget of its run."""
        run = context.run
        if run is None:
            return
        if run[0] in STEPS:
            scope_of(context).spend(spent)
        else:
            self.parts.spend(run, spent, scope_of(context))

    def turn(self, context: Context) -> AbstractAsyncContextManager[None]:
        """Return a turn for a loop."""
        return self.background.turn(context)

    async def run_sync(self, function: Callable[[], R]) -> R:
        """Run blocking code in one of this host's threads."""
        return await self.threads.run(function)

    def ends(self, agent: AgentId) -> bool:
        """Whether an agent is shut down, or has failed: it does not only leave memory."""
        found = self.find(agent)
        return found is not None and found.refusal is not None

    def run_async(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on this host's event loop, for a thread that waits for it."""
        return wait_for(work, self.loop)

    def log_agent_error(self, agent_id: AgentId, action: str, error: BaseException) -> None:
        """Log an error of an agent that reaches nobody else."""
        extra = {"action": action, "agent": str(agent_id)}
        logger.error("%s: %s", agent_id, action, exc_info=error, extra=extra)
