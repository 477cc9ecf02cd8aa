"""What operators do with pools while the cluster runs: add, change, redirect, remove, list.

Agents that change their pool lose nothing: the hosts of the new pool are up before the old one is
drained; then the old one's leases are fenced, the change is kept, and everybody is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from agentray.core.reconcile import HostStatus
from agentray.errors import ConfigurationError, PoolPending, StartFailed, UnknownPart
from agentray.ids import SLOTS
from agentray.protocol.deployment import PoolSpec
from agentray.runtime.catalog import Catalog, check_isolation
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.placements import Placements
from agentray.runtime.pool_book import DEFAULT, PoolBook
from agentray.runtime.redrive import Redriver
from agentray.runtime.seats import is_seat, pool_of

logger = logging.getLogger(__name__)


class PoolAdmin:
    """Changes pools at run time."""

    def __init__(
        self,
        book: PoolBook,
        catalog: Catalog,
        placements: Placements,
        hosts: Mapping[str, HostKeeper],
        redriver: Redriver,
        *,
        reconciling: asyncio.Lock,
        load: Callable[[str, Mapping[str, bytes]], Awaitable[Mapping[str, str]]],
        wake: Callable[[], None],
    ) -> None:
        """Made by the manager.

        Args:
            book: what was said of pools.
            catalog: of the apps.
            placements: of the pools.
            hosts: the manager's hosts by id.
            redriver: looks after the runs of agents that have moved.
            reconciling: held while hosts and slots are being decided about.
            load: brings code to the live hosts of a pool; returns why some cannot be imported.
            wake: lets the manager look at once.
        """
        self._book = book
        self._catalog = catalog
        self._placements = placements
        self._hosts = hosts
        self._redriver = redriver
        self._reconciling = reconciling
        self._load = load
        self._wake = wake
        self._changing = asyncio.Lock()

    async def add(self, spec: PoolSpec) -> dict[str, Any]:
        """Add a pool, or change one; return it when its hosts are up or wait for room.

        Raises:
            StartFailed: its hosts do not come up; nothing has changed.
            ConfigurationError, PoolPending: agents that lived there once cannot move back to it.
        """
        async with self._changing:
            return await self._put(spec)

    async def update(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change fields of a pool's spec, and return it as `add` does.

        Raises:
            StartFailed: its hosts do not come up; nothing has changed.
            UnknownPart, ConfigurationError: there is no such pool, or it cannot change so.
        """
        async with self._changing:
            self._check_known(name)
            return await self._put(replace(self._catalog.pools()[name], **changes))

    async def _put(self, spec: PoolSpec) -> dict[str, Any]:
        name = spec.name
        check_isolation(spec, self._catalog.pools().get(name))
        before = self._book.specs.get(name)
        successor = self._book.successors.get(name, "")
        was_removed = self._book.is_removed(name)
        await self._book.put(name, spec, successor)
        if name == DEFAULT and successor:  # another pool is the default, and goes on being it
            return {"name": name, "status": "idle"}
        try:
            await self._warm_up(name)
            await self._redirect(name, spec, "")
        except StartFailed:
            if before is not None or successor or was_removed:
                await self._book.put(name, before, successor)
            else:
                await self._book.delete(name)
            await self._apply()
            raise
        return self.describe(name)

    async def set_default(self, name: str) -> None:
        """Let agent types that name no pool live in this one.

        Raises:
            UnknownPart: there is no such pool.
            ConfigurationError: its hosts cannot run the agents' code.
            StartFailed, PoolPending: it has no hosts to take them.
        """
        async with self._changing:
            if name == self._book.resolve(DEFAULT):
                return
            if name != DEFAULT:
                self._check_known(name)
            await self._warm_up(name, must_have_room=True)
            await self._redirect(
                DEFAULT, self._book.specs.get(DEFAULT), "" if name == DEFAULT else name
            )

    async def remove(self, name: str, successor: str) -> None:
        """Remove a pool; return when its hosts have stopped.

        Args:
            name: of the pool.
            successor: where its agents live from now on; "": there are none.

        Raises:
            UnknownPart: there is no such pool.
            ConfigurationError: agents live there and have no successor.
            StartFailed, PoolPending: the successor has no hosts to take them.
        """
        async with self._changing:
            self._check_known(name)
            if successor:
                if successor == name:
                    raise ConfigurationError(f"The pool {name!r} cannot take over from itself.")
                self._check_known(successor)
                await self._warm_up(successor, must_have_room=True)
                await self._redirect(name, None, successor)
            else:
                self._check_unused(name)
                await self._drop(name)
            while any(self._stops(keeper, name) for keeper in self._hosts.values()):
                await self._placements.news()

    def _stops(self, keeper: HostKeeper, name: str) -> bool:
        # One that is just being made is stopped as soon as it lives; that may take a minute.
        return pool_of(keeper.pool) == name and keeper.status is not HostStatus.STARTING

    def _check_known(self, name: str) -> None:
        if name not in self._placements.pools:
            raise UnknownPart("pool", name, tuple(self._placements.pools))

    def _check_unused(self, name: str) -> None:
        if name == self._book.resolve(DEFAULT):
            raise ConfigurationError(
                f"The pool {name!r} is the default: agent types that name no pool live there. "
                f"Set another default first, or say which pool takes over."
            )
        users = self._catalog.users(name)
        if users:
            raise ConfigurationError(
                f"Agents of running apps live in the pool {name!r}: {', '.join(users)}. "
                f"Stop their apps first, or say which pool takes over."
            )

    async def _drop(self, name: str) -> None:
        for other, target in dict(self._book.successors).items():
            if target == name:
                await self._book.delete(other)
        if name in self._catalog.declared():  # by stopped apps; it comes back with one of them
            await self._book.put(name, None)
        else:
            await self._book.delete(name)
        await self._apply()

    # Steps

    async def _apply(self) -> None:
        self._placements.sync()
        self._wake()
        await self._placements.announce(set())

    async def _warm_up(self, name: str, *, must_have_room: bool = False) -> None:
        """Have the hosts of a pool up before anybody moves there.

        Raises:
            StartFailed: they do not come up.
            PoolPending: they wait for room, and must not.
        """
        self._book.warming.add(name)
        try:
            self._placements.sync()
            self._placements.pools[name].last_error = ""  # what failed earlier may succeed now
            await self._apply()
            shortage = await self._until_there(name)
        finally:
            self._book.warming.discard(name)
        if shortage and (must_have_room or self._moved(name, "")):
            raise PoolPending(f"the pool {name!r}", name, shortage)

    async def _until_there(self, name: str) -> str:
        """Wait until a pool's hosts lease its slots; return why they cannot, "" when they do."""
        while not self._placements.leased(name):
            pool = self._placements.pools[name]
            if pool.last_error:
                raise StartFailed(f"The pool {name!r} has no hosts: {pool.last_error}")
            shortage = self._placements.shortage(name)
            if shortage is not None:
                return shortage.reason
            await self._placements.news()
        return ""

    def _moved(self, name: str, successor: str) -> dict[str, str]:
        """Return where agents would live instead, by the pool in which they live."""
        after = {k: v for k, v in self._book.successors.items() if k != name}
        if successor:
            after[name] = successor
        named = {pool for app in self._catalog.apps.values() for _, pool, *_ in app.spec.types}
        pairs = {self._book.resolve(pool): self._book.resolve(pool, after) for pool in named}
        return {old: new for old, new in pairs.items() if old != new}

    async def _redirect(self, name: str, spec: PoolSpec | None, successor: str) -> None:
        """Let the agents of a pool live in another one, or in itself again."""
        moves = self._moved(name, successor)
        for old, new in moves.items():
            await self._check_code(old, new)
        left = [place for old in moves for place in (old, *self._placements.seats.of(old))]
        moved = [place for place in left if place in self._placements.pools]
        try:
            for pool in moved:
                await self._placements.drain(pool)
            async with self._reconciling:
                for pool in moved:
                    await self._placements.fence(pool)
                await self._book.put(name, spec, successor)
                self._placements.sync()
        finally:
            for pool in moved:
                self._placements.drained(pool)
        target = self._book.resolve(name)
        await self._load(target, self._catalog.code(target))  # hosts that came meanwhile
        self._wake()
        await self._placements.announce()
        for pool in moved:
            self._redriver.slots_moved(pool, range(SLOTS))

    async def _check_code(self, old: str, new: str) -> None:
        """Make sure that the hosts of a pool can run what lived in another one.

        Raises:
            ConfigurationError: they cannot import an app.
        """
        failures = await self._load(new, self._catalog.code(old))
        if failures:
            why = "; ".join(failures.values())
            raise ConfigurationError(f"The agents of {old!r} cannot live in {new!r}: {why}")

    # Looking

    def list(self) -> list[dict[str, Any]]:
        """Return all pools, as JSON."""
        return [self.describe(name) for name in self._placements.pools if not is_seat(name)]

    def describe(self, name: str) -> dict[str, Any]:
        """Return a pool, as JSON."""
        pool = self._placements.pools[name]
        spec = pool.spec
        places = self._placements.seats.of(name) if spec.isolated else [name]
        there = [place for place in places if place in self._placements.pools]
        live = sum(len(self._placements.live(place)) for place in there)
        wanted = sum(self._placements.wanted(place) for place in there)
        shortage = next(filter(None, map(self._placements.shortage, there)), None)
        last_error = next(filter(None, (self._placements.pools[p].last_error for p in there)), "")
        return {
            "name": name,
            "status": _status(live, wanted, pending=shortage is not None, error=last_error),
            "hosts": live,
            "wanted": wanted,
            "min_hosts": 0 if spec.isolated else spec.hosts,
            "max_hosts": spec.most,
            "scaled_to": self._placements.ordered_size(name),
            "slots": sum(slot is not None for slot in pool.slots),
            "rollout": None if pool.trial is None else self._placements.moved(name),
            "load": sum(map(self._placements.load_of, there)),
            "isolation": spec.isolation,
            "resources": spec.demand,
            "placement": spec.placement,
            "runtime_env": sorted(spec.runtime_env),
            "default": name == self._book.resolve(DEFAULT),
            "added": name in self._book.specs,
            "agents": self._catalog.users(name),
            "pending": shortage.reason if shortage else "",
            "last_error": last_error,
        }


def _status(live: int, wanted: int, *, pending: bool, error: str) -> str:
    if live >= wanted:
        return "live" if live else "idle"
    if pending:
        return "pending"
    return "failing" if error else "starting"
