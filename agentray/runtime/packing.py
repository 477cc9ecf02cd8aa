"""Packing: turning an app of this process into what the manager deploys."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from pathlib import Path

from agentray.agent import Agent, Factory
from agentray.app import App
from agentray.protocol.codec import encode
from agentray.protocol.deployment import AppSpec, PoolSpec, TypeSpec
from agentray.runtime.pool_packing import pack_pool


def pack_app(app: App, import_string: str = "") -> AppSpec:
    """Return an app as a spec.

    Classes of importable modules travel by name and are imported on the hosts, from the same
    directories as here; those of a script or notebook travel by value.

    Args:
        app: to deploy.
        import_string: module:attribute that it came from, if it did.

    Raises:
        PayloadError: something in the classes of a script cannot be serialised, or the directories
            of a pool are too large.
    """
    types = app.types.values()
    pools = tuple(pack_pool(pool) for pool in app.pools)
    return AppSpec(
        name=app.name,
        app=encode(app, f"app {app.name}"),
        import_string=import_string,
        python_path=_python_path([t.cls for t in types]),
        digest=_digest(app, pools),
        types=tuple(
            TypeSpec(
                t.name,
                t.options.pool,
                t.prompts,
                idempotent=tuple(a.name for a in t.actions.values() if a.idempotent),
                streams=tuple(a.name for a in t.actions.values() if a.streams),
                actions=tuple(t.actions),
            )
            for t in types
        ),
        subscriptions=tuple((s.event_type, s.agent_type, s.key) for s in app.subscriptions),
        entry=app.entry,
        pools=pools,
    )


def _python_path(classes: list[type[Agent]]) -> tuple[str, ...]:
    """Return the import directories that the classes' top-level modules come from."""
    found: dict[str, None] = {}
    for cls in classes:
        top = sys.modules.get(cls.__module__.partition(".")[0])
        file = getattr(top, "__file__", None)
        if file is None or cls.__module__ == "__main__":
            found[str(Path.cwd())] = None
            continue
        package = Path(file).resolve().parent
        found[str(package.parent if Path(file).name == "__init__.py" else package)] = None
    return tuple(path for path in found if os.sep in path)


def _digest(app: App, pools: tuple[PoolSpec, ...]) -> str:
    """Return a hash of the code that the app consists of.

    Of the sources, because pickled classes differ from one process to the next. What the modules
    import in turn is not looked at.
    """
    digest = hashlib.sha256(repr((app.name, app.entry, pools, sorted(app.types))).encode())
    for agent_type in app.types.values():
        digest.update(_source(agent_type.cls))
        if agent_type.factory is not None:
            digest.update(_source(agent_type.factory))
    return digest.hexdigest()


def _source(code: type[Agent] | Factory) -> bytes:
    name = getattr(code, "__module__", "")  # a partial function has none
    module = sys.modules.get(name)
    try:
        if module is not None and name != "__main__":
            return inspect.getsource(module).encode()
        return inspect.getsource(code).encode()
    except (OSError, TypeError):
        # Typed into a console: there is no source to compare, so every deployment is new.
        return os.urandom(16)
