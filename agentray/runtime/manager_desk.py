"""The manager's desk: what clients ask of it. Each question goes on to the part that knows.

A part of `Manager`, which supervises; nothing here starts or ends a host by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from agentray.core.reconcile import (
    HostStatus,
)
from agentray.errors import (
    UnknownAgentType,
)
from agentray.ids import AgentId, slot_of
from agentray.protocol.deployment import AppSpec, PoolSpec
from agentray.protocol.launching import AgentStatus
from agentray.protocol.letters import DeadLetter, LetterQuery
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.snapshot import Snapshot
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace, TraceQuery, TraceSummary
from agentray.runtime.agent_stats import NO_COUNTERS
from agentray.runtime.app_removal import AppRemoval
from agentray.runtime.catalog import STOPPED, Catalog
from agentray.runtime.deploying import Deploying
from agentray.runtime.driver_leases import DriverLeases
from agentray.runtime.failures import told_of
from agentray.runtime.host_admin import HostAdmin
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.last_deaths import LastDeaths
from agentray.runtime.letter_desk import LetterDesk
from agentray.runtime.orphanage import Orphanage
from agentray.runtime.placements import Placements
from agentray.runtime.pool_admin import PoolAdmin
from agentray.runtime.ports import HostFactory
from agentray.runtime.pruner import prune_by_hand
from agentray.runtime.quarantine import Quarantine
from agentray.runtime.redrive import Redriver
from agentray.runtime.request_book import RequestBook
from agentray.runtime.run_answers import RunAnswers
from agentray.runtime.run_ends import RunEnder
from agentray.runtime.schedule_book import ScheduleBook
from agentray.runtime.seats import Seats
from agentray.runtime.session_book import SessionBook
from agentray.runtime.topic_book import TopicBook
from agentray.runtime.trace_reader import read_trace
from agentray.store.base import LaunchedAgent, LaunchedQuery, StateWrite, Store
from agentray.store.supervision import AgentFailure, FailureKind

logger = logging.getLogger(__name__)

WATCH_S = 30.0
"""How long a watcher's call stays open without news."""


