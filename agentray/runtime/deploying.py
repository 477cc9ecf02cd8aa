"""Deploying: hosts load an app, it is accepted, and they lease its slots; or all is as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from agentray.errors import ConfigurationError, StartFailed
from agentray.protocol.deployment import AppSpec
from agentray.protocol.snapshot import Snapshot
from agentray.runtime.catalog import Catalog
from agentray.runtime.host_keeper import HostKeeper
from agentray.runtime.placements import Placements
from agentray.runtime.ports import HostGone, HostUnreachable
from agentray.runtime.redrive import Redriver
from agentray.runtime.resettling import resettle
from agentray.runtime.tryout import TryOut


class Deploying:
    """Brings apps to the hosts."""

    def __init__(
        self,
        catalog: Catalog,
        placements: Placements,
        hosts: Mapping[str, HostKeeper],
        redriver: Redriver,
        *,
        reconciling: asyncio.Lock,
        wake: Callable[[], None],
    ) -> None:
        """Made by the manager.

        Args:
            catalog: of the apps.
            placements: of the pools.
            hosts: the manager's hosts by id.
            redriver: gives unfinished runs to their hosts.
            reconciling: held while pools, hosts and slots are brought together.
            wake: lets the manager look at once.
        """
        self._catalog = catalog
        self._placements = placements
        self._hosts = hosts
        self._redriver = redriver
        self._reconciling = reconciling
        self._wake = wake
        self._app_under_way = ""
        self.under_way = asyncio.Lock()
        self.try_out = TryOut(placements, hosts, self._until_leased, wake=wake)

    async def deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        """Deploy an app and return when its agents can be called.

        Returns:
            What was done (see `Catalog.deploy`), and the snapshot that has it.

        Raises:
            ConfigurationError: it clashes with another app, or hosts cannot import it.
            StartFailed: hosts with the new code do not come up; the old code stays.
        """
        async with self.under_way:
            self._app_under_way = spec.name
            try:
                return await self._deploy(spec)
            finally:
                self._app_under_way = ""

    async def _deploy(self, spec: AppSpec) -> tuple[str, Snapshot]:
        before = self._catalog.apps.get(spec.name)
        pools = self._catalog.named(spec)
        if before is None:
            await self._try_code(spec, pools & self._placements.pools.keys())
        done = await self._catalog.deploy(spec)
        if before is None:
            await self._load_new(spec, pools)  # hosts that came meanwhile
        self._placements.sync()
        self._wake()
        try:
            if done == "replaced":
                await self.try_out.replace(spec.name, pools)
            await self._until_leased(pools)
        except StartFailed:
            await self._catalog.restore(spec.name, before)
            self._wake()
            if before is not None:
                await self.try_out.until_back(pools)
            await self._placements.announce()  # the slots may have been back before the app was
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
            self._wake()
        while not all(self._placements.has_hosts_or_trouble(pool) for pool in pools):
            await self._placements.news()
        await self._load_new(spec, pools)

    async def _load_new(self, spec: AppSpec, pools: AbstractSet[str]) -> None:
        for pool in pools:
            self.refuse(await self.load(pool, {spec.name: Catalog.pack(spec)}))

    async def load(self, pool: str, code: Mapping[str, bytes]) -> dict[str, str]:
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

    def refuse(self, failures: Mapping[str, str]) -> None:
        """Fail a host's start when it cannot import the app that is being deployed.

        Of an app that was deployed before, only the agents fail: one app whose source has gone bad
        must not keep the hosts of all the others down.

        Raises:
            ConfigurationError: the new app is among the failures.
        """
        if self._app_under_way in failures:
            raise ConfigurationError(failures[self._app_under_way])
