"""What a driver hands to the manager when it deploys an app."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool as an app declares it."""

    name: str
    hosts: int
    num_cpus: float = 0.0
    num_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class AppSpec:
    """An app on its way to the hosts. The manager reads it without importing the user's code.

    Attributes:
        name: of the app.
        app: the pickled `App`; only hosts unpickle it.
        import_string: module:attribute, "" for an app that was put together in a script.
        python_path: directories that hosts add to their import path before they unpickle.
        digest: of the source code; the same digest means nothing to do.
        types: per agent type its pool, whether it takes prompts, and its idempotent actions.
        subscriptions: (event type, agent type, key function).
        entry: the type that takes prompts addressed to none.
        pools: that it declares.
    """

    name: str
    app: bytes
    import_string: str
    python_path: tuple[str, ...]
    digest: str
    types: tuple[tuple[str, str, bool, tuple[str, ...]], ...]
    subscriptions: tuple[tuple[str, str, str], ...]
    entry: str | None
    pools: tuple[PoolSpec, ...]
