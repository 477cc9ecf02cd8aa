"""What a driver hands to the manager when it deploys an app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool as an app declares it."""

    name: str
    hosts: int
    num_cpus: float = 0.0
    num_gpus: float = 0.0


class TypeSpec(NamedTuple):
    """An agent type on its way to the hosts.

    Attributes:
        name: of the type.
        pool: that it runs in.
        prompts: it can be prompted.
        idempotent: its actions that do no harm when they run twice.
        streams: its actions that yield.
        actions: all of its actions.
    """

    name: str
    pool: str
    prompts: bool
    idempotent: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


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
        subscriptions: (event type, agent type, key function).
        entry: the type that takes prompts addressed to none.
        pools: that it declares.
    """

    name: str
    app: bytes
    import_string: str
    python_path: tuple[str, ...]
    digest: str
    types: tuple[TypeSpec, ...]
    subscriptions: tuple[tuple[str, str, str], ...]
    entry: str | None
    pools: tuple[PoolSpec, ...]
