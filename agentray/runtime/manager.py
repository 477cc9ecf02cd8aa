"""The manager: keeps as many hosts alive as were asked for, and tells everybody who runs what.

A plain class; `ray_adapter` wraps it into a detached actor. It decides in `core.reconcile` and acts
here. No message of an agent passes through it: while it is away, everything goes on with the last
snapshot. When it comes back it reads the Store, adopts the hosts that live, and starts what misses.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from agentray.core.reconcile import (
    HostFact,
    HostStatus,
    MoveSlots,
    StartHost,
    StopHost,
    reconcile,
)
from agentray.errors import AgentrayError, ConfigurationError, StartFailed, UnknownAgentType
from agentray.ids import AgentId, new_id, slot_of
from agentray.protocol.deployment import AppSpec, PoolSpec
from agentray.protocol.snapshot import HostRef, Snapshot
from agentray.runtime.catalog import STOPPED, Catalog
from agentray.runtime.driver_leases import DriverLeases
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.placements import RELEASE_GRACE_S, Placements, PoolState, until_stored
from agentray.runtime.ports import HostFactory, HostGone, HostUnreachable
from agentray.runtime.redrive import Redriver
from agentray.runtime.tasks import TaskSet
from agentray.store.base import HostRow, LaunchedAgent, LaunchedQuery, StateWrite, Store

logger = logging.getLogger(__name__)

RECONCILE_S = 1.0
"""How often the manager looks even when nothing happened."""

WATCH_S = 30.0
"""How long a watcher's call stays open without news."""


