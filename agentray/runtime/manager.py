"""The manager: keeps as many hosts alive as were asked for, and tells everybody who runs what.

A plain class; `ray_adapter` wraps it into a detached actor. It decides in `core.reconcile` and acts
here. No message of an agent passes through it: while it is away, everything goes on with the last
snapshot. When it comes back it reads the Store, adopts the hosts that live, and starts what misses.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from agentray.config import DEAD_LETTERS, QUARANTINE_AFTER
from agentray.core.deaths import DeathCause
from agentray.core.orphans import actor_name
from agentray.core.reconcile import (
    HostFact,
    HostStatus,
    MoveSlots,
    StartHost,
    StopHost,
    reconcile,
)
from agentray.errors import (
    AgentrayError,
    ConfigurationError,
    ManagerSuperseded,
    StartFailed,
    UnknownAgentType,
)
from agentray.event_run import cancel_run
from agentray.ids import AgentId, new_id, slot_of
from agentray.protocol.deployment import AppSpec, PoolSpec
from agentray.protocol.envelope import RunMode
from agentray.protocol.launching import AgentStatus
from agentray.protocol.letters import DeadLetter, LetterQuery
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.snapshot import HostRef, Snapshot
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace, TraceQuery, TraceSummary
from agentray.runtime.adoption import generation_of
from agentray.runtime.agent_stats import NO_COUNTERS
from agentray.runtime.app_removal import AppRemoval
from agentray.runtime.catalog import STOPPED, Catalog
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.driver_leases import DriverLeases
from agentray.runtime.failures import told_of
from agentray.runtime.host_admin import HostAdmin
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.job_keeper import JobKeeper
from agentray.runtime.last_deaths import LastDeaths
from agentray.runtime.leadership import Leadership
from agentray.runtime.letter_desk import LetterDesk
from agentray.runtime.machine_choice import MachineChoice
from agentray.runtime.order_book import OrderBook
from agentray.runtime.orphanage import Orphanage
from agentray.runtime.placements import Placements, PoolState, until_stored
from agentray.runtime.pool_admin import PoolAdmin
from agentray.runtime.pool_book import DEFAULT, PoolBook
from agentray.runtime.ports import HostFactory, HostGone, HostUnreachable
from agentray.runtime.pruner import Pruner, Retention, brooms, prune_by_hand
from agentray.runtime.quarantine import Quarantine
from agentray.runtime.redrive import Redriver, post_run
from agentray.runtime.request_book import RequestBook
from agentray.runtime.resettling import resettle
from agentray.runtime.run_answers import RunAnswers
from agentray.runtime.run_ends import RunEnder
from agentray.runtime.schedule_book import ScheduleBook
from agentray.runtime.scheduler import Scheduler
from agentray.runtime.seats import Seats, is_seat
from agentray.runtime.session_book import SessionBook
from agentray.runtime.session_pruner import session_brooms
from agentray.runtime.tasks import TaskSet
from agentray.runtime.topic_book import TopicBook
from agentray.runtime.trace_reader import read_trace
from agentray.runtime.tryout import TryOut
from agentray.store.base import HostRow, LaunchedAgent, LaunchedQuery, StateWrite, Store
from agentray.store.supervision import AgentFailure, FailureKind

logger = logging.getLogger(__name__)

RECONCILE_S = 1.0
"""How often the manager looks even when nothing happened."""

WATCH_S = 30.0
"""How long a watcher's call stays open without news."""


LINGER_S = 1.0
"""How long a host that has no slots any more answers those who have not heard of it."""

_GRACE_S = 10.0
"""For the agents of a host whose pool is gone."""


