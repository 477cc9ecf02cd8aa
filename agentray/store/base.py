"""The Store: what is kept, and the promises that every implementation gives.

1. What a method has returned is durable (in PostgreSQL: committed with fsync).
2. A run reaches exactly one terminal status; whoever comes second is told so, not obeyed.
3. A commit of a host is applied only while that host is live and leases the slot with the epoch
   that the commit names; check and effect are one transaction (`CommitOutcome.FENCED` otherwise).
4. Offsets of a run's events are gap-free, from 0.

Methods take and return batches where callers have many at once, so that one transaction (and one
fsync) serves all of them. Each item of a batch succeeds or fails on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from agentray.ids import AgentId
from agentray.protocol.budgets import Budget, Usage
from agentray.protocol.event_runs import Durability
from agentray.protocol.launching import AgentStatus
from agentray.protocol.questions import Answer, Question
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus
from agentray.protocol.sessions import ACCESS, SESSION, SessionPolicy
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import ALL_TRACES, RunTrace, TraceQuery, TraceSummary
from agentray.protocol.trusted import defaults_of, trusted
from agentray.store.continuations import Continuation
from agentray.store.jobs import JobStore
from agentray.store.keys import KeyStore
from agentray.store.leadership import LeadershipStore
from agentray.store.letters import LetterStore
from agentray.store.orders import OrderStore
from agentray.store.retention import RetentionStore
from agentray.store.run_ends import RunEndStore
from agentray.store.run_progress import RunProgressStore
from agentray.store.schedules import ScheduleStore
from agentray.store.sessions import Refusal, SessionStore
from agentray.store.steps import Step, StepStore
from agentray.store.supervision import SupervisionStore
from agentray.store.webhooks import WebhookStore


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be admitted."""

    id: str
    agent: AgentId
    pool: str
    slot: int
    input: Mapping[str, Any]  # JSON: what the agent is prompted with
    correlation_id: str
    created_at: datetime
    owner: str = ""  # id of the API key that asked, "" for a driver
    idempotency_key: str | None = None  # unique per owner for 24 hours
    digest: str = ""  # hash of the body, to tell a repeat from a conflict
    not_before: datetime | None = None  # when it may begin; None: at once
    schedule: str | None = None  # whose firing it is
    in_turn: bool = False  # it begins after the earlier runs of its schedule have ended
    policy: SessionPolicy = SessionPolicy.ENQUEUE  # while its session has a run under way
    goes_on: Continuation | None = None  # where another run has ended

    @property
    def session(self) -> str | None:
        """The session that it is given in; None: in none."""
        return self.input.get(SESSION)

    @property
    def access(self) -> str | None:
        """What the tools may touch that work on it; None: anything."""
        return self.input.get(ACCESS)

    @property
    def deadline(self) -> datetime | None:
        """When it must have ended; None: it has no deadline."""
        timeout_s: float | None = self.input.get("timeout_s")
        begin = self.not_before or self.created_at
        return None if timeout_s is None else begin + timedelta(seconds=timeout_s)


def run_input(
    prompt: str,
    traceparent: str | None,
    *,
    timeout_s: float | None = None,
    budget: Budget | None = None,
    max_attempts: int | None = None,
    durability: str = Durability.RUN.value,
    user: str = "",
    trace: bool = False,
) -> dict[str, Any]:
    """Return the input of a prompt's run.

    Args:
        prompt: what the agent is asked.
        traceparent: the W3C trace context that the run continues; None: it begins a trace.
        timeout_s: seconds from its admission after which the run is ended; None: it is not.
        budget: what it may use; None: what its agent type says.
        max_attempts: after so many that each lost a host it is given up; None: as settings say.
        durability: see `Durability`; nothing is said of the usual one.
        user: on whose behalf, as a fingerprint; "": it was not said.
        trace: each handled message is one of its events.
    """
    given: dict[str, Any] = {"traceparent": traceparent, "timeout_s": timeout_s}
    given["max_attempts"] = max_attempts
    given["durability"] = None if durability == Durability.RUN else durability
    given["user"] = user or None
    given["trace"] = trace or None
    if budget is not None:
        given["budget"] = budget.model_dump(mode="json", exclude_none=True)
    return {"prompt": prompt, **{name: v for name, v in given.items() if v is not None}}


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a `NewRun`."""

    run: Run  # the new run, or the earlier one of the same key
    created: bool
    conflict: bool = False  # the key is known with another digest; `run` is the earlier run
    held: bool = False  # its session says when it begins
    refused: Refusal | None = None  # `run` is the one in its way, if one is


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run with what a host needs to work on it."""

    run: Run
    agent: AgentId
    pool: str
    slot: int
    input: Mapping[str, Any]
    events: int  # how many run events are stored: the next offset
    owner: str = ""
    cancelled: bool = False  # somebody asked for its end
    delayed: bool = False  # it was to begin later, and no host has begun it
    questions: tuple[Question, ...] = ()  # that are open, the one that is asked now first
    answers: tuple[Answer, ...] = ()  # in their order; it goes on with the last one

    @classmethod
    def fresh(cls, new: NewRun) -> StoredRun:
        """Return a run as it is right after its admission."""
        return cls.admitted(new, queued_run(new))

    @classmethod
    def admitted(cls, new: NewRun, run: Run) -> StoredRun:
        """Return the same where the run itself is at hand."""
        return cls(run, new.agent, new.pool, new.slot, new.input, 0, new.owner)