class Manager:
    """Supervises the hosts of a cluster."""

    def __init__(
        self,
        store: Store,
        factory: HostFactory,
        *,
        host_setup: bytes,
        default_hosts: int,
        redriver: Redriver,
    ) -> None:
        """Make a manager; `start` lets it work.

        Args:
            store: opened.
            factory: makes hosts.
            host_setup: what each host's `start` gets.
            default_hosts: hosts of the pool `default`.
            redriver: gives unfinished runs to their hosts.
        """
        self._store = store
        self._factory = factory
        self._setup = host_setup
        self._redriver = redriver
        self._catalog = Catalog(store, PoolSpec("default", default_hosts))
        self._hosts: dict[str, HostKeeper] = {}
        self._tasks = TaskSet("manager")
        self._wake = asyncio.Event()
        self._placements = Placements(
            store, self._catalog, self._hosts, redriver, self._tasks, on_moved=self._wake.set
        )
        self._drivers = DriverLeases(store, redriver.channel)
        self._reconciling = asyncio.Lock()
        self._deploying = asyncio.Lock()
        self._deploying_app = ""
        self._steps: dict[str, int] = {}  # failures per step of the loop
        self.started_at = datetime.now(UTC)

    # Life

    async def start(self) -> None:
        """Read the Store, adopt living hosts, and begin to supervise."""
        await self._catalog.load()
        await self._placements.load()
        for row in await self._store.list_hosts():
            await self._adopt(row)
        await self._placements.announce()
        self._tasks.spawn(self._loop(), name="reconcile")

    async def stop(self, grace_s: float) -> None:
        """Stop the hosts and everything else."""
        await self._tasks.close()
        await self._drivers.close()
        await asyncio.gather(*(keeper.stop(grace_s) for keeper in self._hosts.values()))
        await self._redriver.close()

    async def _adopt(self, row: HostRow) -> None:
        ref = HostRef(row.id, row.actor_name)
        control = await self._factory.adopt(ref)
        keeper = self._keeper(ref, row.pool, self._generation(row.pool))
        if control is None or not await keeper.adopt(control):
            await self._bury(keeper, "it was gone when the manager came back")
            return
        self._hosts[row.id] = keeper
        logger.info("host adopted", extra={"action": "host_adopted", "host": row.id})

    def _generation(self, pool: str) -> int:
        known = self._placements.pools.get(pool)
        return known.generation if known else 0

    # The loop

    async def _loop(self) -> None:
        while True:
            self._wake.clear()
            await self._step("hosts", self._reconcile_hosts)
            await self._step("snapshots", self._placements.catch_up)
            await self._step("runs", self._redriver.sweep)
            await self._step("drivers", self._drivers.sweep)
            try:
                async with asyncio.timeout(RECONCILE_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _step(self, name: str, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one part of the loop; its failure is counted and does not stop the others."""
        try:
            await step()
        except Exception as error:
            self._steps[name] = self._steps.get(name, 0) + 1
            logger.exception(
                "step %s failed", name, exc_info=error, extra={"action": "step_failed"}
            )

    async def _reconcile_hosts(self) -> None:
        async with self._reconciling:
            await self._reconcile_once()

    async def _reconcile_once(self) -> None:
        self._placements.sync()
        for command in reconcile(self._placements.facts(), self._host_facts()):
            match command:
                case StartHost(pool):
                    self._start_host(pool)
                case StopHost(host):
                    self._retire(host)
                case MoveSlots():
                    await self._placements.move(command)

    def _host_facts(self) -> list[HostFact]:
        return [
            HostFact(keeper.ref.id, keeper.pool, keeper.status, keeper.generation)
            for keeper in self._hosts.values()
        ]

    # Hosts

    def _keeper(self, ref: HostRef, pool: str, generation: int) -> HostKeeper:
        return HostKeeper(ref, pool, generation, self._factory, on_lost=self._host_lost)

    def _start_host(self, pool_name: str) -> None:
        pool = self._placements.pools[pool_name]
        if time.monotonic() < pool.not_before:
            return
        host_id = new_id("host")
        keeper = self._keeper(HostRef(host_id, f"agentray-{host_id}"), pool_name, pool.generation)
        self._hosts[host_id] = keeper
        self._tasks.spawn(self._bring_up(keeper, pool), name=f"start {host_id}")

    async def _bring_up(self, keeper: HostKeeper, pool: PoolState) -> None:
        ref = keeper.ref
        try:
            info = await keeper.start(self._setup, pool.spec)
            row = HostRow(ref.id, keeper.pool, ref.actor_name, "live", info["node_id"], info["pid"])
            await self._store.put_host(row)
            loaded: dict[str, bytes] = {}
            while (code := self._catalog.code()) != loaded:  # an app may come meanwhile
                self._refuse_new_code(await keeper.load(code))
                loaded = code
            row = HostRow(ref.id, keeper.pool, ref.actor_name, "live", info["node_id"], info["pid"])
            await self._store.put_host(row)
        except AgentrayError as error:
            pool.last_error = str(error)
            pool.not_before = time.monotonic() + (
                pool.backoff.failed(time.monotonic(), random.random()) or 0.0  # noqa: S311 - jitter
            )
            logger.error("host did not start: %s", error, extra={"action": "host_start_failed"})  # noqa: TRY400 - its text says it all
            self._hosts.pop(ref.id, None)
            self._factory.kill(ref)
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
        self._tasks.spawn(self._fail_over(keeper, reason), name=f"fail over {keeper.ref.id}")

    async def _fail_over(self, keeper: HostKeeper, reason: str) -> None:
        logger.error("host lost: %s", reason, extra={"action": "host_lost", "host": keeper.ref.id})
        await keeper.end_probes()
        self._factory.kill(keeper.ref)  # a wedged host must not linger beside its successor
        await self._bury(keeper, reason)
        await self._reconcile_hosts()

    async def _bury(self, keeper: HostKeeper, reason: str) -> None:
        row = HostRow(keeper.ref.id, keeper.pool, keeper.ref.actor_name, "dead", reason=reason)
        keeper.status = HostStatus.DEAD
        self._hosts.pop(keeper.ref.id, None)
        await until_stored(lambda: self._store.put_host(row))

    def _retire(self, host_id: str) -> None:
        keeper = self._hosts[host_id]
        if keeper.status is HostStatus.LIVE:
            keeper.status = HostStatus.DRAINING
            self._tasks.spawn(self._stop_host(keeper), name=f"stop {host_id}")

    async def _stop_host(self, keeper: HostKeeper) -> None:
        await keeper.stop(RELEASE_GRACE_S)
        await self._bury(keeper, "stopped")
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
        pools = {t[1] for t in spec.types}
        if before is None:
            await self._try_code(spec)
        done = await self._catalog.deploy(spec)
        if before is None:
            await self._load({spec.name: Catalog.pack(spec)})  # hosts that came meanwhile
        if done == "replaced":
            self._replace_code(pools)
        self._placements.sync()
        self._wake.set()
        try:
            await self._until_leased(pools)
        except StartFailed:
            await self._catalog.restore(spec.name, before)
            self._replace_code(pools)
            raise
        await self._placements.announce()
        return done, self._placements.snapshot

    async def _try_code(self, spec: AppSpec) -> None:
        """Load an app everywhere before it is accepted: one that fails must not stop later hosts.

        Raises:
            ConfigurationError: a host cannot import it.
        """
        if not self._hosts:
            self._wake.set()
        while not any(k.status is HostStatus.LIVE for k in self._hosts.values()):
            await self._placements.news()
        await self._load({spec.name: Catalog.pack(spec)})

    async def _load(self, code: Mapping[str, bytes]) -> None:
        live = [k for k in self._hosts.values() if k.status is HostStatus.LIVE]
        answers = await asyncio.gather(
            *(keeper.load(code) for keeper in live), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, dict):
                self._refuse_new_code(answer)
            elif not isinstance(answer, (HostGone, HostUnreachable)):
                raise answer
            # A host that is lost meanwhile has a successor, which loads everything.

    def _replace_code(self, pools: set[str]) -> None:
        """Let hosts that imported the old code be replaced by new ones."""
        for name in pools:
            if name in self._placements.pools:
                self._placements.pools[name].generation += 1
                self._placements.pools[name].last_error = ""

    async def _until_leased(self, pools: set[str]) -> None:
        """Wait until every slot of these pools is leased by a host with the newest code.

        Raises:
            StartFailed: hosts of one of them fail to start.
        """
        while not all(self._placements.leased(pool) for pool in pools):
            for name in pools & self._placements.pools.keys():
                if self._placements.pools[name].last_error:
                    raise StartFailed(self._placements.pools[name].last_error)
            await self._placements.news()

    async def stop_app(self, name: str) -> Snapshot:
        """Let an app take no messages from outside; what is under way ends.

        Raises:
            ConfigurationError: there is no such app.
        """
        await self._catalog.set_status(name, STOPPED)
        await self._placements.announce()
        return self._placements.snapshot

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
            types = self._catalog.types()
            for state in states:
                view = types.get(state.agent.type)
                if view is None:
                    raise UnknownAgentType(state.agent.type, tuple(sorted(types)))
                slots.setdefault(view.pool, set()).add(slot_of(state.agent))
            await self._placements.renew(slots)
            try:
                await self._store.put_states(states)
            finally:
                await self._placements.announce()
        for pool, moved in slots.items():
            self._redriver.slots_moved(pool, sorted(moved))

    async def agents(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents in memory of any host."""
        live = [k for k in self._hosts.values() if k.status is HostStatus.LIVE]
        lists = await asyncio.gather(*(k.resident(agent_type, limit) for k in live))
        return [agent for agents in lists for agent in agents][:limit]

    async def find_launched(self, query: LaunchedQuery, limit: int) -> list[LaunchedAgent]:
        """Return launched agents, newest first, without the arguments that only hosts can read."""
        found = await self._store.list_launched(query, limit=limit)
        return [replace(launched, arguments=b"") for launched in found]

    async def renew_driver(self, driver: str, lease_s: float) -> None:
        """Let a connection's agents live for `lease_s` more seconds."""
        self._drivers.renew(driver, lease_s)

    async def end_driver(self, driver: str, grace_s: float) -> None:
        """Shut down the agents that end with a connection."""
        await self._drivers.end(driver, grace_s)

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
            "pools": [
                {
                    "name": name,
                    "hosts": sum(
                        k.pool == name and k.status is HostStatus.LIVE for k in self._hosts.values()
                    ),
                    "wanted": pool.spec.hosts,
                    "slots": sum(slot is not None for slot in pool.slots),
                    "last_error": pool.last_error,
                }
                for name, pool in self._placements.pools.items()
            ],
            "hosts": [keeper.describe() for keeper in self._hosts.values()],
        }
