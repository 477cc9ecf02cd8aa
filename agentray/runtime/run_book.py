"""The runs that are under way on this host."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agentray.config import MAX_ATTEMPTS
from agentray.core.lifecycle import TERMINAL
from agentray.core.run_gate import RunGate
from agentray.errors import Fenced, PayloadError, StoreUnavailable, UnknownEventType, UnknownRun
from agentray.event_loop import time_of_day
from agentray.events import Event
from agentray.ids import AgentId, slot_of
from agentray.protocol.budgets import Budget
from agentray.protocol.cursors import Cursor
from agentray.protocol.envelope import Envelope, Failure, Kind, Outcome
from agentray.protocol.event_runs import Recording, RunOptions, is_root
from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.protocol.snapshot import PoolView
from agentray.runtime.active_run import CONSEQUENCES, ActiveRun, end_of
from agentray.runtime.group_commit import PATIENCE_S, GroupCommit
from agentray.runtime.late_rows import LateRows
from agentray.runtime.requests import request_of
from agentray.runtime.run_cursor import events_after
from agentray.runtime.run_progress import RunProgress
from agentray.runtime.step_run import StepRun, make_active
from agentray.runtime.taking_up import TakingUp
from agentray.runtime.tasks import TaskSet
from agentray.runtime.trace_writer import SPAN_FIELDS, TraceWriter
from agentray.runtime.turn import Turn
from agentray.store.base import (
    Admission,
    CommitOutcome,
    Effects,
    EndedRun,
    NewRun,
    Store,
    StoredRun,
)
from agentray.store.codec import check_run
from agentray.store.run_progress import Suspension

if TYPE_CHECKING:
    from agentray.runtime.channel import Channel
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_STORE_RETRY_S = 0.5
_MAX_EVENTS = 1000  # in one answer
_LAST_ROWS_S = 5.0
_NEWS_S = 3.0  # by then every host that is alive has heard of a move


class RunBook:
    """Starts, joins, watches, stops and ends runs on a host."""

    def __init__(
        self,
        host: Host,
        commits: GroupCommit[Effects, CommitOutcome],
        *,
        limit: int | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """Make an empty book.

        Args:
            host: whose.
            commits: the host's commits, which are gathered.
            limit: most runs that are worked on at once; the others wait in order. None: no limit.
            max_attempts: of a run that does not say it.
        """
        self.host_id = host.host_id
        self._host = host
        self.max_attempts = max_attempts
        self._store = host.store
        self._commits = commits
        self._admissions: GroupCommit[NewRun, Admission]
        self._admissions = GroupCommit(
            host.store.admit, name="admission of runs", patience_s=PATIENCE_S
        )
        # A run that was let go is the business of whoever leases its agent.
        self._tasks = TaskSet("runs", expected=(Fenced,))
        self._late = LateRows(host.store, self._tasks)
        self.traces = TraceWriter(host.store)
        self._admitting: dict[str, asyncio.Future[None]] = {}  # by id
        self.begun = 0  # attempts
        self.ended: Counter[str] = Counter()  # runs, by status
        self._active: dict[str, ActiveRun] = {}
        self._keys: dict[str, ActiveRun] = {}  # the same, as their messages know them
        self._durable: dict[str, ActiveRun] = {}  # of these, those in the Store
        self._gate: RunGate[ActiveRun, Callable[[], None]] = RunGate(limit)
        self.taking_up = TakingUp(self)
        self.progress = RunProgress(self)

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[ActiveRun]:
        return iter(list(self._active.values()))

    def of_key(self, key: str) -> ActiveRun | None:
        """Return the attempt that is under way here and has this `RunKey`."""
        return self._keys.get(key)

    def get(self, run_id: str) -> ActiveRun | None:
        """Return a run that is under way here."""
        return self._active.get(run_id)

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], name: str | None = None
    ) -> asyncio.Task[Any]:
        """Run something that belongs to a run under way."""
        return self._tasks.spawn(coroutine, name=name)

    @property
    def durable(self) -> list[ActiveRun]:
        """Those of the runs that are in the Store."""
        return list(self._durable.values())

    def waits(self, active: ActiveRun) -> bool:
        """Whether a run waits because too many others are under way here."""
        return self._gate.waits(active)

    def being_admitted(self, run_id: str) -> asyncio.Future[None] | None:
        """Return what is done when a run is kept that is on its way there; None: it is not."""
        return self._admitting.get(run_id)

    # Beginning

    async def admit(self, new: NewRun) -> Admission:
        """Keep a run, together with others.

        Raises:
            StoreUnavailable: it is not kept.
            PayloadError: its input has no JSON, or a text has a NUL.
        """
        check_run(new)  # what is wrong with one must not refuse the others
        admitted = self._admitting[new.id] = asyncio.get_running_loop().create_future()
        try:
            return await self._admissions.submit(new)
        finally:
            # Who waits for this goes on after the caller, which begins it without a pause.
            self._admitting.pop(new.id, None)
            admitted.set_result(None)

    def begin(
        self,
        stored: StoredRun,
        *,
        event: Event | None = None,
        lost: str = "",
    ) -> ActiveRun:
        """Start an attempt; a run that is under way here is returned as it is.

        Args:
            stored: the run, which is in the Store.
            event: its root event, where it is at hand; None: it is read from the run's input.
            lost: why the attempt before came to nothing; "": there was none.
        """
        known = self._active.get(stored.run.id)
        if known is not None:
            return known
        return self._begin(make_active(stored, self, lost=lost), event)

    def begin_once(self, stored: StoredRun, event: Event, options: RunOptions) -> ActiveRun:
        """Start a run that is not in the Store before its end; one under way is returned as it is.

        Args:
            stored: the run, as it would be kept.
            event: its root event.
            options: how it is treated.
        """
        known = self._active.get(stored.run.id)
        if known is not None:
            return known
        return self._begin(ActiveRun(stored, self, durable=False, options=options), event)

    def _begin(self, active: ActiveRun, event: Event | None) -> ActiveRun:
        stored = self.note(active).stored
        self.begun += 1
        if stored.run.session is not None:
            self._host.sessions.begun(active)
        if (timeout_s := active.options.timeout_s) is not None:
            active.stop_in(_time_left(stored, timeout_s))

        if is_root(active.agent.type):
            self._host.roots.accepted(active, event)
        start = partial(self._start, active, event)
        if self._gate.enter(active, start):
            start()
        return active

    def _start(self, active: ActiveRun, event: Event | None) -> None:
        active.started_at = time_of_day()
        active.begin_to_count()
        if active.stored.answers and isinstance(active, StepRun):
            active.go_on()
        elif active.stored.answers:
            self._host.asking.resume(active)
        elif is_root(active.stored.agent.type):
            self._host.roots.publish(active, event)
        elif isinstance(active, StepRun):
            active.begin_prompt()
        else:
            prompt = _prompt(active)
            if prompt is not None:
                self._host.deliver_turn(Turn(prompt, active, self._host.now(), run=active))

    def note(self, active: ActiveRun) -> ActiveRun:
        """Take a run on the book."""
        run_id = active.run.id
        if (before := self._active.get(run_id)) is not None:
            self._keys.pop(before.key, None)
        self._active[run_id] = self._keys[active.key] = active
        if active.durable:
            self._durable[run_id] = active
            self.progress.begin()
        return active

    @property
    def waiting(self) -> int:
        """How many runs wait because too many others are under way here."""
        return len(self._gate)

    def budget_of(self, agent: AgentId, options: RunOptions) -> Budget | None:
        """Return what a run may use: as it says itself, else as the type of its agent does."""
        given = None if options.budget is None else Budget.model_validate(dict(options.budget))
        loaded = self._host.types.get(agent.type)
        usual = None if loaded is None else loaded.type.options.budget
        if given is None or usual is None:
            return given or usual
        return given.over(usual)

    def lost_parts(self, active: ActiveRun, outcome: Outcome) -> Failure | None:
        """Return the error of a run that came to nothing because a part of it was lost.

        An agent that has moved took with it what it had gathered: that nothing failed means nothing
        then. Where nobody noted who took part, whoever has moved may have.
        """
        if (
            outcome.answer is not None
            or outcome.questions
            or any(e.type not in CONSEQUENCES for e in outcome.errors)
        ):
            return None
        if active.recording == Recording.NOTHING:
            moved = not same_places(active.places, self.places())
        else:
            moved = any(self._moved(outcome.spans))
        return Failure("AgentMoved", "an agent that took part has moved", "", ()) if moved else None

    async def until_sure(self, active: ActiveRun, outcome: Outcome) -> None:
        """Wait, for a while, as long as it is this host that has not heard of a move yet.

        Agents that have just come to another host took part there before this one's snapshot says
        that they live there.
        """
        channel = self._host.channel
        try:
            async with asyncio.timeout(_NEWS_S):
                while self.lost_parts(active, outcome) and self.in_doubt(active, outcome):
                    await channel.newer_than(channel.snapshot.version)
        except TimeoutError:
            return

    def in_doubt(self, active: ActiveRun, outcome: Outcome) -> bool:
        """Whether those that seem to have moved may have come to where they took part."""
        if active.recording == Recording.NOTHING:
            return False
        return all(self._may_have_come(active, *each) for each in self._moved(outcome.spans))

    def _may_have_come(self, active: ActiveRun, agent: AgentId, host: str) -> bool:
        if host not in self._host.channel.snapshot.hosts and not self._host.parts.taken.is_news(
            host
        ):
            return False  # it is gone
        pool = active.places.get(self._host.pool_of(agent) or "")
        return pool is None or pool.slots[slot_of(agent)] != host  # it was there before

    def places(self) -> Mapping[str, PoolView]:
        """Return where agents live now."""
        return self._host.channel.snapshot.pools

    def _moved(self, spans: Sequence[tuple[Any, ...]]) -> Iterator[tuple[AgentId, str]]:
        """Return those who took part at a host where they do not live, with that."""
        agent, host = (SPAN_FIELDS.index(name) for name in ("agent", "host"))
        for span in spans:
            who = AgentId.parse(span[agent])
            if self._lives_on(who) != span[host]:
                yield who, span[host]

    def _lives_on(self, agent: AgentId) -> str | None:
        try:
            host = self._host.channel.snapshot.host_of(agent)
        except KeyError:
            return None
        return host.id if host else None

    def lease_of(self, active: ActiveRun) -> tuple[str, int, int]:
        """Return pool, slot and epoch with which a run is written.

        Raises:
            Fenced: this host does not hold them.
        """
        stored = active.stored
        pool = self._host.pool_of(stored.agent) or stored.pool  # it may have moved since
        return pool, stored.slot, self._host.epoch(pool, stored.slot)

    # While it runs

    async def events(self, run_id: str, after: int, wait_s: float) -> list[RunEvent]:
        """Return events above `after`, waiting for the first while the run is under way.

        Of a run in the Store only those that are there.
        """
        active = self._active.get(run_id)
        if active is not None:
            await active.log.after(after, wait_s)
            shown = active.log.shown(after, _MAX_EVENTS, live=False)
            if shown is not None:
                return shown
        if (late := self._late.find(run_id)) is not None:
            return list(late[1][after + 1 :][:_MAX_EVENTS])
        return await self._store.run_events(run_id, after=after, limit=_MAX_EVENTS)

    async def live_events(self, run_id: str, cursor: Cursor, wait_s: float) -> list[RunEvent]:
        """Return events that come after those seen, also provisional ones that are not kept yet.

        Args:
            run_id: of the run.
            cursor: the last event that was seen.
            wait_s: the longest wait for the first one.
        """
        active = self._active.get(run_id)
        if active is None and self._late.find(run_id) is not None:
            return await self.events(run_id, cursor.offset, wait_s)
        if active is None or cursor.attempt not in (None, active.run.attempt):
            return await events_after(self._store, run_id, cursor, _MAX_EVENTS)
        await active.log.after(cursor.offset, wait_s, live=True)
        shown = active.log.shown(cursor.offset, _MAX_EVENTS, live=True)
        if shown is None:
            return await self._store.run_events(run_id, after=cursor.offset, limit=_MAX_EVENTS)
        return shown

    async def find(self, run_id: str) -> ActiveRun | Run:
        """Return a run that is under way here, or as it is.

        Raises:
            UnknownRun: there is none of this id.
        """
        if (active := self._active.get(run_id)) is not None:
            return active
        if (late := self._late.find(run_id)) is not None:
            return late[0]
        return await self.look(run_id)

    async def look(self, run_id: str) -> Run:
        """Return a run as the Store has it.

        Raises:
            UnknownRun: there is none of this id.
        """
        stored = await self._store.get_run(run_id)
        if stored is None:
            raise UnknownRun(run_id)
        return stored.run

    async def cancel(self, run_id: str) -> ActiveRun | Run:
        """Begin to end a run as cancelled; one that has ended is returned as it is.

        Raises:
            UnknownRun: there is none of this id.
        """
        found = await self.find(run_id)
        if isinstance(found, Run):
            if found.status in TERMINAL:
                return found
            found = await self._take_to_end(run_id)
        if isinstance(found, ActiveRun):
            found.stop(RunStatus.CANCELLED)
        return found

    async def _take_to_end(self, run_id: str) -> ActiveRun | Run:
        """Take up a run that no host works on, only to end it."""
        stored = await self._store.get_run(run_id)
        if stored is None:
            raise UnknownRun(run_id)
        if (active := self._active.get(run_id)) is not None:
            return active
        if stored.run.status in TERMINAL:
            return stored.run
        return self.note(make_active(stored, self, to_end=True))

    async def until_ended(self, runs: Sequence[ActiveRun], wait_s: float) -> Sequence[ActiveRun]:
        """Wait until runs have ended here; return those that have not after `wait_s`."""
        loop = asyncio.get_running_loop()
        ends: dict[ActiveRun, asyncio.Future[None]] = {}
        for active in runs:
            end = ends[active] = loop.create_future()
            active.on_end(partial(_note_end, end))
        if ends:
            await asyncio.wait(ends.values(), timeout=wait_s)
        return [active for active, end in ends.items() if not end.done()]

    async def drain(self, grace_s: float, which: Callable[[AgentId], bool]) -> None:
        """Let event runs end whose roots leave this host; let go of those that have not.

        The runs of prompts end, or leave, with their agents.
        """
        for active in [run for run in self if isinstance(run, StepRun) and which(run.agent)]:
            active.lose()  # its work is done elsewhere, too
        runs = [run for run in self if run.by_scope and which(run.agent)]
        for active in await self.until_ended(runs, grace_s):
            self._host.parts.abandon(active)
            active.lose()

    def stop_parts(self, active: ActiveRun) -> None:
        """Cancel what belongs to a run, on all hosts."""
        self._host.parts.stop(active)

    def note_unfinished(self, active: ActiveRun) -> None:
        """Tell that a run ends with its result, and what is still under way is cancelled."""
        extra = {"action": "rest_cancelled", "run": active.run.id}
        logger.info("what run %s still had under way is cancelled", active.run.id, extra=extra)

    async def until_quiet(self, active: ActiveRun, wait_s: float) -> None:
        """Wait until nothing of a run that is durable per step is under way on any host."""
        await self._host.parts.until_quiet(active, wait_s)

    @property
    def host(self) -> Host:
        """Whose it is."""
        return self._host

    @property
    def store(self) -> Store:
        """Where runs are kept."""
        return self._store

    def cancel_turn(self, turn: Turn) -> None:
        """Cancel a run's prompt."""
        self._host.cancel(turn)

    @property
    def channel(self) -> Channel:
        """The host's way to agents."""
        return self._host.channel

    # Ending

    async def commit_end(self, active: ActiveRun, effects: Effects, run: Run) -> Run | None:
        """Commit a run's end; return the run as it ended, None when it was lost to another host.

        While the Store is away it is tried again: work that is done is not thrown away.

        Raises:
            Fenced: the agent's state must not be used any more either.
        """
        await self.progress.save_usage([active])
        await self.progress.until_written(active)
        outcome = await self.commit(effects)
        self.forget(active)
        match outcome:
            case CommitOutcome.COMMITTED:
                self.ended[run.status.value] += 1
                if run.status is RunStatus.DEAD:
                    self._host.dead_letters.dead_run(active.agent)
                return run
            case CommitOutcome.ALREADY_ENDED:
                stored = await self._store.get_run(run.id)
                return stored.run if stored else None
            case CommitOutcome.FENCED | CommitOutcome.GONE:
                active.lose()
                raise Fenced

    async def commit_wait(
        self, active: ActiveRun, effects: Effects, suspension: Suspension, run: Run
    ) -> Run | None:
        """Let a run wait; return it as it is then, None when it was lost to another host.

        Raises:
            Fenced: the agent's state must not be used any more either.
        """
        await self.progress.save_usage([active])
        await self.progress.until_written(active)
        while True:
            try:
                outcome = await self._store.suspend_run(self.host_id, effects, suspension)
                break
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "commit_waits"})
                await asyncio.sleep(_STORE_RETRY_S)
        self.forget(active)
        match outcome:
            case CommitOutcome.COMMITTED:
                return run
            case CommitOutcome.ALREADY_ENDED:
                stored = await self._store.get_run(run.id)
                return stored.run if stored else None
            case CommitOutcome.FENCED | CommitOutcome.GONE:
                active.lose()
                raise Fenced

    async def commit(self, effects: Effects) -> CommitOutcome:
        """Commit effects; while the Store is away it is tried again."""
        while True:
            try:
                return await self._commits.submit(effects)
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "commit_waits"})
                await asyncio.sleep(_STORE_RETRY_S)

    def forget(self, active: ActiveRun) -> None:
        """Take a run off the book; the one that has waited for the longest may begin."""
        if self._active.get(active.run.id) is active:
            del self._active[active.run.id]
            self._keys.pop(active.key, None)
            self._durable.pop(active.run.id, None)
            self._host.parts.forget(active)
        start = self._gate.leave(active)
        if start is not None:
            start()

    def keep_later(self, active: ActiveRun, run: Run) -> None:
        """Write a run that was not in the Store, in the background."""
        self.ended[run.status.value] += 1
        events = () if active.recording == Recording.NOTHING else tuple(active.log.kept())
        self._late.add(run, events, partial(_ended_row, active, run, events))

    async def close(self) -> None:
        """Let go of all runs; they stay unfinished in the Store, for another host."""
        self._gate.close()
        for active in list(self._active.values()):
            active.lose()
        await self.traces.abandon()
        await self._tasks.close()

    async def write_rows(self) -> None:
        """Write what waits to be written in the background, unless the Store is away for long."""
        try:
            async with asyncio.timeout(_LAST_ROWS_S):
                await self._late.flush()
        except TimeoutError:
            logger.error("rows of ended runs are lost", extra={"action": "rows_lost"})