_RUN = defaults_of(Run)


def queued_run(new: NewRun) -> Run:
    """Return a new run as it is once it is admitted."""
    told = {
        "id": new.id,
        "status": RunStatus.QUEUED,
        "agent": str(new.agent),
        "correlation_id": new.correlation_id,
        "created_at": new.created_at,
        "not_before": new.not_before,
        "schedule": new.schedule,
        "session": new.session,
    }
    return trusted(Run, {**_RUN, **told})


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The one terminal move of a run."""

    run_id: str
    status: RunStatus
    result: Any  # JSON
    error: RunError | None
    started_at: datetime | None
    finished_at: datetime
    errors: Sequence[RunError] = ()  # all of them, `error` first; kept also when it succeeded


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that is kept at its end, and not before."""

    new: NewRun
    end: RunEnd
    events: Sequence[RunEvent] = ()  # all of them, from offset 0
    usage: Usage | None = None  # None: nothing was counted


@dataclass(frozen=True, slots=True)
class StateWrite:
    """A new state of an agent."""

    agent: AgentId
    state: Mapping[str, Any]  # JSON
    schema_version: int = 1


@dataclass(frozen=True, slots=True)
class Effects:
    """What one handler, or one run's end, changes: all of it or nothing."""

    pool: str
    slot: int
    epoch: int
    states: Sequence[StateWrite] = ()
    events: Mapping[str, Sequence[RunEvent]] = field(default_factory=dict[str, Sequence[RunEvent]])
    end: RunEnd | None = None
    step: Step | None = None  # of a run that is durable per step: see `commit_steps`


