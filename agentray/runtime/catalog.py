"""The catalog: which apps are deployed, and what the snapshot says of them."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain

from agentray.errors import ConfigurationError
from agentray.protocol.deployment import AppSpec, PoolSpec, TypeSpec
from agentray.protocol.event_runs import root_type
from agentray.protocol.requests import RequestView
from agentray.protocol.snapshot import Subscription, TypeView
from agentray.runtime.pool_book import DEFAULT, PoolBook
from agentray.runtime.rollout import Rollouts, routed_of
from agentray.runtime.seats import Seats, is_seat, pool_of
from agentray.runtime.topic_book import Handles, TopicBook
from agentray.store.base import AppRow, Store

logger = logging.getLogger(__name__)

RUNNING = "running"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Deployed:
    """An app as the manager knows it."""

    spec: AppSpec
    row: AppRow

    @classmethod
    def of(cls, row: AppRow) -> Deployed:
        """Return the app of a row."""
        return cls(pickle.loads(row.spec), row)  # noqa: S301 - written by this cluster's manager

    @property
    def stopped(self) -> bool:
        """Whether its agents take no messages from outside."""
        return self.row.status == STOPPED


class Catalog:
    """The deployed apps, kept in the Store."""

    def __init__(
        self,
        store: Store,
        default_pool: PoolSpec,
        book: PoolBook,
        seats: Seats,
        topics: TopicBook,
    ) -> None:
        self._store = store
        self._topics = topics
        self._default_pool = default_pool
        self._book = book
        self._seats = seats
        self._apps: dict[str, Deployed] = {}
        self._rollouts = Rollouts()
        self._moving: dict[str, AppSpec] = {}  # by app: where its agents live until they have moved

    async def load(self) -> None:
        """Read what was deployed before."""
        await self._book.load()
        await self._topics.load()
        for row in await self._store.list_apps():
            self._apps[row.name] = Deployed.of(row)
            if row.before is not None:
                await self._take_back(self._apps[row.name], row.before)

    async def _take_back(self, half: Deployed, packed: bytes) -> None:
        """Take back a deployment in whose midst the manager died: nobody knows how far it came."""
        extra = {"action": "deployment_taken_back", "app": half.row.name}
        logger.warning("the deployment of %s had not ended", half.row.name, extra=extra)
        before = Deployed.of(pickle.loads(packed)) if packed else None  # noqa: S301 - written by this cluster's manager
        await self.restore(half.row.name, before)
        if before is not None:  # there may be hosts with the new code
            self._rollouts.begin(half.spec, before.spec)

    @property
    def apps(self) -> Mapping[str, Deployed]:
        """The apps by name, in order of their first deployment."""
        return self._apps

    async def deploy(self, spec: AppSpec) -> str:
        """Add or replace an app.

        Returns:
            `unchanged`, `started` (a stopped app of the same code), `added` or `replaced`.

        Raises:
            ConfigurationError: another app has an agent type of the same name or declares a pool
                differently, or a pool that it names does not exist.
        """
        for other in self._apps.values():
            clash = {t[0] for t in spec.types} & {t[0] for t in other.spec.types}
            if other.spec.name != spec.name and clash:
                raise ConfigurationError(_taken(other, min(clash)))
        self._check_pools(spec)
        for pool in spec.pools:
            if self._book.is_removed(pool.name):
                await self._book.delete(pool.name)
        known = self._apps.get(spec.name)
        if known is not None and known.spec.digest == spec.digest:
            if not known.stopped:
                return "unchanged"
            await self.set_status(spec.name, RUNNING)
            return "started"
        deployed_at = datetime.now(UTC)
        before = pickle.dumps(known.row, protocol=5) if known else b""
        row = AppRow(
            *(spec.name, self.pack(spec), spec.import_string, spec.digest, RUNNING, deployed_at),
            before=before,
        )
        await self._store.put_app(row)
        self._apps[spec.name] = Deployed(spec, row)
        if known is not None:
            self._rollouts.begin(known.spec, spec)
            self._moving.setdefault(spec.name, known.spec)
        return "added" if known is None else "replaced"

    def leaving(self, name: str) -> tuple[set[str], set[str]]:
        """Return the agent types of an app that get another pool, and the pools that they leave."""
        old = self._moving.get(name)
        before = {} if old is None else self._pools_of(old)
        after = self._pools_of(self._apps[name].spec)
        types = {t for t, pool in before.items() if after.get(t, pool) != pool}
        return types, {before[t] for t in types}

    def moved(self, name: str) -> None:
        """Let the agents of an app live where its newest code says."""
        self._moving.pop(name, None)

    async def settle(self, name: str) -> None:
        """Note that a deployment has succeeded: it is not taken back any more."""
        known = self._apps[name]
        if known.row.before is not None:
            row = replace(known.row, before=None)
            await self._store.put_app(row)
            self._apps[name] = Deployed(known.spec, row)

    def _check_pools(self, spec: AppSpec) -> None:
        own = {pool.name for pool in spec.pools}
        for other in self._apps.values():
            if other.spec.name == spec.name:
                continue
            for pool in other.spec.pools:
                if pool.name in own and pool not in spec.pools:
                    raise ConfigurationError(
                        f"The app {other.spec.name!r} declares the pool {pool.name!r} otherwise. "
                        f"Give this one another name, or declare both in the same way."
                    )
        there = self.pools()
        for pool in spec.pools:
            check_isolation(pool, there.get(pool.name))
        known = {*(name for name in there if not is_seat(name)), *own}
        for type_name, pool, *_ in spec.types:
            if pool not in own and self._book.resolve(pool) not in known:
                raise ConfigurationError(
                    f"{type_name} wants the pool {pool!r}, and there is none. Declare it in the "
                    f"app, or add it first: manager.add_pool({pool!r}). "
                    f"There are: {', '.join(sorted(known))}."
                )

    def _known(self, name: str) -> Deployed:
        known = self._apps.get(name)
        if known is None:
            names = ", ".join(self._apps) or "none"
            raise ConfigurationError(f"There is no app {name!r}. Deployed: {names}.")
        return known

    def check_removable(self, name: str) -> None:
        """Make sure that nobody needs what an app declares.

        Raises:
            ConfigurationError: there is no such app, or agents of others live in a pool of its.
        """
        spec = self._known(name).spec
        others = [app for app in self._apps.values() if app.spec.name != name]
        kept = {pool.name for app in others for pool in app.spec.pools} | self._book.specs.keys()
        own = {pool.name for pool in spec.pools} - kept - {DEFAULT}
        named = {pool: other.spec.name for other in others for _, pool, *_ in other.spec.types}
        needed = {
            self._book.resolve(pool): f"agents of {app!r} live" for pool, app in named.items()
        }
        default = {self._book.resolve(DEFAULT): "agents live whose types name no pool"}
        for pool, why in {**default, **needed}.items():
            if pool in own:
                raise ConfigurationError(
                    f"The app {name!r} cannot be removed: it declares the pool {pool!r}, where "
                    f"{why}. Add the pool first, so that it stays: manager.add_pool({pool!r})."
                )

    def take_out(self, name: str) -> Callable[[], None]:
        """Let an app be known to nobody; what is returned puts it back."""
        before = list(self._apps)
        known = self._apps.pop(name)
        self._rollouts.end(name)
        self._moving.pop(name, None)

        def put_back() -> None:
            self._apps[name] = known
            for other in before[before.index(name) + 1 :]:  # those that came later
                if other in self._apps:
                    self._apps[other] = self._apps.pop(other)

        return put_back

    async def set_status(self, name: str, status: str) -> None:
        """Start or stop an app.

        Raises:
            ConfigurationError: there is no such app.
        """
        known = self._known(name)
        old = known.row
        row = AppRow(old.name, old.spec, old.import_string, old.digest, status, old.deployed_at)
        await self._store.put_app(row)
        self._apps[name] = Deployed(known.spec, row)

    async def restore(self, name: str, before: Deployed | None) -> None:
        """Take back a deployment; an app that is new with it stays known as stopped."""
        self._moving.pop(name, None)
        if before is None:
            await self.set_status(name, STOPPED)
        else:
            await self._store.put_app(before.row)
            self._apps[name] = before
            self._rollouts.end(name)

    @staticmethod
    def pack(spec: AppSpec) -> bytes:
        """Return what a host loads."""
        return pickle.dumps(spec, protocol=5)

    # What others need of it

    def pools(self) -> dict[str, PoolSpec]:
        """Return the pools that must exist: `default`, declared and added ones, and taken seats."""
        known = {DEFAULT: self._default_pool, **self.declared(), **self._book.specs}
        pools = {name: pool for name, pool in known.items() if not self._book.is_away(name)}
        return {**pools, **self._seats.specs(pools)}

    def declared(self) -> dict[str, PoolSpec]:
        """Return the pools that apps declare, those of running apps before others."""
        apps = sorted(self._apps.values(), key=lambda app: not app.stopped)
        left = {pool.name: pool for old in self._moving.values() for pool in old.pools}
        return left | {pool.name: pool for app in apps for pool in app.spec.pools}

    def dormant(self, name: str) -> bool:
        """Whether only stopped apps want a pool: no host is started for them alone."""
        if is_seat(name) or name == DEFAULT:
            return False
        if name in self._book.specs or name in self._book.warming:
            return False
        return not any(
            pool.name == name
            for app in self._apps.values()
            if not app.stopped
            for pool in app.spec.pools
        )

    def users(self, name: str) -> list[str]:
        """Return the agent types of running apps that live in a pool."""
        views = self.types().values()
        return [view.name for view in views if view.pool == name and not view.stopped]

    def types(self) -> dict[str, TypeView]:
        """Return all agent types."""
        isolated = {name for name, pool in self.pools().items() if pool.isolated}
        places: dict[str, str] = {}
        for app in self._apps.values():
            places |= self._pools_of(app.spec)
            if app.spec.name in self._moving:
                places |= self._pools_of(self._moving[app.spec.name])
        return {
            spec.name: TypeView(
                spec.name,
                app.spec.name,
                places[spec.name],
                spec.prompts,
                frozenset(spec.idempotent),
                stopped=app.stopped,
                isolated=places[spec.name] in isolated,
                streams=frozenset(spec.streams),
                actions=frozenset(spec.actions),
                digest=spec.digest,
                accepts=frozenset(spec.accepts),
                requests=tuple(RequestView(*fields) for fields in spec.requests),
                since=app.row.deployed_at.timestamp(),
            )
            for app in self._apps.values()
            for spec in (TypeSpec(*fields) for fields in app.spec.types)
        }

    def roots(self) -> dict[str, TypeView]:
        """Return the built-in types of the roots of event runs: one for each pool."""
        names = {DEFAULT, *self._book.successors}
        names |= {n for n, pool in self.pools().items() if not (pool.isolated or is_seat(n))}
        return {
            root_type(name): TypeView(root_type(name), "", self._book.resolve(name), prompts=False)
            for name in names
        }

    def description(self, agent_type: str) -> str:
        """Return the description of an agent type as JSON; "": only a host can tell it."""
        specs = (TypeSpec(*fields) for app in self._apps.values() for fields in app.spec.types)
        return next((spec.description for spec in specs if spec.name == agent_type), "")

    def subscriptions(self, renewed: Callable[[str], bool]) -> dict[str, tuple[Subscription, ...]]:
        """Return the subscriptions by event type, those of classes before those of run time.

        Args:
            renewed: whether all hosts of a pool have the newest code.
        """
        routed = [
            self._rollouts.routed(app.spec, lambda app=app: all(map(renewed, self.named(app.spec))))
            for app in self._apps.values()
        ]
        of_classes = (s for of_app in routed for s in of_app.subscriptions)
        handles = dict(chain.from_iterable(of_app.handles.items() for of_app in routed))
        found: dict[str, list[Subscription]] = {}
        for subscription in chain(of_classes, self._topics.expanded(handles)):
            found.setdefault(subscription.event_type, []).append(subscription)
        return {event: tuple(of_type) for event, of_type in found.items()}

    def handles(self) -> Handles:
        """Return the event types that each agent type has handlers for."""
        each = (routed_of(app.spec).handles.items() for app in self._apps.values())
        return dict(chain.from_iterable(each))

    def entries(self) -> tuple[str, ...]:
        """Return the agent types that take prompts addressed to none, oldest app first."""
        return tuple(
            app.spec.entry
            for app in self._apps.values()
            if app.spec.entry is not None and not app.stopped
        )

    def named(self, spec: AppSpec) -> set[str]:
        """Return the pools in which an app's agents live, or will when they have moved."""
        specs = [spec, self._moving.get(spec.name, spec)]
        return {pool for each in specs for pool in self._pools_of(each).values()}

    def _pools_of(self, spec: AppSpec) -> dict[str, str]:
        """Return the pool in which each agent type lives by a spec."""
        return {name: self._book.resolve(pool) for name, pool, *_ in spec.types}

    def digests(self, pool: str) -> dict[str, str]:
        """Return the digests of the code that hosts of a pool must have, by app."""
        return {name: self._apps[name].spec.digest for name in self.code(pool)}

    def code(self, pool: str) -> dict[str, bytes]:
        """Return what hosts of a pool must load, by app.

        Not what lives elsewhere: only the pool's own hosts may have what that imports.
        """
        return {
            name: app.row.spec
            for name, app in self._apps.items()
            if pool_of(pool) in self.named(app.spec)
        }


def _taken(other: Deployed, agent_type: str) -> str:
    name = other.spec.name
    return (
        f"The app {name!r}{' (stopped)' if other.stopped else ''} already has an agent type "
        f"{agent_type!r}. All apps can use its agents: leave it out of this one. For a type of its "
        f"own, subclass it, or set another AgentOptions(name=...). An app that nobody needs: "
        f"`agentray remove {name}`, or `agentray up ... --remove {name}` where nothing is up."
    )


def check_isolation(pool: PoolSpec, there: PoolSpec | None) -> None:
    """Make sure that a pool that exists does not change what its hosts are for.

    Raises:
        ConfigurationError: it would.
    """
    if there is not None and pool.isolation != there.isolation:
        raise ConfigurationError(
            f"The pool {pool.name!r} has isolation={there.isolation!r}, which cannot change while "
            f"it exists. Remove it first, or give the new one another name."
        )
