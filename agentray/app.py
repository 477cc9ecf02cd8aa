"""Apps: what one deployment consists of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from agentray.agent import Agent, AgentType, Factory
from agentray.errors import ConfigurationError
from agentray.ids import DEFAULT_POOL, check_type_name
from agentray.middleware import Middleware, check_middleware
from agentray.pool import Pool
from agentray.protocol.snapshot import Subscription


class App:
    """A set of agent types that are deployed together.

    Attributes:
        name: unique in a cluster; deploying the same name again replaces the app.
        types: its agent types by name.
        entry: the type that gets prompts which name no agent; None: there is none.
        pools: the pools that it declares.
        shared_pools: names of pools that it uses and the operator adds.
        pool: where agents live whose classes name none; None: in the default pool.
        middleware: what its agents' messages pass, in this order.
    """

    def __init__(
        self,
        name: str,
        agents: Sequence[type[Agent]],
        *,
        entry: type[Agent] | None = None,
        pools: Sequence[Pool | str] = (),
        pool: str | None = None,
        factories: Mapping[type[Agent], Factory] | None = None,
        middleware: Sequence[type[Middleware] | Middleware | Callable[[], Middleware]] = (),
        health: Callable[[], Any] | None = None,
    ) -> None:
        """Put an app together.

        Args:
            name: unique in a cluster.
            agents: its agent classes.
            entry: the one that takes prompts which name no agent; None: the only one that handles
                prompts, if there is just one.
            pools: that the app declares; a name stands for one that the operator adds to the
                cluster (`manager.add_pool`).
            pool: where the agents live whose classes name no pool; one that is not among `pools`
                is added by the operator. None: in the cluster's default pool.
            factories: what makes the agents of a class instead of its constructor: a function,
                also an asynchronous one, that takes the `AgentId` and the arguments of the launch.
            middleware: what looks at the messages, events and replies of its agents, in this
                order: subclasses of `Middleware`, which each host makes for itself, functions that
                return one, or instances, which are carried over as they are.
            health: a function, also an asynchronous one, that looks whether the app is well in the
                process that calls it. When new code is deployed, each of its hosts calls it after
                some slots have moved there; if it raises or returns False, they move back.

        Raises:
            ConfigurationError: no agents, two of the same name, an unknown pool, an entry that
                handles no prompts, a factory of none of them, or middleware that is none.
        """
        self.name = check_type_name(name)
        types = _with_factories(name, _by_name(name, agents), factories or {})
        self.types = types if pool is None else _in_pool(types, pool)
        self.pool = pool
        self.entry = _entry(name, self.types, entry)
        self.middleware = check_middleware(name, middleware)
        if health is not None and not callable(health):
            raise ConfigurationError(f"The health of the app {name!r} is no function: {health!r}.")
        self.health = health
        self.pools = tuple(pool for pool in pools if isinstance(pool, Pool))
        self.shared_pools = tuple(pool for pool in pools if isinstance(pool, str))
        names = [*(pool.name for pool in self.pools), *self.shared_pools]
        if pool not in {None, DEFAULT_POOL, *names}:
            self.shared_pools += (cast("str", pool),)
            names.append(self.shared_pools[-1])
        if len(set(names)) < len(names):
            raise ConfigurationError(f"The app {name!r} declares two pools of the same name.")
        known = {DEFAULT_POOL, *names}
        for agent_type in self.types.values():
            if agent_type.options.pool not in known:
                raise ConfigurationError(
                    f"{agent_type.cls.__name__} wants the pool {agent_type.options.pool!r}, which "
                    f"the app {name!r} does not declare."
                )

    @property
    def subscriptions(self) -> list[Subscription]:
        """Which events its agent types want.

        Raises:
            PayloadError: a function that was given to `@on` cannot be serialised.
        """
        return [
            handler.subscription(agent_type.name)
            for agent_type in self.types.values()
            for handler in agent_type.wanted
            if handler.subscribe
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        # What was read from the classes is read again where it is unpickled: a kept app must not
        # bring what an older agentray found in them.
        classes = [agent_type.cls for agent_type in self.types.values()]
        entry = None if self.entry is None else self.types[self.entry].cls
        factories = {t.cls: t.factory for t in self.types.values() if t.factory is not None}
        pools = (*self.pools, *self.shared_pools)
        more: tuple[Any, ...] = (self.middleware,) if self.middleware else ()
        if self.health is not None:
            more = (self.middleware, self.health)
        if self.pool is not None:
            more = (self.middleware, self.health, self.pool)
        return _rebuild, (self.name, classes, entry, pools, factories, *more)

    def __repr__(self) -> str:
        return f"App({self.name!r}, {sorted(self.types)})"


def _rebuild(
    name: str,
    agents: Sequence[type[Agent]],
    entry: type[Agent] | None,
    pools: Sequence[Pool | str],
    factories: Mapping[type[Agent], Factory] | None = None,  # kept apps may be without
    middleware: Sequence[Any] = (),
    health: Callable[[], Any] | None = None,
    pool: str | None = None,
) -> App:
    app = App(
        name,
        agents,
        entry=entry,
        pools=pools,
        pool=pool,
        factories=factories,
        middleware=middleware,
        health=health,
    )
    app.entry = None if entry is None else app.entry  # not what one alone would be by default
    return app


def _by_name(app: str, agents: Sequence[type[Agent]]) -> dict[str, AgentType]:
    if not agents:
        raise ConfigurationError(f"The app {app!r} has no agents: App(name, agents=[MyAgent]).")
    types: dict[str, AgentType] = {}
    for cls in agents:
        if not (isinstance(cls, type) and issubclass(cls, Agent) and cls is not Agent):
            raise ConfigurationError(f"{cls!r} in the app {app!r} is not a subclass of Agent.")
        if cls.agent_type.name in types:
            raise ConfigurationError(
                f"The app {app!r} has two agent types named {cls.agent_type.name!r}."
            )
        types[cls.agent_type.name] = cls.agent_type
    return types


def _with_factories(
    app: str, types: dict[str, AgentType], factories: Mapping[type[Agent], Factory]
) -> dict[str, AgentType]:
    made = dict(types)
    for cls, factory in factories.items():
        known = types.get(cls.agent_type.name)
        if known is None or known.cls is not cls:
            raise ConfigurationError(
                f"The app {app!r} has a factory for {cls.__name__}, which is not among its agents."
            )
        if not callable(factory):
            raise ConfigurationError(f"The factory of {cls.__name__} is no function: {factory!r}.")
        made[known.name] = replace(known, factory=factory)
    return made


def _in_pool(types: dict[str, AgentType], pool: str) -> dict[str, AgentType]:
    """Return types that live in a pool, unless they name another one than the default."""
    moved = {
        name: replace(known, options=known.options.model_copy(update={"pool": pool}))
        for name, known in types.items()
        if known.options.pool == DEFAULT_POOL
    }
    return types | moved


def _entry(app: str, types: dict[str, AgentType], entry: type[Agent] | None) -> str | None:
    if entry is None:
        prompted = [name for name, agent_type in types.items() if agent_type.prompts]
        return prompted[0] if len(prompted) == 1 else None
    if entry.agent_type.name not in types:
        raise ConfigurationError(
            f"The entry {entry.__name__} is not among the app {app!r}'s agents."
        )
    if not entry.agent_type.prompts:
        raise ConfigurationError(
            f"The entry {entry.__name__} handles no prompts: write a method with @on(Prompt)."
        )
    return entry.agent_type.name


def load_app(import_string: str) -> App:
    """Import an app.

    Args:
        import_string: `package.module:attribute`; the current directory is looked into first.

    Raises:
        ConfigurationError: malformed, not importable, no such attribute, or not an App.
    """
    module_name, colon, attribute = import_string.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigurationError(
            f"{import_string!r} is not an import string: write package.module:app."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    app = getattr(module, attribute, None)
    if app is None:
        raise ConfigurationError(f"The module {module_name!r} has no attribute {attribute!r}.")
    if not isinstance(app, App):
        raise ConfigurationError(f"{import_string!r} is {type(app).__name__}, not an agentray App.")
    return app
