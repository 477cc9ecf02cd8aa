"""The manager as an actor."""

# Ray's own annotations are incomplete; what comes out of it is typed here.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from agentray import logs
from agentray.core.leadership import Candidate
from agentray.errors import ManagerSuperseded, StartFailed, StoreUnavailable
from agentray.ids import AgentId
from agentray.protocol.codec import decode
from agentray.protocol.deployment import AppSpec, PoolSpec
from agentray.protocol.letters import DeadLetter, LetterQuery
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.snapshot import Snapshot
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace, TraceQuery, TraceSummary
from agentray.runtime.channel import Channel
from agentray.runtime.database_keeper import DatabaseKeeper
from agentray.runtime.job_keeper import JobKeeper
from agentray.runtime.leadership import Leadership
from agentray.runtime.manager import Manager
from agentray.runtime.pruner import Retention, TraceRetention
from agentray.runtime.ray_adapter.dashboard import Dashboard
from agentray.runtime.ray_adapter.host_factory import RayHostFactory
from agentray.runtime.ray_adapter.ray_host import RayConnector
from agentray.runtime.ray_adapter.ray_jobs import RayJobs
from agentray.runtime.ray_adapter.ray_manager import place_of
from agentray.runtime.ray_adapter.setup import Setup
from agentray.runtime.redrive import Redriver
from agentray.store.base import LaunchedAgent, LaunchedQuery, StateWrite
from agentray.store.embedded import EmbeddedPostgres
from agentray.store.postgres import PostgresStore
from agentray.store.supervision import AgentFailure

_TELL_S = 3.0
"""How long a manager that does not lead tells so before its process ends."""


