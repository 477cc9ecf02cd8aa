"""The store in memory: the same contract without a database, for tests of agents and apps.

It keeps JSON as text, as PostgreSQL does, so nothing handed in or out is shared with it. No method
awaits anything, which makes each of them atomic.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import TypeVar

from agentray.core.owners import tenant_of
from agentray.errors import UnknownRun
from agentray.ids import AgentId
from agentray.protocol.budgets import Usage
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import TraceSummary
from agentray.store.base import (
    Admission,
    AppRow,
    CommitOutcome,
    Effects,
    EndedRun,
    HostRow,
    LaunchedAgent,
    NewRun,
    PoolRow,
    SlotLease,
    StateWrite,
    StoredRun,
    queued_run,
)
from agentray.store.codec import (
    KEY_LIFETIME,
    EncodedEnd,
    Touch,
    check_leases,
    check_run,
    check_subscription,
    check_text,
    decode,
    decode_event,
    decode_models,
    encode,
    encode_object,
    errors_of,
    gap,
    progress_of,
    touch_of,
    touches,
)
from agentray.store.memory_continuations import MemoryContinuations
from agentray.store.memory_jobs import MemoryJobs
from agentray.store.memory_keys import MemoryKeys
from agentray.store.memory_launched import MemoryLaunched
from agentray.store.memory_leadership import MemoryLeadership
from agentray.store.memory_letters import MemoryLetters
from agentray.store.memory_orders import MemoryOrders
from agentray.store.memory_retention import MemoryRetention
from agentray.store.memory_run_ends import MemoryRunEnds
from agentray.store.memory_run_progress import MemoryRunProgress
from agentray.store.memory_schedules import MemorySchedules
from agentray.store.memory_sessions import MemorySessions
from agentray.store.memory_steps import MemorySteps
from agentray.store.memory_supervision import MemorySupervision
from agentray.store.memory_traces import MemoryTraces
from agentray.store.memory_webhooks import MemoryWebhooks
from agentray.store.orders import Order, OrderKind

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as it is kept here."""

    new: NewRun
    input: str
    status: RunStatus = RunStatus.QUEUED
    attempt: int = 1
    events: tuple[str, ...] = ()
    started_at: datetime | None = None
    end: EncodedEnd | None = None
    cancel_requested: datetime | None = None
    delayed: bool = False  # it is to begin later, and no host has begun it
    questions: str | None = None
    answers: str | None = None
    usage: Usage | None = None
    host: str = ""  # that moved it to running

    @property
    def held(self) -> bool:
        """Whether it waits for its turn in a session."""
        return self.delayed and self.new.session is not None and self.end is None

    @property
    def run(self) -> Run:
        """It as others see it."""
        end = self.end
        return queued_run(self.new).model_copy(
            update={
                "status": self.status,
                "result": decode(end.result) if end else None,
                **errors_of(self.status, end.error if end else None),
                "attempt": self.attempt,
                "started_at": self.started_at,
                "finished_at": end.finished_at if end else None,
                **progress_of(self.status, self.questions, self.usage),
            }
        )

    @property
    def stored_run(self) -> StoredRun:
        """It with what a host needs."""
        new = self.new
        return StoredRun(
            run=self.run,
            agent=new.agent,
            pool=new.pool,
            slot=new.slot,
            input=decode(self.input),
            events=len(self.events),
            owner=new.owner,
            cancelled=self.cancel_requested is not None,
            delayed=self.delayed,
            questions=decode_models(Question, self.questions),
            answers=decode_models(Answer, self.answers),
        )