class CommitOutcome(StrEnum):
    """What became of one `Effects`."""

    COMMITTED = "committed"
    FENCED = "fenced"  # the host is dead, or the slot's epoch is another: nothing was written
    ALREADY_ENDED = "already_ended"  # the run was terminal before: nothing was written
    GONE = "gone"  # the message was handled before, or its run has ended: nothing was written


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host that exists or existed."""

    id: str
    pool: str
    actor_name: str
    status: str  # starting, live, draining, dead
    node_id: str = ""
    pid: int = 0
    reason: str = ""  # why it is dead
    made_for: str = ""  # digest of what its pool demanded; "": an older version has kept it


@dataclass(frozen=True, slots=True)
class SlotLease:
    """Which host may run the agents of a slot. Epochs only rise."""

    pool: str
    slot: int
    host: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class AppRow:
    """A deployed app."""

    name: str
    spec: bytes  # pickled inside the cluster, by the cluster
    import_string: str  # module:attribute where it has one, else ""
    digest: str
    status: str  # running, stopped
    deployed_at: datetime
    before: bytes | None = None  # pickled: what is to come back if this deployment does not succeed


@dataclass(frozen=True, slots=True)
class PoolRow:
    """What an operator has said of a pool; what apps declare is kept with the apps."""

    name: str
    spec: bytes | None  # pickled inside the cluster; None: only the successor was said
    successor: str = ""  # the pool in which its agents live instead; "": in this one


@dataclass(frozen=True, slots=True)
class LaunchedAgent:
    """An agent that was registered, launched or shut down on purpose, with all that makes it."""

    agent: AgentId
    arguments: bytes  # pickled (args, kwargs), or the pickled agent itself
    launched_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    status: AgentStatus = AgentStatus.RUNNING
    owner: AgentId | None = None  # the agent with which it ends
    driver: str = ""  # the connection with which it ends; "": none
    last_error: str = ""  # why it is failed
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # JSON: of this one agent
    max_retries: int | None = None  # of its start; None: as its restart policy says


@dataclass(frozen=True, slots=True)
class LaunchedWrite:
    """A change of a launched agent by the host that leases its slot."""

    pool: str
    slot: int
    epoch: int
    launched: LaunchedAgent
    forget: bool = False  # remove it instead of keeping it
    delete_state: bool = False  # and what it had kept as state


@dataclass(frozen=True, slots=True)
class LaunchedQuery:
    """Which launched agents are looked for; None and {}: all."""

    types: Sequence[str] | None = None
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # all of these
    statuses: Sequence[AgentStatus] | None = None
    owner: AgentId | None = None
    driver: str | None = None


ALL_LAUNCHED = LaunchedQuery()


class Store(
    JobStore,
    KeyStore,
    LeadershipStore,
    LetterStore,
    OrderStore,
    RetentionStore,
    RunEndStore,
    RunProgressStore,
    ScheduleStore,
    SessionStore,
    StepStore,
    SupervisionStore,
    WebhookStore,
    Protocol,
):
    """Durable memory of a cluster. Raises `StoreUnavailable` when it cannot be reached."""

    async def open(self) -> None:
        """Connect, and bring the schema up to date.

        Raises:
            StoreUnavailable: no connection.
            SchemaTooNew: the schema is of a newer agentray; nothing was changed.
        """
        ...

    async def close(self) -> None:
        """Close the connections; harmless when not open."""
        ...

    async def ping(self) -> None:
        """Do one round trip.

        Raises:
            StoreUnavailable: no answer.
        """
        ...

    # Runs

    async def admit(self, runs: Sequence[NewRun]) -> list[Admission]:
        """Commit new runs as `queued`; repeats of an idempotency key find the earlier run.

        A repeat within one batch is found too, and so is a run whose id is known: the call may be
        repeated after a lost answer. Keys older than 24 hours may be used anew. Of a run in a
        session, `Admission` tells whether it is its turn; it must not be one that begins later.

        Raises:
            PayloadError: an input has no JSON, or a text has a NUL; none of the runs is admitted.
        """
        ...

    async def get_run(self, run_id: str) -> StoredRun | None:
        """Return a run, or None."""
        ...

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
        """Return runs, newest first.

        Args:
            limit: most of them.
            before: id of the last one already seen.
            status: only those.
            agent_type: only those of agents of this type.
            agent_key: and with this key.
            tenant: only those that this one owns; None: of all.
        """
        ...

    async def count_runs(self) -> dict[RunStatus, int]:
        """Return how many runs there are of each status that occurs."""
        ...

    async def mark_running(self, runs: Mapping[str, datetime], host: str) -> None:
        """Move queued runs to `running`, with the time they started; others are left alone."""
        ...

    async def retry_run(self, run_id: str) -> StoredRun | None:
        """Add one to the attempt of an unfinished run, back to `queued`; return it as it is now.

        One that was to begin later, and has not, begins its first attempt instead. A terminal run,
        one that waits for an answer, and one whose turn in its session it is not, is returned
        unchanged. None: no such run.
        """
        ...

    async def unfinished_runs(
        self,
        *,
        created_before: datetime,
        pool: str | None = None,
        slots: Sequence[int] | None = None,
        limit: int = 1000,
    ) -> list[StoredRun]:
        """Return queued and running runs, oldest first, without those that are to begin later."""
        ...

    async def run_events(
        self, run_id: str, *, after: int = -1, limit: int = 1000
    ) -> list[RunEvent]:
        """Return a run's events with an offset above `after`, in order."""
        ...

    async def keep_ended(self, runs: Sequence[EndedRun]) -> None:
        """Keep runs that were not kept before their end; known ones stay as they are.

        Raises:
            ValueError: events leave a gap, or an end is not terminal; nothing was written.
            PayloadError: a value has no JSON, or a text cannot be stored; nothing was written.
        """
        ...

    # Traces

    async def put_traces(self, traces: Sequence[RunTrace]) -> None:
        """Keep traces of runs that have ended; one that a run has already is replaced.

        Raises:
            PayloadError: a text in one of them cannot be stored; none of them is kept.
        """
        ...

    async def get_trace(self, run_id: str) -> RunTrace | None:
        """Return the trace of a run; None: it has none yet, or not any more."""
        ...

    async def list_traces(
        self, query: TraceQuery = ALL_TRACES, *, limit: int = 50
    ) -> list[TraceSummary]:
        """Return traces without their spans, newest first."""
        ...

    async def prune_traces(self, before: datetime, *, keep: int, limit: int) -> int:
        """Forget traces that started before a time, and those beyond the newest `keep`.

        Args:
            before: the time.
            keep: how many may stay.
            limit: most of them that are forgotten now, the oldest first.

        Returns:
            How many were.
        """
        ...

    # What hosts write

    async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
        """Apply each of the effects if `host` may, in one transaction.

        Every host that is not dead may commit, also one that drains. Events of a run must continue
        its offsets; those already stored are skipped, so a commit may be repeated after a lost
        answer. New events of a run that has ended are refused like a second end.

        Raises:
            ValueError: events leave a gap, or an end is not terminal; nothing was written.
            UnknownRun: there is no such run; nothing was written.
            PayloadError: a value has no JSON; nothing was written.
        """
        ...

    async def load_states(self, agents: Sequence[AgentId]) -> dict[AgentId, StateWrite]:
        """Return the kept states of those agents that have one."""
        ...

    # What operators do with states

    async def list_states(
        self, agent_type: str, *, after: str = "", limit: int = 500, max_bytes: int = 8_388_608
    ) -> list[StateWrite]:
        """Return kept states of a type with a key above `after`, in the order of their keys.

        Args:
            agent_type: whose agents.
            after: key of the last one already seen.
            limit: most of them.
            max_bytes: of JSON, after which no further one is begun; one that is there is returned.
        """
        ...

    async def put_states(self, states: Sequence[StateWrite]) -> None:
        """Keep states, all of them or none; replaces earlier ones. Not fenced.

        Whoever calls it has made sure that no host writes states of these agents meanwhile.

        Raises:
            PayloadError: one has no JSON, or a key cannot be stored; nothing was written.
        """
        ...

    async def delete_state(self, host: str, agent: AgentId, lease: SlotLease) -> CommitOutcome:
        """Forget an agent's state, if `host` may write it: fenced as `commit` is.

        Args:
            host: that asks.
            agent: whose state; harmless when it has none.
            lease: the slot and epoch that the host believes to hold.
        """
        ...

    # Placement

    async def put_host(self, host: HostRow) -> None:
        """Insert or replace a host. A dead host stays dead."""
        ...

    async def list_hosts(self, *, include_dead: bool = False) -> list[HostRow]:
        """Return the hosts."""
        ...

    async def list_slots(self, pool: str | None = None) -> list[SlotLease]:
        """Return the leases, of one pool or all, ordered by pool and slot."""
        ...

    async def assign_slots(
        self, leases: Sequence[SlotLease], *, dead_hosts: Mapping[str, str] | None = None
    ) -> list[SlotLease]:
        """Lease slots to hosts, and declare hosts dead (id → reason), in one transaction.

        The epochs in the argument are ignored: each assigned slot gets its old epoch + 1, the first
        one 1.
        When this returns, no commit of the former holder can succeed any more.

        Returns:
            The leases with their new epochs, in the order given.
        """
        ...

    # Pools

    async def put_pool(self, pool: PoolRow) -> None:
        """Insert or replace a pool by its name."""
        ...

    async def delete_pool(self, name: str) -> None:
        """Forget a pool; harmless when it is not known."""
        ...

    async def list_pools(self) -> list[PoolRow]:
        """Return the pools in the order in which they came."""
        ...

    # Subscriptions made at run time

    async def put_subscription(self, subscription: TopicSubscription) -> TopicSubscription:
        """Keep a subscription; one that asks for the same is returned instead, unchanged.

        Raises:
            PayloadError: a text has a NUL or a lone surrogate.
        """
        ...

    async def delete_subscription(self, subscription_id: str) -> bool:
        """Forget a subscription; False: there is none of this id."""
        ...

    async def list_subscriptions(self) -> list[TopicSubscription]:
        """Return the subscriptions in the order in which they came."""
        ...

    # Apps and launched agents

    async def put_app(self, app: AppRow) -> None:
        """Insert or replace an app by its name."""
        ...

    async def delete_app(self, name: str, agent_types: Sequence[str], *, states: bool) -> None:
        """Forget an app and what is kept of its agents, in one transaction.

        Args:
            name: of the app; nothing happens when there is none.
            agent_types: its types: their launched and permanent agents, failures and subscriptions
                are forgotten.
            states: their states, too. Not fenced: nobody leases slots in which they live.
        """
        ...

    async def list_apps(self) -> list[AppRow]:
        """Return the apps in order of their first deployment."""
        ...

    async def put_launched(self, agents: Sequence[LaunchedAgent]) -> None:
        """Keep launched agents, whoever leases their slots; replaces earlier ones.

        Raises:
            PayloadError: a text has a NUL or a lone surrogate, or an option has no JSON; none is
                kept.
        """
        ...

    async def keep_launched(
        self, host: str, writes: Sequence[LaunchedWrite]
    ) -> list[CommitOutcome]:
        """Keep, replace or forget launched agents where `host` leases their slots.

        Checked and written in one transaction, as `commit` does; of several writes for one agent
        the last counts.

        Raises:
            PayloadError: as `put_launched`; nothing was written.
        """
        ...

    async def load_launched(self, agents: Sequence[AgentId]) -> dict[AgentId, LaunchedAgent]:
        """Return those of the agents that were launched."""
        ...

    async def list_launched(
        self, query: LaunchedQuery = ALL_LAUNCHED, *, limit: int = 1000
    ) -> list[LaunchedAgent]:
        """Return launched agents, newest first."""
        ...

    async def types_with_launched(self, agent_types: Sequence[str]) -> set[str]:
        """Return those of the types that have launched agents, in whatever status."""
        ...

    async def live_drivers(self) -> set[str]:
        """Return the connections with which agents end that have not ended yet."""
        ...