def _ended_row(active: ActiveRun, run: Run, events: tuple[RunEvent, ...]) -> EndedRun:
    """Return what is kept of a run that was not in the Store before its end."""
    stored = active.stored
    new = NewRun(
        run.id,
        stored.agent,
        stored.pool,
        stored.slot,
        active.given(),
        run.correlation_id,
        run.created_at,
        stored.owner,
    )
    return EndedRun(new, end_of(run), events, run.usage)


def _note_end(end: asyncio.Future[None], run: Run | None) -> None:
    del run
    if not end.done():
        end.set_result(None)


def same_places(one: Mapping[str, PoolView], other: Mapping[str, PoolView]) -> bool:
    """Whether every agent lives where it lived."""
    return one is other or {p.name: p.slots for p in one.values()} == {
        p.name: p.slots for p in other.values()
    }


def _time_left(stored: StoredRun, timeout_s: float) -> float:
    """Return how long a run may take; what was begun before needs the clocks of two machines."""
    if stored.run.attempt == 1 and not stored.answers:
        return timeout_s
    run = stored.run
    gone = time_of_day() - (run.not_before or run.created_at)
    return max(0.0, timeout_s - gone.total_seconds())


def _prompt(active: ActiveRun) -> Envelope | None:
    """Return the message that asks the agent; None: it cannot be made, which ends the run."""
    correlation_id = active.conversation
    try:
        event = request_of(active.run, active.stored.input, correlation_id)
    except (PayloadError, UnknownEventType) as error:
        active.settled(Outcome(errors=(Failure(type(error).__name__, str(error), "", ()),)))
        return None
    agent = AgentId(*active.agent)
    return Envelope(
        id=1,
        kind=Kind.EVENT,
        type=agent.type,
        key=agent.key,
        name=event.event_type,
        payload=event,
        correlation_id=correlation_id,
        root=agent,
        trace_context=active.trace_context,
        run=active.key,
        access=active.options.access,
    )