class MemoryStore(
    MemoryLaunched,
    MemoryTraces,
    MemoryContinuations,
    MemoryJobs,
    MemoryKeys,
    MemorySteps,
    MemoryLetters,
    MemoryLeadership,
    MemoryOrders,
    MemoryRetention,
    MemoryRunEnds,
    MemoryRunProgress,
    MemorySchedules,
    MemorySessions,
    MemorySupervision,
    MemoryWebhooks,
):
    """A `Store` that forgets everything when its process ends."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[str, RunRow] = {}
        self._keys: dict[tuple[str, str], str] = {}  # (owner, idempotency key) → run id
        self._states: dict[AgentId, tuple[str, int]] = {}
        self._hosts: dict[str, HostRow] = {}
        self._leases: dict[tuple[str, int], SlotLease] = {}
        self._pools: dict[str, PoolRow] = {}
        self._orders: dict[tuple[OrderKind, str], Order] = {}
        self._subscriptions: dict[str, TopicSubscription] = {}
        self._apps: dict[str, AppRow] = {}
        self._launched: dict[AgentId, LaunchedAgent] = {}
        self._traces: dict[str, tuple[TraceSummary, str]] = {}

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def close(self) -> None:
        """Do nothing; everything is kept, as in a database."""

    async def ping(self) -> None:
        """Do nothing: memory always answers."""

    # Runs

    async def admit(self, runs: Sequence[NewRun]) -> list[Admission]:
        """Keep new runs as `queued`; repeats of an idempotency key find the earlier run."""
        for run in runs:
            check_run(run)
        inputs = [encode_object(run.input) for run in runs]  # before anything is kept
        return [self._admit(run, text) for run, text in zip(runs, inputs, strict=True)]

    def _admit(self, run: NewRun, text: str) -> Admission:
        known = self._runs.get(run.id) or self._run_of_key(run)
        if known is not None:
            conflict = known.new.digest != run.digest
            return Admission(known.run, created=False, conflict=conflict, held=known.held)
        held, refusal = False, None
        if run.session is not None:
            held, refusal = self._turn_in_session(run, run.session)
        if run.goes_on is not None:
            run, refusal = self._go_on(run, run.goes_on)
        if refusal is not None:
            return refusal
        if run.idempotency_key is not None:
            self._keys[run.owner, run.idempotency_key] = run.id
        self._runs[run.id] = RunRow(run, text, delayed=held or run.not_before is not None)
        return Admission(queued_run(run), created=True, held=held)

    def _run_of_key(self, run: NewRun) -> RunRow | None:
        if run.idempotency_key is None:
            return None
        run_id = self._keys.get((run.owner, run.idempotency_key))
        known = self._runs[run_id] if run_id is not None else None
        if known is not None and run.created_at - known.new.created_at > KEY_LIFETIME:
            return None
        return known

    async def get_run(self, run_id: str) -> StoredRun | None:
        """Return a run, or None."""
        row = self._runs.get(run_id)
        return row.stored_run if row else None

    async def list_runs(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        status: RunStatus | None = None,
        agent_type: str | None = None,
        agent_key: str | None = None,
        tenant: str | None = None,
    ) -> list[Run]:
        """Return runs, newest first; `before` is the id of the last one already seen."""
        ids = sorted((i for i in self._runs if before is None or i < before), reverse=True)
        found = (
            row.run
            for row in map(self._runs.__getitem__, ids)
            if status in {None, row.status}
            and agent_type in {None, row.new.agent.type}
            and agent_key in {None, row.new.agent.key}
            and tenant in {None, tenant_of(row.new.owner)}
        )
        return _first(found, limit)

    async def count_runs(self) -> dict[RunStatus, int]:
        """Return how many runs there are of each status that occurs."""
        return dict(Counter(row.status for row in self._runs.values()))

    async def mark_running(self, runs: Mapping[str, datetime], host: str) -> None:
        """Move queued runs to `running`, with the time they started; others are left alone."""
        for run_id, started_at in runs.items():
            row = self._runs.get(run_id)
            if row is not None and row.status is RunStatus.QUEUED:
                began = row.started_at or started_at  # one with an answer goes on in its attempt
                row = replace(row, status=RunStatus.RUNNING, started_at=began, host=host)
                self._runs[run_id] = row

    async def retry_run(self, run_id: str) -> StoredRun | None:
        """Add one to the attempt of an unfinished run, back to `queued`; return it as it is now."""
        row = self._runs.get(run_id)
        idle = row is None or row.held or row.status is RunStatus.WAITING
        if row is not None and row.end is None and not idle:
            attempt = row.attempt + (not row.delayed)
            row = replace(row, status=RunStatus.QUEUED, attempt=attempt, started_at=None)
            row = replace(row, delayed=False, host="")
            self._runs[run_id] = row
        return row.stored_run if row else None

    async def unfinished_runs(
        self,
        *,
        created_before: datetime,
        pool: str | None = None,
        slots: Sequence[int] | None = None,
        limit: int = 1000,
    ) -> list[StoredRun]:
        """Return queued and running runs, oldest first, without those that are to begin later."""
        found = (
            row.stored_run
            for row in sorted(self._runs.values(), key=lambda r: (r.new.created_at, r.new.id))
            if row.status in {RunStatus.QUEUED, RunStatus.RUNNING}
            and not row.delayed
            and row.new.created_at < created_before
            and pool in {None, row.new.pool}
            and (slots is None or row.new.slot in slots)
        )
        return _first(found, limit)

    async def run_events(
        self, run_id: str, *, after: int = -1, limit: int = 1000
    ) -> list[RunEvent]:
        """Return a run's events with an offset above `after`, in order."""
        row = self._runs.get(run_id)
        first = max(after + 1, 0)
        return [decode_event(text) for text in (row.events if row else ())[first : first + limit]]

    async def keep_ended(self, runs: Sequence[EndedRun]) -> None:
        """Keep runs that were not kept before their end; known ones stay as they are."""
        rows: dict[str, RunRow] = {}
        for ended in runs:
            touch = touch_of(ended)
            row = _touched(RunRow(ended.new, encode_object(ended.new.input)), touch)
            if row is not None:
                rows.setdefault(ended.new.id, row)
        new = {run_id: row for run_id, row in rows.items() if run_id not in self._runs}
        self._runs.update(new)
        self._bury_dead(new)

    # What hosts write

    async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
        """Apply each of the effects if `host` may, in one transaction."""
        touched = [touches(effects) for effects in batch]
        states = [
            {w.agent: (encode(dict(w.state)), w.schema_version) for w in effects.states}
            for effects in batch
        ]
        draft: ChainMap[str, RunRow] = ChainMap({}, self._runs)
        outcomes = [
            self._judge(host, effects, of_item, draft)
            for effects, of_item in zip(batch, touched, strict=True)
        ]
        # Nothing above has changed this store, and nothing below can fail.
        ended = [i for i, row in draft.maps[0].items() if row.end != self._runs[i].end]
        self._runs.update(draft.maps[0])
        self._bury_dead(ended)
        for outcome, written in zip(outcomes, states, strict=True):
            if outcome is CommitOutcome.COMMITTED:
                self._states.update(written)
        return outcomes

    def _bury_dead(self, ended: Iterable[str]) -> None:
        """Keep the letters of those that are dead of runs that have ended just now."""
        for row in map(self._runs.__getitem__, ended):
            if row.status is RunStatus.DEAD:
                self._bury(row.stored_run)

    def _judge(
        self,
        host: str,
        effects: Effects,
        touched: Sequence[Touch],
        runs: MutableMapping[str, RunRow],
    ) -> CommitOutcome:
        """Decide about one Effects, and apply it to `runs` when it may be."""
        if not self._holds(host, effects.pool, effects.slot, effects.epoch):
            return CommitOutcome.FENCED
        after: dict[str, RunRow] = {}
        for touch in touched:
            if touch.run_id not in runs:
                raise UnknownRun(touch.run_id)
            row = _touched(runs[touch.run_id], touch)
            if row is None:
                return CommitOutcome.ALREADY_ENDED
            after[touch.run_id] = row
        runs.update(after)
        return CommitOutcome.COMMITTED

    def _holds(self, host: str, pool: str, slot: int, epoch: int) -> bool:
        row = self._hosts.get(host)
        lease = self._leases.get((pool, slot))
        return (
            row is not None
            and row.status != "dead"
            and lease is not None
            and (lease.host, lease.epoch) == (host, epoch)
        )

    async def load_states(self, agents: Sequence[AgentId]) -> dict[AgentId, StateWrite]:
        """Return the kept states of those agents that have one."""
        found = {agent: self._states[agent] for agent in agents if agent in self._states}
        return {
            agent: StateWrite(agent, decode(state), version)
            for agent, (state, version) in found.items()
        }

    # What operators do with states

    async def list_states(
        self, agent_type: str, *, after: str = "", limit: int = 500, max_bytes: int = 8_388_608
    ) -> list[StateWrite]:
        """Return kept states of a type with a key above `after`, in the order of their keys."""
        keys = sorted(a.key for a in self._states if a.type == agent_type and a.key > after)
        found: list[StateWrite] = []
        size = 0
        for key in keys[:limit]:
            if size >= max_bytes:
                break
            agent = AgentId(agent_type, key)
            text, version = self._states[agent]
            found.append(StateWrite(agent, decode(text), version))
            size += len(text)  # of ASCII
        return found

    async def put_states(self, states: Sequence[StateWrite]) -> None:
        """Keep states, all of them or none; replaces earlier ones. Not fenced."""
        for state in states:
            check_text("agent key", state.agent.key)
        self._states.update({w.agent: (encode(dict(w.state)), w.schema_version) for w in states})

    async def delete_state(self, host: str, agent: AgentId, lease: SlotLease) -> CommitOutcome:
        """Forget an agent's state, if `host` may write it: fenced as `commit` is."""
        if not self._holds(host, lease.pool, lease.slot, lease.epoch):
            return CommitOutcome.FENCED
        self._states.pop(agent, None)
        return CommitOutcome.COMMITTED

    # Placement

    async def put_host(self, host: HostRow) -> None:
        """Insert or replace a host. A dead host stays dead."""
        known = self._hosts.get(host.id)
        if known is None or known.status != "dead":
            self._hosts[host.id] = host

    async def list_hosts(self, *, include_dead: bool = False) -> list[HostRow]:
        """Return the hosts, ordered by id."""
        hosts = sorted(self._hosts.values(), key=lambda host: host.id)
        return [host for host in hosts if include_dead or host.status != "dead"]

    async def list_slots(self, pool: str | None = None) -> list[SlotLease]:
        """Return the leases, of one pool or all, ordered by pool and slot."""
        return [lease for key, lease in sorted(self._leases.items()) if pool in {None, key[0]}]

    async def assign_slots(
        self, leases: Sequence[SlotLease], *, dead_hosts: Mapping[str, str] | None = None
    ) -> list[SlotLease]:
        """Lease slots to hosts, and declare hosts dead (id → reason), in one transaction."""
        check_leases(leases)
        for host_id, reason in (dead_hosts or {}).items():
            host = self._hosts.get(host_id)
            if host is not None and host.status != "dead":
                self._hosts[host_id] = replace(host, status="dead", reason=reason)
        return [self._assign(lease) for lease in leases]

    def _assign(self, lease: SlotLease) -> SlotLease:
        known = self._leases.get((lease.pool, lease.slot))
        epoch = known.epoch + 1 if known else 1
        assigned = SlotLease(lease.pool, lease.slot, lease.host, epoch)
        self._leases[lease.pool, lease.slot] = assigned
        return assigned

    # Pools

    async def put_pool(self, pool: PoolRow) -> None:
        """Insert or replace a pool by its name."""
        self._pools[pool.name] = pool  # a replaced key keeps its place

    async def delete_pool(self, name: str) -> None:
        """Forget a pool; harmless when it is not known."""
        self._pools.pop(name, None)

    async def list_pools(self) -> list[PoolRow]:
        """Return the pools in the order in which they came."""
        return list(self._pools.values())

    # Subscriptions made at run time

    async def put_subscription(self, subscription: TopicSubscription) -> TopicSubscription:
        """Keep a subscription; one that asks for the same is returned instead, unchanged."""
        check_subscription(subscription)
        known = (s for s in self._subscriptions.values() if s.wish == subscription.wish)
        return next(known, None) or self._subscriptions.setdefault(subscription.id, subscription)

    async def delete_subscription(self, subscription_id: str) -> bool:
        """Forget a subscription; False: there is none of this id."""
        return self._subscriptions.pop(subscription_id, None) is not None

    async def list_subscriptions(self) -> list[TopicSubscription]:
        """Return the subscriptions in the order in which they came."""
        return list(self._subscriptions.values())

    # Apps

    async def put_app(self, app: AppRow) -> None:
        """Insert or replace an app by its name."""
        self._apps[app.name] = app  # a replaced key keeps its place

    async def delete_app(self, name: str, agent_types: Sequence[str], *, states: bool) -> None:
        """Forget an app and what is kept of its agents, in one transaction."""
        self._apps.pop(name, None)
        _forget_types(self._launched, agent_types)
        _forget_types(self._failures, agent_types)
        _forget_types(self._permanent, agent_types)
        if states:
            _forget_types(self._states, agent_types)
            self._drop_noted(agent_types)
        gone = [s.id for s in self._subscriptions.values() if s.agent_type in agent_types]
        for subscription in gone:
            del self._subscriptions[subscription]

    async def list_apps(self) -> list[AppRow]:
        """Return the apps in order of their first deployment."""
        return list(self._apps.values())


def _touched(row: RunRow, touch: Touch) -> RunRow | None:
    """Return a run after a touch; None: it had ended before.

    Raises:
        ValueError: the events do not continue those of the run.
    """
    stored, first, end = len(row.events), touch.first_offset, touch.end
    new_events = first + len(touch.events) > stored
    if row.end is not None:
        return None if end or new_events else row
    if touch.events and first > stored:
        raise gap(row.new.id, stored, first)
    events = row.events + tuple(touch.events[stored - first :]) if new_events else row.events
    row = replace(row, events=events)
    if end is None:
        return row
    started_at = end.started_at or row.started_at
    return replace(row, status=RunStatus(end.status), started_at=started_at, end=end)


def _first(found: Iterable[_T], limit: int) -> list[_T]:
    return list(islice(found, limit))


def _forget_types(of_agents: dict[AgentId, _T], agent_types: Sequence[str]) -> None:
    for agent in [agent for agent in of_agents if agent.type in agent_types]:
        del of_agents[agent]
