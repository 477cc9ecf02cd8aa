"""The manager: keeps as many hosts alive as were asked for, and tells everybody who runs what.

A plain class; `ray_adapter` wraps it into a detached actor. It decides in `core.reconcile` and acts
here. No message of an agent passes through it: while it is away, everything goes on with the last
snapshot. When it comes back it reads the Store, adopts the hosts that live, and starts what misses.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
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
    ManagerSuperseded,
)
from agentray.event_run import cancel_run
from agentray.ids import AgentId, new_id
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.envelope import RunMode
from agentray.protocol.snapshot import HostRef
from agentray.runtime.adoption import generation_of
from agentray.runtime.app_removal import AppRemoval
from agentray.runtime.catalog import Catalog
from agentray.runtime.deploying import Deploying
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.driver_leases import DriverLeases
from agentray.runtime.host_admin import HostAdmin
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.job_keeper import JobKeeper
from agentray.runtime.last_deaths import LastDeaths
from agentray.runtime.leadership import Leadership
from agentray.runtime.letter_desk import LetterDesk
from agentray.runtime.machine_choice import MachineChoice
from agentray.runtime.manager_desk import ManagerDesk
from agentray.runtime.order_book import OrderBook
from agentray.runtime.orphanage import Orphanage
from agentray.runtime.placements import Placements, PoolState, until_stored
from agentray.runtime.pool_admin import PoolAdmin
from agentray.runtime.pool_book import DEFAULT, PoolBook
from agentray.runtime.ports import HostFactory
from agentray.runtime.pruner import Pruner, Retention, brooms
from agentray.runtime.quarantine import Quarantine
from agentray.runtime.redrive import Redriver, post_run
from agentray.runtime.request_book import RequestBook
from agentray.runtime.run_answers import RunAnswers
from agentray.runtime.run_ends import RunEnder
from agentray.runtime.schedule_book import ScheduleBook
from agentray.runtime.scheduler import Scheduler
from agentray.runtime.seats import Seats, is_seat
from agentray.runtime.session_book import SessionBook
from agentray.runtime.session_pruner import session_brooms
from agentray.runtime.tasks import TaskSet
from agentray.runtime.topic_book import TopicBook
from agentray.store.base import HostRow, Store
from agentray.store.supervision import AgentFailure

logger = logging.getLogger(__name__)

RECONCILE_S = 1.0
"""How often the manager looks even when nothing happened."""


LINGER_S = 1.0
"""How long a host that has no slots any more answers those who have not heard of it."""

_GRACE_S = 10.0
"""For the agents of a host whose pool is gone."""


class Manager(ManagerDesk):
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
            factory, self._orders, self._placements.pools, self._hosts, self.host_admin.leaves
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
        self._starts: dict[str, asyncio.Task[None]] = {}  # of hosts that are being brought up
        self._deploying = Deploying(
            self._catalog,
            self._placements,
            self._hosts,
            redriver,
            reconciling=self._reconciling,
            wake=self._wake.set,
        )
        self.pool_admin = PoolAdmin(
            book,
            self._catalog,
            self._placements,
            self._hosts,
            redriver,
            reconciling=self._reconciling,
            load=self._deploying.load,
            wake=self._wake.set,
        )
        self._removal = AppRemoval(
            store,
            self._catalog,
            self._placements,
            self._hosts,
            self._deploying.try_out,
            self._topics,
            self.quarantine,
            redriver,
            reconciling=self._reconciling,
            load=self._deploying.load,
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
                leaves=self.host_admin.leaves(keeper),
            )
            for keeper in self._hosts.values()
        ]

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
                self._deploying.refuse(await keeper.load(code))
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