class Manager:
    """Supervises the hosts of a cluster."""

    def __init__(  # noqa: PLR0913 - all that there is to say of a manager
        self,
        store: Store,
        factory: HostFactory,
        *,
        lead: Leadership,
        host_setup: bytes,
        default_hosts: int,
        redriver: Redriver,
        retention: Retention | None = None,
        kept_letters: int = DEAD_LETTERS,
        quarantine_after: int = QUARANTINE_AFTER,
        jobs: JobKeeper | None = None,
    ) -> None:
        """Make a manager; `start` lets it work.

        Args:
            store: of its lead.
            factory: makes hosts.
            lead: that it has gained, and ends.
            host_setup: what each host's `start` gets.
            default_hosts: hosts of the pool `default`.
            redriver: gives unfinished runs to their hosts.
            quarantine_after: deaths of hosts after which an agent takes no messages; 0: never.
            retention: how long runs and traces are kept; None: as long as settings say by default.
            kept_letters: dead letters that are kept, the newest.
            jobs: keeps the records of jobs; None: nothing here runs any.
        """
        self._store, self._factory = store, factory
        self._lead, self._jobs = lead, jobs
        self._setup = host_setup
        self._redriver = redriver
        book = PoolBook(store)
        self._orders = OrderBook(store)
        self._seats = Seats()
        self._topics = TopicBook(store)
        default = PoolSpec(DEFAULT, default_hosts)
        self._catalog = Catalog(store, default, book, self._seats, self._topics)
        self._hosts: dict[str, HostKeeper] = {}
        self._tasks = TaskSet("manager")
        self._wake = asyncio.Event()
        self._ended = False  # it starts and fails over nothing any more
        self.quarantine = Quarantine(store, quarantine_after)
        self._deaths = LastDeaths()
        self._placements = Placements(
            store,
            self._catalog,
            self._seats,
            self._hosts,
            redriver,
            self._tasks,
            self.quarantine,
            self._deaths,
            epoch=lead.epoch,
            on_moved=self._wake.set,
            orders=self._orders,
        )
        self.host_admin = HostAdmin(
            self._orders, self._placements, self._hosts, factory, wake=self._wake.set
        )
        self._machines = MachineChoice(
            factory, self._orders, self._placements.pools, self._hosts, self._leaves
        )
        self._answers = RunAnswers(
            store, partial(post_run, redriver.channel, mode=RunMode.ANSWERED)
        )
        self._ender = RunEnder(store, partial(cancel_run, redriver.channel))
        self._end = TaskSet("manager's end")
        self._orphans = Orphanage(store, factory, lead, self._hosts.keys())
        self._drivers = DriverLeases(store, redriver.channel)
        self._scheduler = Scheduler(store, redriver.channel)
        dispatcher = ChannelDispatcher(redriver.channel)
        self._schedules = ScheduleBook(store, dispatcher)
        self._sessions, self._requests = (
            SessionBook(store, dispatcher),
            RequestBook(store, dispatcher),
        )
        self._pruner = Pruner(
            [
                *brooms(store, retention or Retention()),
                *session_brooms(store, redriver.channel),
            ]
        )
        self._reconciling = asyncio.Lock()
        self._deploying = asyncio.Lock()
        self._deploying_app = ""
        self._starts: dict[str, asyncio.Task[None]] = {}  # of hosts that are being brought up
        self.pool_admin = PoolAdmin(
            book,
            self._catalog,
            self._placements,
            self._hosts,
            redriver,
            reconciling=self._reconciling,
            load=self._load,
            wake=self._wake.set,
        )
        self._try_out = TryOut(
            self._placements, self._hosts, self._until_leased, wake=self._wake.set
        )
        self._removal = AppRemoval(
            store,
            self._catalog,
            self._placements,
            self._hosts,
            self._try_out,
            self._topics,
            self.quarantine,
            redriver,
            reconciling=self._reconciling,
            load=self._load,
            wake=self._wake.set,
        )
        self._steps: dict[str, int] = {}  # failures per step of the loop
        self._letters = LetterDesk(store, ChannelDispatcher(redriver.channel), kept_letters)
        self.started_at = datetime.now(UTC)

    # Life

    async def start(self) -> None:
        """Read the Store, adopt living hosts, and begin to supervise.

        One that does not come that far has let go of everything.
        """
        try:
            await self._begin()
        except BaseException:
            await self.abandon()
            raise

    async def _begin(self) -> None:
        await self._catalog.load()
        await self._orders.load()
        await self.quarantine.load()
        await self._placements.load()
        rows = await self._store.list_hosts()
        await asyncio.gather(*(self._adopt(row) for row in rows))  # one may be slow to answer
        await self._placements.load()  # with the leases of seats, which their hosts told of
        self._placements.resume_scales()
        await self._placements.announce()
        self._tasks.spawn(self._loop(), name="reconcile")
        self._scheduler.start()
        if self._jobs is not None:
            self._jobs.start()
        self._lead.keep(self._superseded)

    def _superseded(self) -> None:
        self._end.spawn(self.abandon(), name="end what does not lead")

    async def stop(self, grace_s: float) -> None:
        """Stop the hosts and everything else."""
        self._ended = True
        await self._scheduler.close()
        await self._sessions.close()
        await self._requests.close()
        await self._close_jobs()
        await self._tasks.close()
        await self._drivers.close()
        await asyncio.gather(*(keeper.stop(grace_s) for keeper in self._hosts.values()))
        await self._letters.close()
        await self._redriver.close()
        await self._lead.give_up()

    async def abandon(self) -> None:
        """End its own tasks, as the end of its process would; the hosts go on."""
        self._ended = True
        await self._scheduler.close()
        await self._sessions.close()
        await self._requests.close()
        await self._close_jobs()
        await self._tasks.close()
        await asyncio.gather(*(keeper.abandon() for keeper in self._hosts.values()))
        await self._letters.close()
        await self._redriver.close()
        await self._lead.abandon()
        self._placements.wake()

    async def _close_jobs(self) -> None:
        if self._jobs is not None:
            await self._jobs.close()

    def check_leads(self) -> None:
        """Make sure that it may answer.

        Raises:
            ManagerSuperseded: another manager works; this one has stopped.
        """
        self._lead.check()

    async def _adopt(self, row: HostRow) -> None:
        ref = HostRef(row.id, row.actor_name)
        control = await self._factory.adopt(ref)
        keeper = self._keeper(ref, row.pool, 0)
        if (
            control is None
            or row.status == "starting"
            or not await keeper.adopt(control, row.node_id)
        ):
            self._factory.kill(ref)  # it may wait for room, and would come up for nobody
            await self._bury(keeper, "it was gone when the manager came back")
            return
        try:
            keeper.generation = await generation_of(keeper, row, self._placements, self._catalog)
        except BaseException:
            await keeper.abandon()  # it is watched already, and nobody else knows of it yet
            raise
        if keeper.status is not HostStatus.LIVE:
            return  # it was lost this very moment
        self._hosts[row.id] = keeper
        if is_seat(row.pool):
            for agent in await keeper.resident(None, 1):
                self._seats.found(row.pool, AgentId.parse(agent["agent"]))
        logger.info("host adopted", extra={"action": "host_adopted", "host": row.id})

    # The loop

    async def _loop(self) -> None:
        while True:
            self._wake.clear()
            await self._step("hosts", self._reconcile_hosts)
            await self._step("snapshots", self._placements.catch_up)
            await self._step("suspects", self._clear_suspects)
            await self._step("runs", self._redriver.sweep)
            await self._step("ends of runs", self._ender.sweep)
            await self._step("drivers", self._drivers.sweep)
            await self._step("retention", self._pruner.sweep)
            await self._step("orphans", self._orphans.sweep)
            await self._step("dead letters", self._letters.sweep)
            try:
                async with asyncio.timeout(RECONCILE_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self, name: str, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one part of the loop; its failure is counted and does not stop the others."""
        try:
            await step()
        except ManagerSuperseded as error:
            logger.warning("step %s: %s", name, error, extra={"action": "step_superseded"})
        except Exception as error:
            self._steps[name] = self._steps.get(name, 0) + 1
            logger.exception(
                "step %s failed", name, exc_info=error, extra={"action": "step_failed"}
            )

    async def _reconcile_hosts(self) -> None:
        await self._lead.confirm()
        async with self._reconciling:
            await self._reconcile_once()

    async def _reconcile_once(self) -> None:
        self._placements.free_seats()
        self._placements.sync()
        self._placements.adjust()
        await self._placements.lease_missed()
        commands = reconcile(self._placements.facts(), self._host_facts())
        # Agents whose host is gone wait for nothing, least of all for a process that starts.
        commands.sort(key=lambda command: not isinstance(command, MoveSlots))
        for command in commands:
            match command:
                case StartHost(pool):
                    self._start_host(pool)
                case StopHost(host):
                    self._retire(host)
                case MoveSlots():
                    await self._placements.move(command)

    def _host_facts(self) -> list[HostFact]:
        return [
            HostFact(
                keeper.ref.id,
                keeper.pool,
                keeper.status,
                keeper.generation,
                feasible=keeper.shortage is None or keeper.shortage.feasible,
                leaves=self._leaves(keeper),
            )
            for keeper in self._hosts.values()
        ]

    def _leaves(self, keeper: HostKeeper) -> bool:
        if keeper.status is HostStatus.PENDING and not keeper.avoids <= self._orders.nodes:
            return True  # it waits for room, and there may be some now where it must not be
        return self._orders.wants_gone(keeper.ref.id, keeper.node)

    # Hosts

    def _keeper(self, ref: HostRef, pool: str, generation: int) -> HostKeeper:
        return HostKeeper(
            ref,
            pool,
            known.spec.grace_s if (known := self._placements.pools.get(pool)) else _GRACE_S,
            generation,
            self._factory,
            on_lost=self._host_lost,
            on_pending=self._room_changed,
        )

    def _room_changed(self) -> None:
        """React when a host begins or ceases to wait for room."""
        self._wake.set()
        self._tasks.spawn(self._placements.announce_pending(), name="announce pending")

    def _start_host(self, pool_name: str) -> None:
        pool = self._placements.pools[pool_name]
        if asyncio.get_running_loop().time() < pool.not_before:
            return
        host_id = new_id("host")
        ref = HostRef(host_id, actor_name(host_id, self._lead.lead.cluster))
        keeper = self._keeper(ref, pool_name, pool.generation)
        self._hosts[host_id] = keeper
        start = self._tasks.spawn(self._bring_up(keeper, pool), name=f"start {host_id}")
        self._starts[host_id] = start
        start.add_done_callback(lambda _: self._starts.pop(host_id, None))

    async def _bring_up(self, keeper: HostKeeper, pool: PoolState) -> None:
        ref = keeper.ref
        try:
            # Noted before it is made: a manager that comes back finds it, whatever it waits for.
            made_for = pool.spec.host_digest
            row = HostRow(ref.id, keeper.pool, ref.actor_name, "starting", made_for=made_for)
            await self._store.put_host(row)
            await self._machines.choose(keeper, pool.spec)
            info = await keeper.start(self._setup, pool.spec, self._orders.nodes)
            row = replace(row, status="live", node_id=info["node_id"], pid=info["pid"])
            await self._store.put_host(row)
            loaded: dict[str, bytes] = {}
            # An app may come meanwhile; between the last look and being live nothing is awaited.
            while (code := self._catalog.code(keeper.pool)) != loaded:
                self._refuse_new_code(await keeper.load(code))
                loaded = code
        except AgentrayError as error:
            pool.last_error = str(error)
            now = asyncio.get_running_loop().time()
            pool.not_before = now + (pool.backoff.failed(now, random.random()) or 0.0)  # noqa: S311 - jitter
            logger.error("host did not start: %s", error, extra={"action": "host_start_failed"})
            self._factory.kill(ref)
            await self._bury(keeper, str(error))
        else:
            pool.last_error = ""
            keeper.live()
            logger.info("host is live", extra={"action": "host_live", "host": ref.id})
        self._placements.wake()
        self._wake.set()

    def _refuse_new_code(self, failures: Mapping[str, str]) -> None:
        """Fail a host's start when it cannot import the app that is being deployed.

        Of an app that was deployed before, only the agents fail: one app whose source has gone bad
        must not keep the hosts of all the others down.

        Raises:
            ConfigurationError: the new app is among the failures.
        """
        if self._deploying_app in failures:
            raise ConfigurationError(failures[self._deploying_app])

    def _host_lost(self, keeper: HostKeeper, reason: str) -> None:
        """Begin a fail-over: called as soon as a host is known to be dead."""
        if self._ended:
            return  # nothing is started any more that nobody would end
        blamed = self._hold_to_account(keeper)  # before anybody moves its slots
        self._tasks.spawn(
            self._fail_over(keeper, reason, blamed), name=f"fail over {keeper.ref.id}"
        )

    async def _fail_over(self, keeper: HostKeeper, reason: str, blamed: list[AgentFailure]) -> None:
        logger.error("host lost: %s", reason, extra={"action": "host_lost", "host": keeper.ref.id})
        await keeper.end_probes()
        try:
            await self._lead.confirm()
        except ManagerSuperseded:
            return  # it is the other one's business
        # Its agents come first: the new leases fence it, whatever it still does.
        self._forget(keeper)
        await self._reconcile_hosts()
        self._factory.kill(keeper.ref)  # a wedged host must not linger beside its successor
        await self._bury(keeper, reason)
        await self.quarantine.keep(blamed)

    def _hold_to_account(self, keeper: HostKeeper) -> list[AgentFailure]:
        """Find out which agents may have killed a host; return what is to be kept of it."""
        death = keeper.death
        if death is None:
            return []
        self._deaths.note(keeper.ref.id, keeper.pool, death)
        flight = self._factory.flight(keeper.ref, hung=death.cause is DeathCause.HUNG)
        return self.quarantine.host_died(death, flight)

    async def _clear_suspects(self) -> None:
        """Clear the agents that have finished something since they were suspected."""
        told = (keeper.info.get("proved", ()) for keeper in self._hosts.values())
        proved = {AgentId.parse(agent) for agents in told for agent in agents}
        if proved and await self.quarantine.proved(proved):
            await self._placements.announce(set())

    async def release_agent(self, agent: AgentId) -> bool:
        """Let an agent out of quarantine; return whether it was in."""
        released = await self.quarantine.release(agent)
        if released:
            await self._placements.announce_everywhere()
        return released

    def _forget(self, keeper: HostKeeper) -> None:
        keeper.status = HostStatus.DEAD
        if self._hosts.pop(keeper.ref.id, None) is not None:
            self._letters.host_gone(keeper.info)

    async def _bury(self, keeper: HostKeeper, reason: str) -> None:
        row = HostRow(keeper.ref.id, keeper.pool, keeper.ref.actor_name, "dead", reason=reason)
        self._forget(keeper)
        await until_stored(lambda: self._store.put_host(row))
        await until_stored(lambda: self._orders.forget_host(keeper.ref.id))

    def _retire(self, host_id: str) -> None:
        keeper = self._hosts[host_id]
        if keeper.status is HostStatus.LIVE:
            keeper.status = HostStatus.DRAINING
            self._tasks.spawn(self._stop_host(keeper), name=f"stop {host_id}")
        elif keeper.status is HostStatus.PENDING:
            keeper.status = HostStatus.DEAD
            self._tasks.spawn(self._give_up(keeper), name=f"give up {host_id}")

    async def _give_up(self, keeper: HostKeeper) -> None:
        """End a start that waits for room."""
        start = self._starts.get(keeper.ref.id)
        if start is not None:
            start.cancel()
            await asyncio.wait((start,))
        self._factory.kill(keeper.ref)
        await self._bury(keeper, "it was not wanted any more while it waited for room")
        await self._placements.announce_pending()
        self._wake.set()

    async def _stop_host(self, keeper: HostKeeper) -> None:
        # What was sent by the last snapshot is on its way there: it is told to go elsewhere. Hosts
        # say when they have heard; drivers and gateway replicas have a while.
        version = self._placements.snapshot.version
        await asyncio.sleep(LINGER_S)
        await self._placements.until_told(version, keeper, keeper.grace_s)
        await keeper.stop(keeper.grace_s)
        await self._bury(keeper, "stopped")
        for other in self._hosts.values():
            other.room_was_made()
        await self._placements.announce(set())
        self._wake.set()

    # What clients ask

    async def watch(self, version: int) -> Snapshot | None:
        """Return the snapshot when it is newer than `version`; None after 30 s without news."""
        if self._placements.snapshot.version <= version:
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._placements.news()
            except TimeoutError:
                return None
        return self._placements.snapshot

    async def deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        """Deploy an app and return when its agents can be called.

        Returns:
            What was done (see `Catalog.deploy`), and the snapshot that has it.

        Raises:
            ConfigurationError: it clashes with another app, or hosts cannot import it.
            StartFailed: hosts with the new code do not come up; the old code stays.
        """
        async with self._deploying:
            self._deploying_app = spec.name
            try:
                return await self._deploy(spec)
            finally:
                self._deploying_app = ""

    async def _deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        before = self._catalog.apps.get(spec.name)
        pools = self._catalog.named(spec)
        if before is None:
            await self._try_code(spec, pools & self._placements.pools.keys())
        done = await self._catalog.deploy(spec)
        if before is None:
            await self._load_new(spec, pools)  # hosts that came meanwhile
        self._placements.sync()
        self._wake.set()
        try:
            if done == "replaced":
                await self._try_out.replace(spec.name, pools)
            await self._until_leased(pools)
        except StartFailed:
            await self._catalog.restore(spec.name, before)
            self._wake.set()
            if before is not None:
                await self._try_out.until_back(pools)
            raise
        moved = await resettle(
            spec.name, self._catalog, self._placements, self._redriver, self._reconciling
        )
        await self._catalog.settle(spec.name)
        await self._placements.announce()
        moved()
        return done, self._placements.snapshot

    async def _try_code(self, spec: AppSpec, pools: AbstractSet[str]) -> None:
        """Load an app before it is accepted: one that fails must not stop later hosts.

        Pools whose hosts do not come up are left out: what is wrong with them is said later.

        Raises:
            ConfigurationError: a host cannot import it.
        """
        if not self._hosts:
            self._wake.set()
        while not all(self._placements.has_hosts_or_trouble(pool) for pool in pools):
            await self._placements.news()
        await self._load_new(spec, pools)

    async def _load_new(self, spec: AppSpec, pools: AbstractSet[str]) -> None:
        for pool in pools:
            self._refuse_new_code(await self._load(pool, {spec.name: Catalog.pack(spec)}))

    async def _load(self, pool: str, code: Mapping[str, bytes]) -> dict[str, str]:
        """Bring code to the live hosts of a pool; return why some cannot be imported, by app."""
        answers = await asyncio.gather(
            *(keeper.load(code) for keeper in self._placements.live(pool)), return_exceptions=True
        )
        failures: dict[str, str] = {}
        for answer in answers:
            if isinstance(answer, dict):
                failures |= answer
            elif not isinstance(answer, (HostGone, HostUnreachable)):
                raise answer
            # A host that is lost meanwhile has a successor, which loads everything.
        return failures

    async def _until_leased(self, pools: set[str]) -> None:
        """Wait until every slot of these pools is leased by a host with the newest code.

        Pools that wait for room are not waited for: that may take for ever.

        Raises:
            StartFailed: hosts of one of them fail to start.
        """
        while not all(
            self._placements.leased(pool) or self._placements.shortage(pool) for pool in pools
        ):
            for name in pools & self._placements.pools.keys():
                if self._placements.pools[name].last_error:
                    raise StartFailed(self._placements.pools[name].last_error)
            await self._placements.news()

    async def until_placed(self, app: str, wait_s: float) -> tuple[dict[str, str], Snapshot]:
        """Wait until the pools of an app have their hosts.

        Returns:
            Why those have none that still wait for room after `wait_s`, and the snapshot.

        Raises:
            StartFailed: hosts of one of them fail to start.
        """
        deployed = self._catalog.apps.get(app)
        pools = self._catalog.named(deployed.spec) if deployed else set[str]()
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            await self._until_leased(pools)
            waiting = {
                pool: shortage.reason
                for pool in pools
                if (shortage := self._placements.shortage(pool))
                and not self._placements.leased(pool)
            }
            if not waiting:
                return {}, self._placements.snapshot
            try:
                async with asyncio.timeout_at(deadline):
                    await self._placements.news()
            except TimeoutError:
                return waiting, self._placements.snapshot

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
        async with self._deploying:
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
                {**keeper.describe(), "leaves": self._leaves(keeper)}
                for keeper in self._hosts.values()
            ],
            "upgrades": self._try_out.told(),
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
