"""The catalog: which apps are deployed, and what the snapshot says of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from agentray.errors import ConfigurationError
from agentray.protocol.deployment import AppSpec, PoolSpec, TypeSpec
from agentray.protocol.snapshot import Subscription, TypeView
from agentray.store.base import AppRow, Store

RUNNING = "running"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Deployed:
    """An app as the manager knows it."""

    spec: AppSpec
    row: AppRow

    @property
    def stopped(self) -> bool:
        """Whether its agents take no messages from outside."""
        return self.row.status == STOPPED


class Catalog:
    """The deployed apps, kept in the Store."""

    def __init__(self, store: Store, default_pool: PoolSpec) -> None:
        self._store = store
        self._default_pool = default_pool
        self._apps: dict[str, Deployed] = {}

    async def load(self) -> None:
        """Read what was deployed before."""
        for row in await self._store.list_apps():
            spec = pickle.loads(row.spec)  # noqa: S301 - written by this cluster's manager
            self._apps[row.name] = Deployed(spec, row)

    @property
    def apps(self) -> Mapping[str, Deployed]:
        """The apps by name, in order of their first deployment."""
        return self._apps

    async def deploy(self, spec: AppSpec) -> str:
        """Add or replace an app.

        Returns:
            `unchanged`, `started` (a stopped app of the same code), `added` or `replaced`.

        Raises:
            ConfigurationError: another app has an agent type of the same name.
        """
        for other in self._apps.values():
            clash = {t[0] for t in spec.types} & {t[0] for t in other.spec.types}
            if other.spec.name != spec.name and clash:
                raise ConfigurationError(
                    f"The app {other.spec.name!r} already has an agent type {min(clash)!r}."
                )
        known = self._apps.get(spec.name)
        if known is not None and known.spec.digest == spec.digest:
            if not known.stopped:
                return "unchanged"
            await self.set_status(spec.name, RUNNING)
            return "started"
        deployed_at = datetime.now(UTC)
        row = AppRow(
            spec.name, self.pack(spec), spec.import_string, spec.digest, RUNNING, deployed_at
        )
        await self._store.put_app(row)
        self._apps[spec.name] = Deployed(spec, row)
        return "added" if known is None else "replaced"

    async def set_status(self, name: str, status: str) -> None:
        """Start or stop an app.

        Raises:
            ConfigurationError: there is no such app.
        """
        known = self._apps.get(name)
        if known is None:
            names = ", ".join(self._apps) or "none"
            raise ConfigurationError(f"There is no app {name!r}. Deployed: {names}.")
        old = known.row
        row = AppRow(old.name, old.spec, old.import_string, old.digest, status, old.deployed_at)
        await self._store.put_app(row)
        self._apps[name] = Deployed(known.spec, row)

    async def restore(self, name: str, before: Deployed | None) -> None:
        """Take back a deployment; an app that is new with it stays known as stopped."""
        if before is None:
            await self.set_status(name, STOPPED)
        else:
            await self._store.put_app(before.row)
            self._apps[name] = before

    @staticmethod
    def pack(spec: AppSpec) -> bytes:
        """Return what a host loads."""
        return pickle.dumps(spec, protocol=5)

    # What others need of it

    def pools(self) -> dict[str, PoolSpec]:
        """Return the pools that must exist: `default` and those that apps declare."""
        pools = {"default": self._default_pool}
        for app in self._apps.values():
            for pool in app.spec.pools:
                pools[pool.name] = pool
        return pools

    def types(self) -> dict[str, TypeView]:
        """Return all agent types."""
        return {
            spec.name: TypeView(
                spec.name,
                app.spec.name,
                spec.pool,
                spec.prompts,
                frozenset(spec.idempotent),
                stopped=app.stopped,
                streams=frozenset(spec.streams),
                actions=frozenset(spec.actions),
            )
            for app in self._apps.values()
            for spec in (TypeSpec(*fields) for fields in app.spec.types)
        }

    def subscriptions(self) -> dict[str, tuple[Subscription, ...]]:
        """Return the subscriptions by event type."""
        found: dict[str, tuple[Subscription, ...]] = {}
        for app in self._apps.values():
            for event, agent, key in app.spec.subscriptions:
                found[event] = (*found.get(event, ()), Subscription(event, agent, key))
        return found

    def entries(self) -> tuple[str, ...]:
        """Return the agent types that take prompts addressed to none, oldest app first."""
        return tuple(
            app.spec.entry
            for app in self._apps.values()
            if app.spec.entry is not None and not app.stopped
        )

    def code(self) -> dict[str, bytes]:
        """Return what hosts must load, by app."""
        return {name: app.row.spec for name, app in self._apps.items()}
