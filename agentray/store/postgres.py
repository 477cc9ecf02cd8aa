"""The store in PostgreSQL.

Each method is one statement, so no transaction is ever open between two round trips. Where several
steps must be atomic they are a function in the database: `commit_effects` and `assign_slots`, with
the argument why a former holder of a slot cannot write, are in the migrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Self

import asyncpg

from agentray.config import DATABASE, DatabaseLimits
from agentray.core.lifecycle import TERMINAL
from agentray.ids import AgentId
from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import ALL_TRACES, RunTrace, TraceQuery, TraceSummary
from agentray.store import rows
from agentray.store.arrays import arrays
from agentray.store.base import (
    ALL_LAUNCHED,
    Admission,
    AppRow,
    CommitOutcome,
    Effects,
    EndedRun,
    HostRow,
    LaunchedAgent,
    LaunchedQuery,
    LaunchedWrite,
    NewRun,
    PoolRow,
    SlotLease,
    StateWrite,
    StoredRun,
    queued_run,
)
from agentray.store.codec import (
    KEY_LIFETIME,
    check_launched,
    check_leases,
    check_run,
    check_subscription,
    check_text,
    check_trace,
    decode_event,
    encode,
)
from agentray.store.database import Database, Row, error_of_commit
from agentray.store.postgres_continuations import PostgresContinuations
from agentray.store.postgres_jobs import PostgresJobs
from agentray.store.postgres_keys import PostgresKeys
from agentray.store.postgres_leadership import PostgresLeadership
from agentray.store.postgres_letters import PostgresLetters
from agentray.store.postgres_orders import PostgresOrders
from agentray.store.postgres_retention import PostgresRetention
from agentray.store.postgres_run_ends import PostgresRunEnds
from agentray.store.postgres_run_progress import PostgresRunProgress
from agentray.store.postgres_schedules import PostgresSchedules
from agentray.store.postgres_sessions import PostgresSessions
from agentray.store.postgres_steps import PostgresSteps
from agentray.store.postgres_supervision import PostgresSupervision
from agentray.store.postgres_webhooks import PostgresWebhooks


class PostgresStore(
    PostgresContinuations,
    PostgresJobs,
    PostgresKeys,
    PostgresLeadership,
    PostgresLetters,
    PostgresOrders,
    PostgresRetention,
    PostgresRunEnds,
    PostgresRunProgress,
    PostgresSchedules,
    PostgresSessions,
    PostgresSteps,
    PostgresSupervision,
    PostgresWebhooks,
):
    """A `Store` in the schema `agentray` of a PostgreSQL database.

    Args:
        dsn: `postgresql://…`.
        max_connections: how many connections this process may use.
        limits: how long it may take to answer.
    """

    def __init__(
        self, dsn: str, *, max_connections: int = 4, limits: DatabaseLimits = DATABASE
    ) -> None:
        self._database = Database(dsn, max_connections, limits)

    @classmethod
    def on(cls, database: Database) -> Self:
        """Return a store over connections of another kind."""
        store = cls("")
        store._database = database
        return store

    async def open(self) -> None:
        """Connect, and bring the schema up to date."""
        await self._database.open()

    async def close(self) -> None:
        """Close the connections; harmless when not open."""
        await self._database.close()

    async def ping(self) -> None:
        """Do one round trip."""
        await self._database.execute("ping")

    # Runs

    async def admit(self, runs: Sequence[NewRun]) -> list[Admission]:
        """Commit new runs as `queued`; one statement unless some are known, or in sessions."""
        for run in runs:
            check_run(run)
        admissions: dict[int, Admission] = {}
        waiting = dict(enumerate(runs))
        # A second round only after an old key was taken from its run, here or by somebody else.
        while waiting:
            admissions |= await self._insert(waiting)
            waiting = {n: run for n, run in waiting.items() if n not in admissions}
            if waiting:
                admissions |= await self._find_admitted(waiting)
                waiting = {n: run for n, run in waiting.items() if n not in admissions}
        return [admissions[n] for n in range(len(runs))]

    async def _insert(self, runs: Mapping[int, NewRun]) -> dict[int, Admission]:
        in_sessions = {n: run for n, run in runs.items() if run.session is not None}
        going_on = {n: (run, run.goes_on) for n, run in runs.items() if run.goes_on is not None}
        if not in_sessions and not going_on:
            return await self._insert_plain(runs)
        created: dict[int, Admission] = {}
        if in_sessions:
            created |= await self._admit_in_sessions(in_sessions)
        if going_on:
            created |= await self._admit_continuations(going_on)
        if plain := {n: r for n, r in runs.items() if n not in in_sessions and n not in going_on}:
            created |= await self._insert_plain(plain)
        return created

    async def _insert_plain(self, runs: Mapping[int, NewRun]) -> dict[int, Admission]:
        inserted = await self._database.fetch(
            "insert_runs", *arrays(rows.new_run_columns(runs.values()))
        )
        new = {row["id"] for row in inserted}
        created: dict[int, Admission] = {}
        for n, run in runs.items():
            if run.id in new:
                new.remove(run.id)  # a repeat of the id within the batch is not created twice
                created[n] = Admission(queued_run(run), created=True)
        return created

    async def _find_admitted(self, runs: Mapping[int, NewRun]) -> dict[int, Admission]:
        """Return what became of runs that were known; old keys are released instead."""
        asked = [(run.id, run.owner, run.idempotency_key) for run in runs.values()]
        found = await self._database.fetch("find_admitted", *rows.columns(asked, 3))
        by_id = {row["id"]: row for row in found}
        by_key = {(row["owner"], row["idempotency_key"]): row for row in found}
        admissions: dict[int, Admission] = {}
        outdated: list[str] = []
        for n, run in runs.items():
            of_key = by_key.get((run.owner, run.idempotency_key)) if run.idempotency_key else None
            if run.id in by_id:
                admissions[n] = _repeated(by_id[run.id], run)
            elif of_key and run.created_at - of_key["created_at"] > KEY_LIFETIME:
                outdated.append(of_key["id"])
            elif of_key:
                admissions[n] = _repeated(of_key, run)
        if outdated:
            await self._database.execute("release_keys", outdated)
        return admissions

    async def get_run(self, run_id: str) -> StoredRun | None:
        """Return a run, or None."""
        row = await self._database.fetch_row("get_run", run_id)
        return rows.stored_run_of(row) if row else None

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
        unfinished = status is not None and status not in TERMINAL
        about = (before, status, agent_type, agent_key, limit)
        if unfinished:
            found = await self._database.fetch("list_unfinished_runs", *about, tenant)
        elif tenant is not None:
            found = await self._database.fetch("list_tenant_runs", *about, tenant)
        else:
            found = await self._database.fetch("list_runs", *about)
        return [rows.run_of(row) for row in found]

    async def count_runs(self) -> dict[RunStatus, int]:
        """Return how many runs there are of each status that occurs."""
        found = await self._database.fetch("count_runs")
        return {RunStatus(row["status"]): row["runs"] for row in found}

    async def mark_running(self, runs: Mapping[str, datetime], host: str) -> None:
        """Move queued runs to `running`, with the time they started; others are left alone."""
        await self._database.execute("mark_running", list(runs), list(runs.values()), host)

    async def retry_run(self, run_id: str) -> StoredRun | None:
        """Add one to the attempt of an unfinished run, back to `queued`; return it as it is now."""
        row = await self._database.fetch_row("retry_run", run_id)
        return rows.stored_run_of(row) if row else await self.get_run(run_id)

    async def unfinished_runs(
        self,
        *,
        created_before: datetime,
        pool: str | None = None,
        slots: Sequence[int] | None = None,
        limit: int = 1000,
    ) -> list[StoredRun]:
        """Return queued and running runs, oldest first, without those that are to begin later."""
        wanted = None if slots is None else list(slots)
        found = await self._database.fetch("unfinished_runs", created_before, pool, wanted, limit)
        return [rows.stored_run_of(row) for row in found]

    async def run_events(
        self, run_id: str, *, after: int = -1, limit: int = 1000
    ) -> list[RunEvent]:
        """Return a run's events with an offset above `after`, in order."""
        found = await self._database.fetch("run_events", run_id, after + 1, limit)
        return [decode_event(row["event"]) for row in found]

    async def keep_ended(self, runs: Sequence[EndedRun]) -> None:
        """Keep runs that were not kept before their end, in one statement."""
        if runs:
            await self._database.execute("keep_ended", *rows.ended_run_columns(runs))

    # Traces

    async def put_traces(self, traces: Sequence[RunTrace]) -> None:
        """Keep traces of runs that have ended; one that a run has already is replaced."""
        for trace in traces:
            check_trace(trace)
        last = {trace.summary.run: trace for trace in traces}
        await self._database.execute("put_traces", *arrays(rows.trace_columns(last.values())))

    async def get_trace(self, run_id: str) -> RunTrace | None:
        """Return the trace of a run; None: it has none yet, or not any more."""
        row = await self._database.fetch_row("get_trace", run_id)
        return rows.trace_of(row) if row else None

    async def list_traces(
        self, query: TraceQuery = ALL_TRACES, *, limit: int = 50
    ) -> list[TraceSummary]:
        """Return traces without their spans, newest first."""
        wanted = (query.correlation_id, query.agent_type, query.event)
        found = await self._database.fetch(
            "list_traces", *wanted, query.since, query.until, query.errors, limit
        )
        return [rows.trace_summary_of(row) for row in found]

    async def prune_traces(self, before: datetime, *, keep: int, limit: int) -> int:
        """Forget traces that started before a time, and those beyond the newest `keep`."""
        return await self._database.fetch_value("prune_traces", before, keep, limit)

    # What hosts write

    async def commit(self, host: str, batch: Sequence[Effects]) -> list[CommitOutcome]:
        """Apply each of the effects if `host` may, in one transaction and one round trip."""
        if not batch:
            return []
        try:
            outcomes = await self._database.fetch_value(
                "commit_effects", host, *arrays(rows.effects_columns(batch))
            )
        except asyncpg.PostgresError as error:
            raise error_of_commit(error) from error
        return [CommitOutcome(outcome) for outcome in outcomes]

    async def load_states(self, agents: Sequence[AgentId]) -> dict[AgentId, StateWrite]:
        """Return the kept states of those agents that have one."""
        found = await self._database.fetch("load_states", *rows.columns(agents, 2))
        return {rows.agent_of(row): rows.state_of(row) for row in found}

    # What operators do with states

    async def list_states(
        self, agent_type: str, *, after: str = "", limit: int = 500, max_bytes: int = 8_388_608
    ) -> list[StateWrite]:
        """Return kept states of a type with a key above `after`, in the order of their keys."""
        found = await self._database.fetch("list_states", agent_type, after, limit, max_bytes)
        return [rows.state_of(row) for row in found]

    async def put_states(self, states: Sequence[StateWrite]) -> None:
        """Keep states, all of them or none; replaces earlier ones. Not fenced."""
        for state in states:
            check_text("agent key", state.agent.key)
        await self._database.execute("put_states", *rows.state_columns(states))

    async def delete_state(self, host: str, agent: AgentId, lease: SlotLease) -> CommitOutcome:
        """Forget an agent's state, if `host` may write it: fenced as `commit` is."""
        may = await self._database.fetch_value(
            "delete_state", host, lease.pool, lease.slot, lease.epoch, *agent
        )
        return CommitOutcome.COMMITTED if may else CommitOutcome.FENCED

    # Placement

    async def put_host(self, host: HostRow) -> None:
        """Insert or replace a host. A dead host stays dead."""
        about = (host.id, host.pool, host.actor_name, host.status, host.node_id, host.pid)
        await self._database.execute("put_host", *about, host.reason, host.made_for)

    async def list_hosts(self, *, include_dead: bool = False) -> list[HostRow]:
        """Return the hosts, ordered by id."""
        return [rows.host_of(row) for row in await self._database.fetch("list_hosts", include_dead)]

    async def list_slots(self, pool: str | None = None) -> list[SlotLease]:
        """Return the leases, of one pool or all, ordered by pool and slot."""
        return [rows.lease_of(row) for row in await self._database.fetch("list_slots", pool)]

    async def assign_slots(
        self, leases: Sequence[SlotLease], *, dead_hosts: Mapping[str, str] | None = None
    ) -> list[SlotLease]:
        """Lease slots to hosts, and declare hosts dead (id → reason), in one transaction."""
        check_leases(leases)
        dead = dead_hosts or {}
        wanted = rows.columns(((lease.pool, lease.slot, lease.host) for lease in leases), 3)
        found = await self._database.fetch("assign_slots", *wanted, list(dead), list(dead.values()))
        return [rows.lease_of(row) for row in found]

    # Pools

    async def put_pool(self, pool: PoolRow) -> None:
        """Insert or replace a pool by its name."""
        await self._database.execute("put_pool", pool.name, pool.spec, pool.successor)

    async def delete_pool(self, name: str) -> None:
        """Forget a pool; harmless when it is not known."""
        await self._database.execute("delete_pool", name)

    async def list_pools(self) -> list[PoolRow]:
        """Return the pools in the order in which they came."""
        return [rows.pool_of(row) for row in await self._database.fetch("list_pools")]

    # Subscriptions made at run time

    async def put_subscription(self, subscription: TopicSubscription) -> TopicSubscription:
        """Keep a subscription; one that asks for the same is returned instead, unchanged."""
        check_subscription(subscription)
        row = await self._database.fetch_row(
            "put_subscription", *rows.subscription_columns(subscription)
        )
        return rows.subscription_of(row) if row else subscription

    async def delete_subscription(self, subscription_id: str) -> bool:
        """Forget a subscription; False: there is none of this id."""
        return bool(await self._database.fetch_value("delete_subscription", subscription_id))

    async def list_subscriptions(self) -> list[TopicSubscription]:
        """Return the subscriptions in the order in which they came."""
        found = await self._database.fetch("list_subscriptions")
        return [rows.subscription_of(row) for row in found]

    # Apps and launched agents

    async def put_app(self, app: AppRow) -> None:
        """Insert or replace an app by its name."""
        about = (app.name, app.spec, app.import_string, app.digest, app.status, app.deployed_at)
        await self._database.execute("put_app", *about, app.before)

    async def delete_app(self, name: str, agent_types: Sequence[str], *, states: bool) -> None:
        """Forget an app and what is kept of its agents, in one transaction."""
        await self._database.execute("delete_app", name, list(agent_types), states)

    async def list_apps(self) -> list[AppRow]:
        """Return the apps in order of their first deployment."""
        return [rows.app_of(row) for row in await self._database.fetch("list_apps")]

    async def put_launched(self, agents: Sequence[LaunchedAgent]) -> None:
        """Keep launched agents, whoever leases their slots; replaces earlier ones."""
        await self._keep_launched(None, [LaunchedWrite("", 0, 0, agent) for agent in agents])

    async def keep_launched(
        self, host: str, writes: Sequence[LaunchedWrite]
    ) -> list[CommitOutcome]:
        """Keep, replace or forget launched agents where `host` leases their slots."""
        return await self._keep_launched(host, writes)

    async def _keep_launched(
        self, host: str | None, writes: Sequence[LaunchedWrite]
    ) -> list[CommitOutcome]:
        if not writes:
            return []
        for write in writes:
            check_launched(write.launched)
        columns = rows.launched_columns(writes)
        outcomes = await self._database.fetch_value("keep_launched", host, *columns)
        return [CommitOutcome(outcome) for outcome in outcomes]

    async def load_launched(self, agents: Sequence[AgentId]) -> dict[AgentId, LaunchedAgent]:
        """Return those of the agents that were launched."""
        found = await self._database.fetch("load_launched", *rows.columns(agents, 2))
        return {rows.agent_of(row): rows.launched_of(row) for row in found}

    async def list_launched(
        self, query: LaunchedQuery = ALL_LAUNCHED, *, limit: int = 1000
    ) -> list[LaunchedAgent]:
        """Return launched agents, newest first."""
        found = await self._database.fetch(
            "list_launched",
            None if query.types is None else list(query.types),
            query.key,
            encode(dict(query.labels)) if query.labels else None,
            None if query.statuses is None else [status.value for status in query.statuses],
            *(query.owner or (None, None)),
            query.driver,
            limit,
        )
        return [rows.launched_of(row) for row in found]

    async def types_with_launched(self, agent_types: Sequence[str]) -> set[str]:
        """Return those of the types that have launched agents, in whatever status."""
        found = await self._database.fetch("types_with_launched", list(agent_types))
        return {row["agent_type"] for row in found}

    async def live_drivers(self) -> set[str]:
        """Return the connections with which agents end that have not ended yet."""
        return {row["driver"] for row in await self._database.fetch("live_drivers")}


def _repeated(row: Row, run: NewRun) -> Admission:
    conflict = row["digest"] != run.digest
    return Admission(rows.run_of(row), created=False, conflict=conflict, held=rows.is_held(row))