class ManagerDesk:
    """Answers clients: a part of `Manager`, which makes what is named here."""

    started_at: datetime
    quarantine: Quarantine
    host_admin: HostAdmin
    pool_admin: PoolAdmin
    _store: Store
    _factory: HostFactory
    _catalog: Catalog
    _placements: Placements
    _deploying: Deploying
    _removal: AppRemoval
    _hosts: dict[str, HostKeeper]
    _seats: Seats
    _topics: TopicBook
    _redriver: Redriver
    _answers: RunAnswers
    _ender: RunEnder
    _schedules: ScheduleBook
    _requests: RequestBook
    _sessions: SessionBook
    _letters: LetterDesk
    _drivers: DriverLeases
    _orphans: Orphanage
    _deaths: LastDeaths
    _reconciling: asyncio.Lock
    _wake: asyncio.Event
    _steps: dict[str, int]

    async def watch(self, version: int) -> Snapshot | None:
        """Return the snapshot when it is newer than `version`; None after 30 s without news."""
        if self._placements.snapshot.version <= version:
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._placements.news()
            except TimeoutError:
                return None
        return self._placements.snapshot

    async def seat(self, agent: AgentId) -> Snapshot:
        """Let an isolated agent have a host; return the snapshot that tells in which pool it is.

        Raises:
            Overloaded: as many agents as its pool is for have one.
        """
        view = self._placements.snapshot.types.get(agent.type)
        pool = self._placements.pools.get(view.pool) if view else None
        if pool is not None and pool.spec.isolated and agent not in self._seats.by_agent():
            self._seats.take(agent, pool.spec, {keeper.pool for keeper in self._hosts.values()})
            self._placements.sync()
            self._wake.set()
            await self._placements.announce(set())
        return self._placements.snapshot

    async def kill_seat(self, agent: AgentId) -> None:
        """Kill the process of an isolated agent that blocks it; nothing, when it has none."""
        seat = self._seats.by_agent().get(agent)
        for keeper in [k for k in self._hosts.values() if seat is not None and k.pool == seat]:
            extra = {"action": "seat_killed", "agent": str(agent), "host": keeper.ref.id}
            logger.warning("%s blocks its host and is shut down: killed", agent, extra=extra)
            self._factory.kill(keeper.ref)

    async def about(self, agent: AgentId, what: str) -> dict[str, Any] | None:
        """Return what there is to say of an isolated agent that has no host.

        Args:
            agent: whom it is about.
            what: `status`, `stats`, `describe` or `ping`, to which there is nothing to say.

        Returns:
            None: it has a host, or only a host can tell.
        """
        if agent in self._seats.by_agent():
            return None
        match what:
            case "describe":
                text = self._catalog.description(agent.type)
                return json.loads(text) if text else None
            case "stats":
                return NO_COUNTERS
            case "ping":
                return {}
            case _:
                told = _without_host(agent, await self.find_launched(_only(agent), 1))
                failure = (await self._store.load_failures([agent])).get(agent)
                failed = failure is not None and failure.kind is not FailureKind.SUSPECTED
                return told | told_of(failure) if failure and failed else told

    async def deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        """See `Deploying.deploy`."""
        return await self._deploying.deploy(spec)

    async def until_placed(self, app: str, wait_s: float) -> tuple[dict[str, str], Snapshot]:
        """See `Deploying.until_placed`."""
        return await self._deploying.until_placed(app, wait_s)

    async def add_pool(self, spec: PoolSpec) -> tuple[dict[str, Any], Snapshot]:
        """See `PoolAdmin.add`."""
        return await self.pool_admin.add(spec), self._placements.snapshot

    async def update_pool(
        self, name: str, changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Snapshot]:
        """See `PoolAdmin.update`."""
        return await self.pool_admin.update(name, changes), self._placements.snapshot

    async def set_default_pool(self, name: str) -> Snapshot:
        """See `PoolAdmin.set_default`."""
        await self.pool_admin.set_default(name)
        return self._placements.snapshot

    async def remove_pool(self, name: str, successor: str) -> Snapshot:
        """See `PoolAdmin.remove`."""
        await self.pool_admin.remove(name, successor)
        return self._placements.snapshot

    async def drain_host(self, host: str, wait_s: float) -> dict[str, Any]:
        """See `HostAdmin.drain_host`."""
        return await self.host_admin.drain_host(host, wait_s)

    async def scale_pool(self, name: str, hosts: int | None, wait_s: float) -> dict[str, Any]:
        """See `HostAdmin.scale_pool`; returns the pool."""
        await self.host_admin.scale_pool(name, hosts, wait_s)
        return self.pool_admin.describe(name)

    async def move_slots(
        self, pool: str, slots: Collection[int], host: str, wait_s: float
    ) -> dict[str, Any]:
        """See `HostAdmin.move_slots`."""
        return await self.host_admin.move_slots(pool, slots, host, wait_s)

    async def balance_pool(self, name: str) -> int:
        """See `HostAdmin.balance_pool`."""
        return await self.host_admin.balance_pool(name)

    async def nodes(self) -> list[dict[str, Any]]:
        """See `HostAdmin.nodes`."""
        return await self.host_admin.nodes()

    async def drain_node(self, node: str, wait_s: float) -> dict[str, Any]:
        """See `HostAdmin.drain_node`."""
        return await self.host_admin.drain_node(node, wait_s)

    async def undrain_node(self, node: str) -> None:
        """See `HostAdmin.undrain_node`."""
        await self.host_admin.undrain_node(node)

    def pools(self) -> list[dict[str, Any]]:
        """See `PoolAdmin.list`."""
        return self.pool_admin.list()

    async def stop_app(self, name: str) -> Snapshot:
        """Let an app take no messages from outside; what is under way ends.

        Raises:
            ConfigurationError: there is no such app.
        """
        await self._catalog.set_status(name, STOPPED)
        await self._placements.announce()
        return self._placements.snapshot

    def check_removable(self, name: str) -> None:
        """See `Catalog.check_removable`."""
        self._catalog.check_removable(name)

    async def remove_app(self, name: str, delete_states: bool) -> Snapshot:
        """See `AppRemoval.remove`."""
        async with self._deploying.under_way:
            await self._removal.remove(name, delete_states=delete_states)
        return self._placements.snapshot

    async def subscribe(
        self, agent_type: str, topic: str, lineage: Sequence[str], key: str
    ) -> tuple[TopicSubscription, Snapshot]:
        """Send events on a topic to agents of a type; see `TopicBook.add`.

        Returns when every host routes by it.
        """
        handles = self._catalog.handles()
        kept = await self._topics.add(agent_type, topic, lineage, key, handles)
        await self._placements.announce_everywhere()
        return kept, self._placements.snapshot

    async def unsubscribe(self, subscription_id: str) -> Snapshot:
        """Take a subscription back; return when no host routes by it any more.

        Raises:
            UnknownSubscription: there is none of this id.
        """
        await self._topics.remove(subscription_id)
        await self._placements.announce_everywhere()
        return self._placements.snapshot

    def subscriptions(self, agent_type: str | None) -> list[TopicSubscription]:
        """Return the subscriptions made at run time, oldest first."""
        return self._topics.list(agent_type)

    async def end_runs(self, app: str, cancel: bool, wait_s: float) -> int:
        """Wait until the runs of an app have ended; return how many have not after `wait_s`.

        Args:
            app: its name.
            cancel: they are cancelled.
            wait_s: the longest wait.
        """
        live = [k for k in self._hosts.values() if k.status is HostStatus.LIVE]
        return sum(await asyncio.gather(*(k.end_runs(app, cancel, wait_s) for k in live)))

    async def list_states(self, agent_type: str, after: str) -> list[StateWrite]:
        """Return a page of kept states of a type, with keys above `after`."""
        return await self._store.list_states(agent_type, after=after)

    async def get_state(self, agent: AgentId) -> StateWrite | None:
        """Return what is kept of an agent."""
        return (await self._store.load_states([agent])).get(agent)

    async def import_states(self, states: Sequence[StateWrite]) -> None:
        """Keep states of many agents, all or none; those in memory leave it and read them.

        Their slots are leased anew first, which fences whatever their hosts are about to write.

        Raises:
            UnknownAgentType: of an agent that no app has.
            PayloadError: one of them cannot be kept; nothing was written.
        """
        async with self._reconciling:
            slots: dict[str, set[int]] = {}
            types, seats = self._catalog.types(), self._seats.by_agent()
            for state in states:
                view = types.get(state.agent.type)
                if view is None:
                    raise UnknownAgentType(state.agent.type, tuple(sorted(types)))
                pool = seats.get(state.agent) if view.isolated else view.pool
                if pool in self._placements.pools:
                    slots.setdefault(pool, set()).add(slot_of(state.agent))
            await self._placements.renew(slots)
            try:
                await self._store.put_states(states)
                # They may have failed because of the states that they had.
                await self._store.put_failures([], forget=[state.agent for state in states])
            finally:
                await self._placements.announce()
        for pool, moved in slots.items():
            self._redriver.slots_moved(pool, sorted(moved))

    async def cancel_run(self, run_id: str) -> Run:
        """End a run as cancelled, and return it when it has ended.

        Raises:
            UnknownRun: there is none of this id.
        """
        return await self._ender.cancel(run_id)

    async def answer_run(self, run_id: str, answer: Any, question: str | None, key: str) -> Run:
        """Answer what a run waits to be told, and return it as it is then; see `RunAnswers`."""
        return await self._answers.answer(run_id, answer, question=question, key=key)

    async def prune_runs(
        self, older_than_s: float, statuses: Sequence[RunStatus], dry_run: bool
    ) -> dict[RunStatus, int]:
        """See `prune_by_hand`."""
        older_than = timedelta(seconds=older_than_s)
        return await prune_by_hand(self._store, older_than, statuses, dry_run=dry_run)

    async def schedules(self, what: str, *args: Any) -> Any:
        """Do something with schedules: `what` is the name of a method of `ScheduleBook`."""
        return await getattr(self._schedules, what)(*args)

    async def requests(self, what: str, *args: Any) -> Any:
        """Do something with typed requests: `what` is the name of a method of `RequestBook`."""
        return await getattr(self._requests, what)(*args)

    async def sessions(self, what: str, *args: Any) -> Any:
        """Do something with sessions: `what` is the name of a method of `SessionBook`."""
        return await getattr(self._sessions, what)(*args)

    async def agents(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents in memory of any host."""
        live = [k for k in self._hosts.values() if k.status is HostStatus.LIVE]
        lists = await asyncio.gather(*(k.resident(agent_type, limit) for k in live))
        return [agent for agents in lists for agent in agents][:limit]

    async def find_launched(self, query: LaunchedQuery, limit: int) -> list[LaunchedAgent]:
        """Return launched agents, newest first, without the arguments that only hosts can read."""
        found = await self._store.list_launched(query, limit=limit)
        return [replace(launched, arguments=b"") for launched in found]

    async def failed_agents(self, agent_type: str | None, limit: int) -> list[AgentFailure]:
        """Return agents that have failed or are quarantined, newest first."""
        kinds = (FailureKind.FAILED, FailureKind.QUARANTINED)
        return await self._store.list_failures(kinds=kinds, agent_type=agent_type, limit=limit)

    async def dead_letters(
        self, query: LetterQuery, limit: int, before: str | None
    ) -> list[DeadLetter]:
        """See `LetterDesk.list`."""
        return await self._letters.list(query, limit, before)

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """See `LetterDesk.get`."""
        return await self._letters.get(letter_id)

    async def retry_dead_letter(self, letter_id: str) -> Run:
        """See `LetterDesk.retry`."""
        return await self._letters.retry(letter_id)

    async def purge_dead_letters(self, query: LetterQuery) -> int:
        """See `LetterDesk.purge`."""
        return await self._letters.purge(query)

    async def trace(self, run_id: str) -> RunTrace | None:
        """See `read_trace`."""
        return await read_trace(self._store, run_id)

    async def traces(self, query: TraceQuery, limit: int) -> list[TraceSummary]:
        """Return traces without their spans, newest first."""
        return await self._store.list_traces(query, limit=limit)

    async def renew_driver(self, driver: str, lease_s: float) -> None:
        """Let a connection's agents live for `lease_s` more seconds."""
        self._drivers.renew(driver, lease_s)

    async def end_driver(self, driver: str, grace_s: float) -> None:
        """Shut down the agents that end with a connection."""
        await self._drivers.end(driver, grace_s)

    async def gc(self, dry_run: bool) -> list[dict[str, str]]:
        """End what is left over of hosts, or only look; see `Orphanage.reap`."""
        return [orphan.as_json() for orphan in await self._orphans.reap(dry_run=dry_run)]

    def status(self) -> dict[str, Any]:
        """Return the cluster as the manager sees it, as JSON."""
        held = {name: self._placements.held(name) for name in self._placements.pools}
        return {
            "manager": {
                "started_at": self.started_at.isoformat(),
                "version": self._placements.snapshot.version,
                "failed_steps": self._steps,
            },
            "apps": [
                {
                    "name": name,
                    "status": app.row.status,
                    "agents": [t[0] for t in app.spec.types],
                    "entry": app.spec.entry,
                    "deployed_at": app.row.deployed_at.isoformat(),
                }
                for name, app in self._catalog.apps.items()
            ],
            "pools": self.pool_admin.list(),
            # Since the manager began, and since those hosts began that it has found.
            **self._letters.counts([keeper.info for keeper in self._hosts.values()]),
            "hosts": [
                {
                    **keeper.describe(),
                    # As of now: what the host has said of itself is some seconds old.
                    "slots": held.get(keeper.pool, Counter())[keeper.ref.id],
                    "leaves": self.host_admin.leaves(keeper),
                }
                for keeper in self._hosts.values()
            ],
            "upgrades": self._deploying.try_out.told(),
            "host_deaths": self._deaths.told(),
            "quarantined": {str(a): why for a, why in self.quarantine.quarantined.items()},
        }


def _only(agent: AgentId) -> LaunchedQuery:
    return LaunchedQuery([agent.type], agent.key)


def _without_host(agent: AgentId, records: Sequence[LaunchedAgent]) -> dict[str, Any]:
    """Return the status of an agent that is in no host's memory."""
    ended = next((r for r in records if r.status is not AgentStatus.RUNNING), None)
    return {
        "agent": str(agent),
        "type": agent.type,
        "host": None,
        "status": ended.status.value if ended else "not in memory",
        "queued": 0,
        "last_error": (ended.last_error if ended else "") or None,
    }
