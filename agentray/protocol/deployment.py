"""What a driver hands to the manager when it deploys an app or adds a pool."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool as an app or an operator declares it.

    Attributes:
        name: of the pool.
        hosts: the least number of hosts.
        num_cpus: that Ray reserves per host.
        num_gpus: that Ray reserves per host.
        max_hosts: the most; None: as many as the least.
        resources: further resources that Ray reserves per host.
        memory: bytes that Ray reserves per host; 0: none.
        runtime_env: Ray's, with `package:NAME` where a local directory was.
        packages: those directories, packed, by name.
        placement: `pack` or `spread`.
        load_per_host: messages under way at one host above which the pool grows.
        grace_s: how long agents may take to finish when they move or their host stops.
        isolation: `shared`, or `actor`: a host for each agent, at most `most` of them.
    """

    name: str
    hosts: int
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    max_hosts: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict[str, float])
    memory: int = 0
    runtime_env: Mapping[str, Any] = field(default_factory=dict[str, Any])
    packages: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    placement: str = "pack"
    load_per_host: float = 16.0
    grace_s: float = 10.0
    isolation: str = "shared"

    def __setstate__(self, state: Sequence[Any]) -> None:
        """Restore it; one that an older version has stored has fewer fields."""
        defaults = PoolSpec("", 0)
        for number, known in enumerate(fields(self)):
            value = state[number] if number < len(state) else getattr(defaults, known.name)
            object.__setattr__(self, known.name, value)

    @property
    def most(self) -> int:
        """The most hosts that it may have."""
        return self.hosts if self.max_hosts is None else max(self.hosts, self.max_hosts)

    @property
    def isolated(self) -> bool:
        """Whether each of its agents has a host of its own."""
        return self.isolation == "actor"

    @property
    def demand(self) -> dict[str, float]:
        """What Ray must have free for one host, by Ray's names."""
        named = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in {**named, **self.resources}.items() if amount}

    @property
    def host_digest(self) -> str:
        """Tells hosts apart that were started for other demands; equal ones are as good."""
        packages = {name: hashlib.blake2b(held).digest() for name, held in self.packages.items()}
        told = repr(
            (
                *(sorted(d.items()) for d in (self.demand, self.runtime_env, packages)),
                self.placement,
            )
        )
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    def same_host(self, other: PoolSpec) -> bool:
        """Whether hosts that were started for another spec are as good for this one."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in (*("demand", "runtime_env"), *("packages", "placement"))
        )


class TypeSpec(NamedTuple):
    """An agent type on its way to the hosts.

    Attributes:
        name: of the type.
        pool: that it runs in.
        prompts: it can be prompted.
        idempotent: its actions that do no harm when they run twice.
        streams: its actions that yield.
        actions: all of its actions.
        digest: of the source of its class; "": an older version has stored it.
        handles: the event types that it has handlers for, and whether also for their subclasses.
        description: what `describe_agent_type` says of it, as JSON text, where it may have no host
            that could say so; "": ask one.
        accepts: what its prompts may bring beside text.
        requests: the fields of a `RequestView` for each request that it answers beside prompts.
    """

    name: str
    pool: str
    prompts: bool
    idempotent: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    digest: str = ""
    handles: tuple[tuple[str, bool], ...] = ()
    description: str = ""
    accepts: tuple[str, ...] = ()
    requests: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class AppSpec:
    """An app on its way to the hosts. The manager reads it without importing the user's code.

    Attributes:
        name: of the app.
        app: the pickled `App`; only hosts unpickle it.
        import_string: module:attribute, "" for an app that was put together in a script.
        python_path: directories that hosts add to their import path before they unpickle.
        digest: of the source code; the same digest means nothing to do.
        types: its agent types.
        subscriptions: the fields of each `snapshot.Subscription`; those that an older version has
            stored are fewer.
        entry: the type that takes prompts addressed to none.
        pools: that it declares.
    """

    name: str
    app: bytes
    import_string: str
    python_path: tuple[str, ...]
    digest: str
    types: tuple[TypeSpec, ...]
    subscriptions: tuple[tuple[Any, ...], ...]
    entry: str | None
    pools: tuple[PoolSpec, ...]
