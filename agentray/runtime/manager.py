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
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentray.core.reconcile import (
    HostFact,
    HostStatus,
    MoveSlots,
    PoolFact,
    StartHost,
    StopHost,
    reconcile,
)
from agentray.core.supervision import Backoff
from agentray.errors import AgentrayError, StartFailed, StoreUnavailable
from agentray.ids import SLOTS, new_id
from agentray.protocol.deployment import AppSpec, PoolSpec
from agentray.protocol.snapshot import HostRef, PoolView, Snapshot
from agentray.runtime.catalog import STOPPED, Catalog
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.ports import HostFactory, HostGone, HostUnreachable
from agentray.runtime.redrive import Redriver
from agentray.runtime.tasks import TaskSet
from agentray.store.base import HostRow, SlotLease, Store

logger = logging.getLogger(__name__)

RECONCILE_S = 1.0
"""How often the manager looks even when nothing happened."""

RELEASE_GRACE_S = 10.0
"""How long agents of a slot that moves may take to finish what they do."""

WATCH_S = 30.0
"""How long a watcher's call stays open without news."""


@dataclass(slots=True)
class _Pool:
    spec: PoolSpec
    generation: int = 0
    slots: list[str | None] = field(default_factory=lambda: [None] * SLOTS)
    epochs: list[int] = field(default_factory=lambda: [0] * SLOTS)
    backoff: Backoff = field(default_factory=lambda: Backoff(None, 60.0, 0.2, 10.0))
    moving: bool = False  # a planned move is under way
    not_before: float = 0.0  # no host is started earlier: the last ones failed to start
    last_error: str = ""


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
        self._pools: dict[str, _Pool] = {}
        self._hosts: dict[str, HostKeeper] = {}
        self._tasks = TaskSet("manager")
        self._wake = asyncio.Event()
        self._snapshot = Snapshot()
        self._news = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._deploying = asyncio.Lock()
        self._steps: dict[str, int] = {}  # failures per step of the loop
        self.started_at = datetime.now(UTC)

    # Life

    async def start(self) -> None:
        """Read the Store, adopt living hosts, and begin to supervise."""
        await self._catalog.load()
        self._sync_pools()
        for lease in await self._store.list_slots():
            pool = self._pools.get(lease.pool)
            if pool is not None:
                pool.slots[lease.slot] = lease.host
                pool.epochs[lease.slot] = lease.epoch
        for row in await self._store.list_hosts():
            await self._adopt(row)
        await self._announce()
        self._tasks.spawn(self._loop(), name="reconcile")

    async def stop(self, grace_s: float) -> None:
        """Stop the hosts and everything else."""
        await self._tasks.close()
        await asyncio.gather(*(keeper.stop(grace_s) for keeper in self._hosts.values()))
        await self._redriver.close()

    async def _adopt(self, row: HostRow) -> None:
        ref = HostRef(row.id, row.actor_name)
        control = await self._factory.adopt(ref)
        keeper = self._keeper(ref, row.pool, self._pools_generation(row.pool))
        if control is None or not await keeper.adopt(control):
            await self._bury(keeper, "it was gone when the manager came back")
            return
        self._hosts[row.id] = keeper
        logger.info("host adopted", extra={"action": "host_adopted", "host": row.id})

    def _pools_generation(self, pool: str) -> int:
        return self._pools[pool].generation if pool in self._pools else 0

    # The loop

    async def _loop(self) -> None:
        while True:
            self._wake.clear()
            await self._step("hosts", self._reconcile_hosts)
            await self._step("runs", self._redriver.sweep)
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
        self._sync_pools()
        for command in reconcile(self._pool_facts(), self._host_facts()):
            match command:
                case StartHost(pool):
                    self._start_host(pool)
                case StopHost(host):
                    self._retire(host)
                case MoveSlots():
                    await self._move(command)

    def _sync_pools(self) -> None:
        """Let the pools be those that are declared."""
        wanted = self._catalog.pools()
        for name, spec in wanted.items():
            self._pools.setdefault(name, _Pool(spec)).spec = spec
        for name in [name for name in self._pools if name not in wanted]:
            del self._pools[name]

    def _pool_facts(self) -> list[PoolFact]:
        return [
            PoolFact(name, pool.spec.hosts, pool.generation, tuple(pool.slots))
            for name, pool in self._pools.items()
        ]

    def _host_facts(self) -> list[HostFact]:
        return [
            HostFact(keeper.ref.id, keeper.pool, keeper.status, keeper.generation)
            for keeper in self._hosts.values()
        ]

    # Hosts

    def _keeper(self, ref: HostRef, pool: str, generation: int) -> HostKeeper:
        return HostKeeper(ref, pool, generation, self._factory, on_lost=self._host_lost)

    def _start_host(self, pool_name: str) -> None:
        pool = self._pools[pool_name]
        if time.monotonic() < pool.not_before:
            return
        host_id = new_id("host")
        keeper = self._keeper(HostRef(host_id, f"agentray-{host_id}"), pool_name, pool.generation)
        self._hosts[host_id] = keeper
        self._tasks.spawn(self._bring_up(keeper, pool), name=f"start {host_id}")

    async def _bring_up(self, keeper: HostKeeper, pool: _Pool) -> None:
        ref = keeper.ref
        try:
            info = await keeper.start(self._setup, pool.spec)
            row = HostRow(ref.id, keeper.pool, ref.actor_name, "live", info["node_id"], info["pid"])
            await self._store.put_host(row)
            loaded: dict[str, bytes] = {}
            while (code := self._catalog.code()) != loaded:  # an app may come meanwhile
                await keeper.load(code)
                loaded = code
            row = HostRow(ref.id, keeper.pool, ref.actor_name, "live", info["node_id"], info["pid"])
            await self._store.put_host(row)
        except AgentrayError as error:
            pool.last_error = str(error)
            pool.not_before = time.monotonic() + (
                pool.backoff.failed(time.monotonic(), random.random()) or 0.0  # noqa: S311
            )
            logger.error("host did not start: %s", error, extra={"action": "host_start_failed"})  # noqa: TRY400
            self._hosts.pop(ref.id, None)
            self._factory.kill(ref)
        else:
            pool.last_error = ""
            keeper.live()
            logger.info("host is live", extra={"action": "host_live", "host": ref.id})
        self._changed()
        self._wake.set()

    def _host_lost(self, keeper: HostKeeper, reason: str) -> None:
        """Begin a fail-over: called as soon as a host is known to be dead."""
        self._tasks.spawn(self._fail_over(keeper, reason), name=f"fail over {keeper.ref.id}")

    async def _fail_over(self, keeper: HostKeeper, reason: str) -> None:
        logger.error("host lost: %s", reason, extra={"action": "host_lost", "host": keeper.ref.id})
        self._factory.kill(keeper.ref)  # a wedged host must not linger beside its successor
        await self._bury(keeper, reason)
        await self._reconcile_hosts()

    async def _bury(self, keeper: HostKeeper, reason: str) -> None:
        row = HostRow(keeper.ref.id, keeper.pool, keeper.ref.actor_name, "dead", reason=reason)
        keeper.status = HostStatus.DEAD
        self._hosts.pop(keeper.ref.id, None)
        await self._retry_store(lambda: self._store.put_host(row))

    def _retire(self, host_id: str) -> None:
        keeper = self._hosts[host_id]
        if keeper.status is HostStatus.LIVE:
            keeper.status = HostStatus.DRAINING
            self._tasks.spawn(self._stop_host(keeper), name=f"stop {host_id}")

    async def _stop_host(self, keeper: HostKeeper) -> None:
        await keeper.stop(RELEASE_GRACE_S)
        await self._bury(keeper, "stopped")
        await self._announce(set())
        self._wake.set()

    # Slots

    async def _move(self, move: MoveSlots) -> None:
        """Lease slots anew: those of dead hosts at once, those of living ones after a release."""
        planned = {slot for slots in move.release.values() for slot in slots}
        urgent = {slot: host for slot, host in move.to.items() if slot not in planned}
        if urgent:
            await self._assign(move.pool, urgent)
        pool = self._pools[move.pool]
        if planned and not pool.moving:
            pool.moving = True
            self._tasks.spawn(self._move_planned(move, pool), name=f"move slots of {move.pool}")

    async def _move_planned(self, move: MoveSlots, pool: _Pool) -> None:
        holders = {slot: pool.slots[slot] for slots in move.release.values() for slot in slots}
        try:
            await asyncio.gather(
                *(
                    self._hosts[host].release(move.pool, slots, RELEASE_GRACE_S)
                    for host, slots in move.release.items()
                    if host in self._hosts
                )
            )
            # Meanwhile a host may have died and its slots may have gone elsewhere.
            still = {
                slot: move.to[slot]
                for slot, holder in holders.items()
                if pool.slots[slot] == holder and self._is_live(move.to[slot])
            }
            if still:
                await self._assign(move.pool, still)
        finally:
            pool.moving = False
            self._wake.set()

    def _is_live(self, host: str) -> bool:
        return host in self._hosts and self._hosts[host].status is HostStatus.LIVE

    async def _assign(self, pool_name: str, to: Mapping[int, str]) -> None:
        pool = self._pools[pool_name]
        leases = [SlotLease(pool_name, slot, host, 0) for slot, host in to.items()]
        for lease in await self._retry_store(lambda: self._store.assign_slots(leases)):
            pool.slots[lease.slot] = lease.host
            pool.epochs[lease.slot] = lease.epoch
        await self._announce(set(to.values()))
        self._redriver.slots_moved(pool_name, list(to))

    async def _announce(self, first: set[str] | None = None) -> None:
        """Make a new snapshot; hosts that gained slots get it before those who would call them.

        Args:
            first: hosts to wait for; None: all of them.
        """
        snapshot = self._snapshot = self._make_snapshot()
        waits: list[Coroutine[Any, Any, None]] = []
        for keeper in list(self._hosts.values()):
            if keeper.status in (HostStatus.LIVE, HostStatus.DRAINING):
                update = self._update_host(keeper, snapshot)
                if first is None or keeper.ref.id in first:
                    waits.append(update)
                else:
                    self._tasks.spawn(update)
        await asyncio.gather(*waits)
        self._redriver.update(snapshot)
        self._changed()

    def _changed(self) -> None:
        """Wake those who watch."""
        self._news.set()
        self._news = asyncio.Event()

    def _make_snapshot(self) -> Snapshot:
        # Milliseconds, so that versions rise also across restarts of the manager.
        version = max(self._snapshot.version + 1, time.time_ns() // 1_000_000)
        return Snapshot(
            version=version,
            types=self._catalog.types(),
            pools={name: PoolView(name, tuple(pool.slots)) for name, pool in self._pools.items()},
            hosts={
                keeper.ref.id: keeper.ref
                for keeper in self._hosts.values()
                if keeper.status in (HostStatus.LIVE, HostStatus.DRAINING)
            },
            subscriptions=self._catalog.subscriptions(),
            entries=self._catalog.entries(),
        )

    async def _update_host(self, keeper: HostKeeper, snapshot: Snapshot) -> None:
        epochs = {
            (name, slot): pool.epochs[slot]
            for name, pool in self._pools.items()
            for slot, host in enumerate(pool.slots)
            if host == keeper.ref.id
        }
        try:
            await keeper.update(snapshot, epochs)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            # If it is dead, its probe says so; if not, the loop brings it the next snapshot.
            logger.warning("push failed: %s", error, extra={"action": "push_failed"})

    async def _retry_store(self, request: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        while True:
            try:
                return await request()
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "manager_waits_for_store"})
                await asyncio.sleep(0.5)

    # What clients ask

    async def watch(self, version: int) -> Snapshot | None:
        """Return the snapshot when it is newer than `version`; None after 30 s without news."""
        if self._snapshot.version <= version:
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._news.wait()
            except TimeoutError:
                return None
        return self._snapshot

    async def deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        """Deploy an app and return when its agents can be called.

        Returns:
            What was done (see `Catalog.deploy`), and the snapshot that has it.

        Raises:
            ConfigurationError: it clashes with another app, or hosts cannot import it.
            StartFailed: hosts with the new code do not come up; the old code stays.
        """
        async with self._deploying:
            before = self._catalog.apps.get(spec.name)
            pools = {t[1] for t in spec.types}
            if before is None:
                await self._try_code(spec)
            done = await self._catalog.deploy(spec)
            if before is None:
                await self._load({spec.name: Catalog.pack(spec)})  # hosts that came meanwhile
            if done == "replaced":
                self._replace_code(pools)
            self._sync_pools()
            self._wake.set()
            try:
                await self._until_leased(pools)
            except StartFailed:
                await self._catalog.restore(spec.name, before)
                self._replace_code(pools)
                raise
            await self._announce()
            return done, self._snapshot

    async def _try_code(self, spec: AppSpec) -> None:
        """Load an app everywhere before it is accepted: one that fails must not stop later hosts.

        Raises:
            ConfigurationError: a host cannot import it.
        """
        if not self._hosts:
            self._wake.set()
        while not any(k.status is HostStatus.LIVE for k in self._hosts.values()):
            await self._news.wait()
        await self._load({spec.name: Catalog.pack(spec)})

    async def _load(self, code: Mapping[str, bytes]) -> None:
        live = [k for k in self._hosts.values() if k.status is HostStatus.LIVE]
        await asyncio.gather(*(keeper.load(code) for keeper in live))

    def _replace_code(self, pools: set[str]) -> None:
        """Let hosts that imported the old code be replaced by new ones."""
        for name in pools:
            if name in self._pools:
                self._pools[name].generation += 1
                self._pools[name].last_error = ""

    async def _until_leased(self, pools: set[str]) -> None:
        """Wait until every slot of these pools is leased by a host with the newest code.

        Raises:
            StartFailed: hosts of one of them fail to start.
        """
        while not all(self._leased(pool) for pool in pools):
            for name in pools & self._pools.keys():
                if self._pools[name].last_error:
                    raise StartFailed(self._pools[name].last_error)
            await self._news.wait()

    def _leased(self, name: str) -> bool:
        pool = self._pools.get(name)
        if pool is None:
            return False
        fresh = {
            k.ref.id
            for k in self._hosts.values()
            if k.generation == pool.generation and k.status is HostStatus.LIVE
        }
        return all(host in fresh for host in pool.slots)

    async def stop_app(self, name: str) -> Snapshot:
        """Let an app take no messages from outside; what is under way ends.

        Raises:
            ConfigurationError: there is no such app.
        """
        await self._catalog.set_status(name, STOPPED)
        await self._announce()
        return self._snapshot

    async def agents(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents in memory of any host."""
        live = [k for k in self._hosts.values() if k.status is HostStatus.LIVE]
        lists = await asyncio.gather(*(k.resident(agent_type, limit) for k in live))
        return [agent for agents in lists for agent in agents][:limit]

    def status(self) -> dict[str, Any]:
        """Return the cluster as the manager sees it, as JSON."""
        return {
            "manager": {
                "started_at": self.started_at.isoformat(),
                "version": self._snapshot.version,
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
                for name, pool in self._pools.items()
            ],
            "hosts": [keeper.describe() for keeper in self._hosts.values()],
        }