class ManagerActor:
    """A `Manager` in a process of its own, restarted by Ray when it dies."""

    def __init__(self, setup: bytes) -> None:
        self._packed = setup
        self._setup: Setup = decode(setup)
        self._manager: Manager | None = None
        self._starting = asyncio.Lock()
        self._database: DatabaseKeeper | None = None
        if self._setup.embedded_database:
            server = EmbeddedPostgres(Path(self._setup.embedded_database))
            self._database = DatabaseKeeper(server)
        logs.configure(self._setup.log_level, process="manager")
        self._yielded: ManagerSuperseded | None = None

    async def _running(self) -> Manager:
        # After a restart by Ray nobody calls `start`: the first request does.
        async with self._starting:
            if self._yielded is not None:
                raise self._yielded
            if self._manager is None:
                await self._start_database()
                store = PostgresStore(self._setup.database_url, limits=self._setup.database)
                await store.open()
                lead = await self._gain_lead(store)
                redriver = Redriver(lead.store, Channel(RayConnector()))
                manager = Manager(
                    lead.store,
                    RayHostFactory(),
                    lead=lead,
                    host_setup=self._packed,
                    default_hosts=self._setup.default_hosts,
                    redriver=redriver,
                    quarantine_after=self._setup.quarantine_after,
                    retention=Retention(
                        TraceRetention(
                            self._setup.trace_retention_days, self._setup.trace_retention_runs
                        ),
                        self._setup.run_retention,
                        self._setup.job_retention,
                    ),
                    kept_letters=self._setup.dead_letters,
                    jobs=JobKeeper(
                        lead.store, RayJobs(Dashboard()), log_bytes=self._setup.job_log_bytes
                    ),
                )
                await manager.start()
                self._manager = manager
                self._ending = asyncio.create_task(self._end_without_lead(lead), name="end")
        self._manager.check_leads()
        return self._manager

    async def _start_database(self) -> None:
        """Start the embedded database if there is one, unless it runs.

        Raises:
            StoreUnavailable: it did not start now, as when it is killed meanwhile. Whoever asks the
                manager next has it tried again.
        """
        if self._database is not None:
            try:
                await self._database.start()
            except StartFailed as error:
                raise StoreUnavailable(str(error)) from error

    async def _gain_lead(self, store: PostgresStore) -> Leadership:
        context = ray.get_runtime_context()
        about = f"{context.get_actor_name()} (process {os.getpid()}) at {context.gcs_address}"
        place = place_of(context.get_actor_id())
        try:
            return await Leadership.gain(store, Candidate(place, about))
        except ManagerSuperseded as error:
            self._yielded = error
            self._ending = asyncio.create_task(_leave(restarted=False), name="end")
            await store.close()
            if self._database is not None:
                await self._database.close()
            raise

    async def _end_without_lead(self, lead: Leadership) -> None:
        other = await lead.until_lost()
        await _leave(restarted=other is not None and other.place == lead.lead.place)

    async def alive(self) -> None:
        """Answer: the process lives, whether it works or waits."""

    async def ready(self) -> None:
        """Return when it supervises."""
        await self._running()

    async def watch(self, version: int) -> Snapshot | None:
        """See `Manager.watch`."""
        return await (await self._running()).watch(version)

    async def deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        """See `Manager.deploy`."""
        return await (await self._running()).deploy(spec)

    async def until_placed(self, app: str, wait_s: float) -> tuple[dict[str, str], Snapshot]:
        """See `Manager.until_placed`."""
        return await (await self._running()).until_placed(app, wait_s)

    async def seat(self, agent: AgentId) -> Snapshot:
        """See `Manager.seat`."""
        return await (await self._running()).seat(agent)

    async def kill_seat(self, agent: AgentId) -> None:
        """See `Manager.kill_seat`."""
        await (await self._running()).kill_seat(agent)

    async def about(self, agent: AgentId, what: str) -> dict[str, Any] | None:
        """See `Manager.about`."""
        return await (await self._running()).about(agent, what)

    async def stop_app(self, name: str) -> Snapshot:
        """See `Manager.stop_app`."""
        return await (await self._running()).stop_app(name)

    async def check_removable(self, name: str) -> None:
        """See `Manager.check_removable`."""
        (await self._running()).check_removable(name)

    async def remove_app(self, name: str, delete_states: bool) -> Snapshot:
        """See `Manager.remove_app`."""
        return await (await self._running()).remove_app(name, delete_states)

    async def subscribe(
        self, agent_type: str, topic: str, lineage: Sequence[str], key: str
    ) -> tuple[TopicSubscription, Snapshot]:
        """See `Manager.subscribe`."""
        return await (await self._running()).subscribe(agent_type, topic, lineage, key)

    async def unsubscribe(self, subscription_id: str) -> Snapshot:
        """See `Manager.unsubscribe`."""
        return await (await self._running()).unsubscribe(subscription_id)

    async def subscriptions(self, agent_type: str | None) -> list[TopicSubscription]:
        """See `Manager.subscriptions`."""
        return (await self._running()).subscriptions(agent_type)

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """See `Manager.end_runs`."""
        return await (await self._running()).end_runs(app, cancel, wait_s)

    async def list_states(self, agent_type: str, after: str) -> list[StateWrite]:
        """See `Manager.list_states`."""
        return await (await self._running()).list_states(agent_type, after)

    async def get_state(self, agent: AgentId) -> StateWrite | None:
        """See `Manager.get_state`."""
        return await (await self._running()).get_state(agent)

    async def import_states(self, states: Sequence[StateWrite]) -> None:
        """See `Manager.import_states`."""
        await (await self._running()).import_states(states)

    async def add_pool(self, spec: PoolSpec) -> tuple[dict[str, Any], Snapshot]:
        """See `Manager.add_pool`."""
        return await (await self._running()).add_pool(spec)

    async def update_pool(
        self, name: str, changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Snapshot]:
        """See `Manager.update_pool`."""
        return await (await self._running()).update_pool(name, changes)

    async def set_default_pool(self, name: str) -> Snapshot:
        """See `Manager.set_default_pool`."""
        return await (await self._running()).set_default_pool(name)

    async def remove_pool(self, name: str, successor: str) -> Snapshot:
        """See `Manager.remove_pool`."""
        return await (await self._running()).remove_pool(name, successor)

    async def drain_host(self, host: str, wait_s: float) -> dict[str, Any]:
        """See `Manager.drain_host`."""
        return await (await self._running()).drain_host(host, wait_s)

    async def scale_pool(self, name: str, hosts: int | None, wait_s: float) -> dict[str, Any]:
        """See `Manager.scale_pool`."""
        return await (await self._running()).scale_pool(name, hosts, wait_s)

    async def move_slots(
        self, pool: str, slots: Collection[int], host: str, wait_s: float
    ) -> dict[str, Any]:
        """See `Manager.move_slots`."""
        return await (await self._running()).move_slots(pool, slots, host, wait_s)

    async def balance_pool(self, name: str) -> int:
        """See `Manager.balance_pool`."""
        return await (await self._running()).balance_pool(name)

    async def nodes(self) -> list[dict[str, Any]]:
        """See `Manager.nodes`."""
        return await (await self._running()).nodes()

    async def drain_node(self, node: str, wait_s: float) -> dict[str, Any]:
        """See `Manager.drain_node`."""
        return await (await self._running()).drain_node(node, wait_s)

    async def undrain_node(self, node: str) -> None:
        """See `Manager.undrain_node`."""
        await (await self._running()).undrain_node(node)

    async def gc(self, dry_run: bool) -> list[dict[str, str]]:
        """See `Manager.gc`."""
        return await (await self._running()).gc(dry_run)

    async def pools(self) -> list[dict[str, Any]]:
        """See `Manager.pools`."""
        return (await self._running()).pools()

    async def cancel_run(self, run_id: str) -> Run:
        """See `Manager.cancel_run`."""
        return await (await self._running()).cancel_run(run_id)

    async def answer_run(self, run_id: str, answer: Any, question: str | None, key: str) -> Run:
        """See `Manager.answer_run`."""
        return await (await self._running()).answer_run(run_id, answer, question, key)

    async def prune_runs(
        self, older_than_s: float, statuses: Sequence[RunStatus], dry_run: bool
    ) -> dict[RunStatus, int]:
        """See `Manager.prune_runs`."""
        return await (await self._running()).prune_runs(older_than_s, statuses, dry_run)

    async def schedules(self, what: str, *args: Any) -> Any:
        """See `Manager.schedules`."""
        return await (await self._running()).schedules(what, *args)

    async def requests(self, what: str, *args: Any) -> Any:
        """See `Manager.requests`."""
        return await (await self._running()).requests(what, *args)

    async def sessions(self, what: str, *args: Any) -> Any:
        """See `Manager.sessions`."""
        return await (await self._running()).sessions(what, *args)

    async def agents(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """See `Manager.agents`."""
        return await (await self._running()).agents(agent_type, limit)

    async def find_launched(self, query: LaunchedQuery, limit: int) -> list[LaunchedAgent]:
        """See `Manager.find_launched`."""
        return await (await self._running()).find_launched(query, limit)

    async def release_agent(self, agent: AgentId) -> bool:
        """See `Manager.release_agent`."""
        return await (await self._running()).release_agent(agent)

    async def failed_agents(self, agent_type: str | None, limit: int) -> list[AgentFailure]:
        """See `Manager.failed_agents`."""
        return await (await self._running()).failed_agents(agent_type, limit)

    async def dead_letters(
        self, query: LetterQuery, limit: int, before: str | None
    ) -> list[DeadLetter]:
        """See `LetterDesk.list`."""
        return await (await self._running()).dead_letters(query, limit, before)

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """See `LetterDesk.get`."""
        return await (await self._running()).dead_letter(letter_id)

    async def retry_dead_letter(self, letter_id: str) -> Run:
        """See `LetterDesk.retry`."""
        return await (await self._running()).retry_dead_letter(letter_id)

    async def purge_dead_letters(self, query: LetterQuery) -> int:
        """See `LetterDesk.purge`."""
        return await (await self._running()).purge_dead_letters(query)

    async def trace(self, run_id: str) -> RunTrace | None:
        """See `Manager.trace`."""
        return await (await self._running()).trace(run_id)

    async def traces(self, query: TraceQuery, limit: int) -> list[TraceSummary]:
        """See `Manager.traces`."""
        return await (await self._running()).traces(query, limit)

    async def renew_driver(self, driver: str, lease_s: float) -> None:
        """See `Manager.renew_driver`."""
        await (await self._running()).renew_driver(driver, lease_s)

    async def end_driver(self, driver: str, grace_s: float) -> None:
        """See `Manager.end_driver`."""
        await (await self._running()).end_driver(driver, grace_s)

    async def status(self) -> dict[str, Any]:
        """See `Manager.status`."""
        manager = await self._running()
        return {**manager.status(), "pid": os.getpid()}

    async def shutdown(self, grace_s: float) -> None:
        """Stop the hosts; the actor itself is killed by who asked."""
        await (await self._running()).stop(grace_s)
        if self._database is not None:
            await self._database.close()


async def _leave(*, restarted: bool) -> None:
    """End this process, some time after it has begun to tell everybody that it does not lead.

    Args:
        restarted: Ray runs another process of this very actor, which must not be touched; otherwise
            the actor ends with the process.
    """
    await asyncio.sleep(_TELL_S)
    if not restarted:
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
    os._exit(1)
