"""Placements: who leases which slot, kept in the Store, and the snapshots that tell everybody."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentray.core.reconcile import HostStatus, MoveSlots, PoolFact
from agentray.core.room import Shortage
from agentray.core.scaling import Limits, Scale, next_scale
from agentray.core.supervision import Backoff
from agentray.errors import StoreUnavailable
from agentray.ids import SLOTS
from agentray.protocol.deployment import PoolSpec
from agentray.protocol.snapshot import PoolView, Snapshot
from agentray.runtime.catalog import Catalog
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.last_deaths import LastDeaths
from agentray.runtime.order_book import OrderBook
from agentray.runtime.ports import HostGone, HostUnreachable
from agentray.runtime.quarantine import Quarantine
from agentray.runtime.redrive import Redriver
from agentray.runtime.seats import Seats, is_seat
from agentray.runtime.tasks import TaskSet
from agentray.store.base import SlotLease, Store

logger = logging.getLogger(__name__)

_VERSIONS = 32
"""Bits of the versions that one manager gives. Above them is its epoch: whatever a manager tells
that does not lead any more is older than all that the leading one tells."""

_STORE_RETRY_S = 0.5
_PUSH_AGAIN_S = 0.2

_FIRST_S = 0.25
"""How long everybody waits for the hosts that gain slots to hear of it first."""


@dataclass(slots=True)
class PoolState:
    """A pool as the manager keeps it.

    Attributes:
        spec: as it was declared.
        generation: of the code that its hosts shall run.
        newest: the last generation that was given out.
        scale: how many hosts it shall have.
        slots: holder of each slot.
        epochs: of each slot's lease.
        backoff: of hosts that fail to start.
        moving: a planned move is under way.
        trial: most slots that hosts with new code may have while they are tried out; None: all.
        draining: its agents leave, because it is removed or another one takes them.
        not_before: no host is started earlier, by the event loop's clock: the last ones failed.
        last_error: why the last one failed; "" when it did not.
    """

    spec: PoolSpec
    scale: Scale
    generation: int = 0
    newest: int = 0
    slots: list[str | None] = field(default_factory=lambda: [None] * SLOTS)
    epochs: list[int] = field(default_factory=lambda: [0] * SLOTS)
    backoff: Backoff = field(default_factory=lambda: Backoff(None, 60.0, 0.2, 10.0))
    moving: bool = False
    trial: int | None = None
    draining: bool = False
    not_before: float = 0.0
    last_error: str = ""

    def replace_hosts(self) -> None:
        """Let hosts that were started until now be replaced by new ones."""
        self.newest += 1
        self.generation = self.newest
        self.last_error = ""

    def adjust(self, load: float, now: float) -> None:
        """Let it have as many hosts as its load needs."""
        limits = Limits(self.spec.hosts, self.spec.most, self.spec.load_per_host)
        self.scale = next_scale(self.scale, limits, load, now)


class Placements:
    """Moves slots between hosts and lets everybody know."""

    def __init__(  # noqa: PLR0913 - all that a placement depends on
        self,
        store: Store,
        catalog: Catalog,
        seats: Seats,
        hosts: Mapping[str, HostKeeper],
        redriver: Redriver,
        tasks: TaskSet,
        quarantine: Quarantine,
        deaths: LastDeaths,
        *,
        epoch: int,
        on_moved: Callable[[], None],
        orders: OrderBook,
    ) -> None:
        """Make an empty one.

        Args:
            store: keeps the leases.
            catalog: of the apps.
            seats: of the isolated agents.
            hosts: the manager's hosts by id, as they come and go.
            redriver: looks after the runs of slots that have moved.
            tasks: the manager's; planned moves are among them.
            quarantine: which agents take no messages.
            deaths: of hosts, and why they died.
            epoch: of the manager's lead.
            on_moved: called when a planned move has ended.
            orders: of the operators.
        """
        self.pools: dict[str, PoolState] = {}
        self.snapshot = Snapshot()
        self.seats = seats
        self._store = store
        self._catalog = catalog
        self._hosts = hosts
        self._redriver = redriver
        self._tasks = tasks
        self._quarantine = quarantine
        self._deaths = deaths
        self._first_version = epoch << _VERSIONS
        self._on_moved = on_moved
        self._orders = orders
        self._news = asyncio.Event()

    async def load(self) -> None:
        """Read the leases of the declared pools."""
        self.sync()
        for lease in await self._store.list_slots():
            pool = self.pools.get(lease.pool)
            if pool is not None:
                pool.slots[lease.slot] = lease.host
                pool.epochs[lease.slot] = lease.epoch

    def sync(self) -> None:
        """Let the pools be those that are declared."""
        wanted = self._catalog.pools()
        for name, spec in wanted.items():
            pool = self.pools.setdefault(name, PoolState(spec, Scale(spec.hosts)))
            if not pool.spec.same_host(spec):
                pool.replace_hosts()
            pool.spec = spec
        for name in [name for name in self.pools if name not in wanted]:
            del self.pools[name]

    def facts(self) -> list[PoolFact]:
        """Return the pools as `reconcile` wants them."""
        return [
            PoolFact(
                name,
                self.wanted(name),
                pool.generation,
                tuple(pool.slots),
                self._orders.pins(name),
                pool.trial,
            )
            for name, pool in self.pools.items()
        ]

    # How large pools are

    def wanted(self, name: str) -> int:
        """Return how many hosts a pool shall have now."""
        if self.pools[name].spec.isolated or (self._catalog.dormant(name) and not self.live(name)):
            return 0
        return self._orders.sizes.get(name, self.pools[name].scale.wanted)

    def ordered_size(self, name: str) -> int | None:
        """Return how many hosts somebody has ordered for a pool; None: nobody has."""
        return self._orders.sizes.get(name)

    def live(self, name: str) -> list[HostKeeper]:
        """Return the live hosts of a pool."""
        return [
            keeper
            for keeper in self._hosts.values()
            if keeper.pool == name and keeper.status is HostStatus.LIVE
        ]

    def has_hosts_or_trouble(self, name: str) -> bool:
        """Whether a pool has a live host, or a reason why it has none."""
        pool = self.pools.get(name)
        if pool is None or pool.spec.isolated or self.live(name):
            return True
        return bool(pool.last_error) or self.shortage(name) is not None

    def load_of(self, name: str) -> float:
        """Return the messages under way and waiting at a pool's hosts, as they last told."""
        return sum(keeper.info.get("load", 0) for keeper in self.live(name))

    def free_seats(self) -> None:
        """Take back the seats whose agents have left memory; their hosts stop."""
        now = asyncio.get_running_loop().time()
        for seat in [name for name in self.pools if is_seat(name)]:
            live = self.live(seat)
            empty = bool(live) and not any(
                keeper.info.get("agents") or keeper.info.get("load") for keeper in live
            )
            if self.seats.quiet(seat, now, empty=empty):
                self.seats.free(seat)

    def resume_scales(self) -> None:
        """Begin with as many hosts as there are: a new manager must not shrink a busy pool."""
        for name, pool in self.pools.items():
            there = len(self.live(name))
            pool.scale = Scale(min(max(there, pool.spec.hosts), pool.spec.most))

    def adjust(self) -> None:
        """Let each pool have as many hosts as its load needs."""
        now = asyncio.get_running_loop().time()
        for name, pool in self.pools.items():
            before = pool.scale.wanted
            pool.adjust(self.load_of(name), now)
            if pool.scale.wanted != before:
                logger.info(
                    "pool %s: %d hosts wanted instead of %d",
                    name,
                    pool.scale.wanted,
                    before,
                    extra={"action": "pool_scaled", "pool": name},
                )

    # Waiting for room

    def shortage(self, name: str) -> Shortage | None:
        """Return what the hosts of a pool that are being started wait for.

        Not those that began when the pool was another one: they go, and need what it did then.
        """
        generation = self.pools[name].generation if name in self.pools else 0
        return next(
            (
                keeper.shortage
                for keeper in self._hosts.values()
                if keeper.pool == name
                and keeper.generation == generation
                and keeper.shortage is not None
            ),
            None,
        )

    def _pending(self, name: str) -> str:
        shortage = self.shortage(name)
        return "" if shortage is None or self.live(name) else shortage.reason

    async def announce_pending(self) -> None:
        """Let everybody know when a pool without a host begins or ceases to wait for room."""
        known = {name: pool.pending for name, pool in self.snapshot.pools.items()}
        if known != {name: self._pending(name) for name in self.pools}:
            await self.announce(set())
        else:
            self.wake()

    def held(self, name: str) -> Counter[str | None]:
        """Return how many slots of a pool each host leases."""
        return Counter(self.pools[name].slots) if name in self.pools else Counter()

    def moved(self, name: str) -> int:
        """Return how many slots hosts with the newest code have."""
        pool = self.pools[name]
        fresh = {k.ref.id for k in self.live(name) if k.generation == pool.generation}
        return sum(host in fresh for host in pool.slots)

    def leased(self, name: str) -> bool:
        """Whether every slot of a pool is leased by a live host with the newest code."""
        pool = self.pools.get(name)
        if pool is None:
            return False
        if pool.spec.isolated:
            return True  # its hosts come with the agents that need them
        fresh = {
            keeper.ref.id
            for keeper in self._hosts.values()
            if keeper.generation == pool.generation and keeper.status is HostStatus.LIVE
        }
        return all(host in fresh for host in pool.slots)

    # Moving slots

    async def move(self, move: MoveSlots) -> None:
        """Lease slots anew: those of dead hosts at once, those of living ones after a release."""
        planned = {slot for slots in move.release.values() for slot in slots}
        urgent = {slot: host for slot, host in move.to.items() if slot not in planned}
        if urgent:
            await self._assign(move.pool, urgent)
        pool = self.pools.get(move.pool)
        holders = [host for host in move.release if host in self._hosts]
        # One host at a time gives slots up: what its agents do may need those of all others.
        if holders and pool is not None and not any(p.moving for p in self.pools.values()):
            pool.moving = True
            name = f"move slots of {move.pool}"
            self._tasks.spawn(self._move_planned(move, pool, holders[0]), name=name)

    async def _move_planned(self, move: MoveSlots, pool: PoolState, holder: str) -> None:
        """Move slots of one host, each as soon as it has left; what else moves comes after it."""

        async def left(slots: Sequence[int]) -> None:
            if self.pools.get(move.pool) is not pool:
                return  # the pool was removed
            # Meanwhile a host may have died and its slots may have gone elsewhere.
            still: dict[int, str] = {}
            for slot in slots:
                if pool.slots[slot] != holder:
                    continue
                if self._is_live(move.to[slot]):
                    still[slot] = move.to[slot]
                elif self._is_live(holder):
                    still[slot] = holder  # it has given it up, and takes it back
            if still:
                await self._assign(move.pool, still, planned=True)

        try:
            keeper = self._hosts[holder]
            slots = move.release[holder]
            await keeper.release(move.pool, slots, pool.spec.grace_s, left)
        finally:
            pool.moving = False
            self._on_moved()

    def _is_live(self, host: str) -> bool:
        return host in self._hosts and self._hosts[host].status is HostStatus.LIVE

    async def lease_missed(self) -> None:
        """Lease anew what hosts have given up although it is theirs: a move fell through."""
        for name, pool in list(self.pools.items()):
            if pool.moving or pool.draining:
                continue
            missed = {
                slot: keeper.ref.id
                for keeper in self.live(name)
                for where, slot, epoch in keeper.info.get("missed_leases", ())
                if where == name
                and pool.slots[slot] == keeper.ref.id
                and pool.epochs[slot] == epoch
            }
            if missed:
                await self._assign(name, missed)

    async def drain(self, name: str) -> None:
        """Let the agents of a pool finish what they do and leave memory; `drained` ends it."""
        pool = self.pools[name]
        pool.draining = True
        held: dict[str, list[int]] = {}
        for slot, host in enumerate(pool.slots):
            if host is not None and host in self._hosts:
                held.setdefault(host, []).append(slot)
        await asyncio.gather(
            *(self._hosts[h].release(name, slots, pool.spec.grace_s) for h, slots in held.items())
        )

    def drained(self, name: str) -> None:
        """Let a pool be as others again, drained or not."""
        if name in self.pools:
            self.pools[name].draining = False

    async def fence(self, name: str) -> None:
        """Lease a pool's slots to nobody: no host can commit anything for it any more."""
        pool = self.pools[name]
        leases = [SlotLease(name, slot, None, 0) for slot in range(SLOTS)]
        for lease in await until_stored(lambda: self._store.assign_slots(leases)):
            pool.slots[lease.slot] = None
            pool.epochs[lease.slot] = lease.epoch

    async def _assign(
        self, pool_name: str, to: Mapping[int, str], *, planned: bool = False
    ) -> None:
        """Lease slots anew, and let everybody know.

        Args:
            pool_name: theirs.
            to: new holder by slot.
            planned: they were given up, and no run is under way in them: what waits for them is on
                its way from its senders, and must not be begun twice.
        """
        pool = self.pools[pool_name]
        leases = [SlotLease(pool_name, slot, host, 0) for slot, host in to.items()]
        for lease in await until_stored(lambda: self._store.assign_slots(leases)):
            pool.slots[lease.slot] = lease.host
            pool.epochs[lease.slot] = lease.epoch
        await self.announce(set(to.values()))
        if not planned:
            self._redriver.slots_moved(pool_name, list(to))

    async def renew(self, slots: Mapping[str, Collection[int]]) -> None:
        """Lease slots anew to who has them: until `announce`, nobody can write for their agents.

        Args:
            slots: by pool.
        """
        for name, wanted in slots.items():
            pool = self.pools[name]
            leases = [SlotLease(name, slot, pool.slots[slot], 0) for slot in wanted]
            for lease in await self._store.assign_slots(leases):
                pool.epochs[lease.slot] = lease.epoch

    # Snapshots

    async def announce(self, first: set[str] | None = None) -> None:
        """Make a new snapshot; hosts that gained slots get it before those who would call them.

        Args:
            first: hosts to wait for; None: all of them.
        """
        snapshot = self.snapshot = self._make_snapshot()
        reachable = self._reachable()
        chosen = [k for k in reachable if first is None or k.ref.id in first]
        updates = [self._tasks.spawn(self._update(k, snapshot)) for k in chosen]
        if updates:
            # One that does not answer must not keep the others from their slots.
            await asyncio.wait(updates, timeout=_FIRST_S)
        for keeper in reachable:
            if keeper not in chosen:
                self._tasks.spawn(self._update(keeper, snapshot))
        self._redriver.update(snapshot)
        self.wake()
        if updates:
            await asyncio.wait(updates)

    async def announce_everywhere(self) -> None:
        """Make a new snapshot, and return when every living host has it.

        One that cannot be reached is asked again until it can, or its probes have found it dead.
        """
        await self.announce()
        version = self.snapshot.version
        while behind := self._behind(version):
            await asyncio.sleep(_PUSH_AGAIN_S)
            await asyncio.gather(*(self._update(keeper, self.snapshot) for keeper in behind))

    def _behind(self, version: int, without: HostKeeper | None = None) -> list[HostKeeper]:
        return [k for k in self._reachable() if k.told < version and k is not without]

    async def until_told(self, version: int, without: HostKeeper, wait_s: float) -> None:
        """Wait until every other living host has a snapshot, at most for a while."""
        try:
            async with asyncio.timeout(wait_s):
                while self._behind(version, without):  # noqa: ASYNC110 - heartbeats bring it
                    await asyncio.sleep(_PUSH_AGAIN_S)
        except TimeoutError:
            return

    async def catch_up(self) -> None:
        """Bring the snapshot to hosts that a push did not reach; their heartbeats tell."""
        behind = [
            keeper
            for keeper in self._reachable()
            if keeper.info.get("version", self.snapshot.version) < self.snapshot.version
        ]
        await asyncio.gather(*(self._update(keeper, self.snapshot) for keeper in behind))

    def wake(self) -> None:
        """Let those who wait for news look again."""
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait until something has changed."""
        await self._news.wait()

    def _reachable(self) -> list[HostKeeper]:
        reachable = (HostStatus.LIVE, HostStatus.DRAINING)
        return [keeper for keeper in self._hosts.values() if keeper.status in reachable]

    def _make_snapshot(self) -> Snapshot:
        return Snapshot(
            version=max(self.snapshot.version + 1, self._first_version),
            types=self._catalog.types(),
            pools={
                name: PoolView(name, tuple(pool.slots), self._pending(name))
                for name, pool in self.pools.items()
            },
            hosts={keeper.ref.id: keeper.ref for keeper in self._reachable()},
            subscriptions=self._catalog.subscriptions(self.leased),
            entries=self._catalog.entries(),
            seats=self.seats.by_agent(),
            roots=self._catalog.roots(),
            quarantined=self._quarantine.told(),
            suspects=self._quarantine.suspects,
            deaths=self._deaths.reasons(),
        )

    async def _update(self, keeper: HostKeeper, snapshot: Snapshot) -> None:
        epochs = {
            (name, slot): pool.epochs[slot]
            for name, pool in self.pools.items()
            for slot, host in enumerate(pool.slots)
            if host == keeper.ref.id
        }
        try:
            await keeper.update(snapshot, epochs)
        except (HostGone, HostUnreachable, TimeoutError) as error:
            # If it is dead, its probe says so; if not, `catch_up` tries again.
            logger.warning("push failed: %s", error, extra={"action": "push_failed"})


async def until_stored(request: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Make a request to the Store, again until it can be reached."""
    while True:
        try:
            return await request()
        except StoreUnavailable as error:
            logger.warning("%s", error, extra={"action": "manager_waits_for_store"})
            await asyncio.sleep(_STORE_RETRY_S)
