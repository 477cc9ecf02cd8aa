"""Packing: turning an app of this process into what the manager deploys."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from agentray.agent import Agent, AgentType
from agentray.app import App
from agentray.protocol import by_value
from agentray.protocol.codec import encode
from agentray.protocol.deployment import AppSpec, PoolSpec, TypeSpec
from agentray.runtime.pool_packing import pack_pool
from agentray.schema import describe_agent_type, request_view


def pack_app(app: App, import_string: str = "") -> AppSpec:
    """Return an app as a spec.

    Classes of importable modules travel by name and are imported on the hosts, from the same
    directories as here; those of a script or notebook travel by value.

    Args:
        app: to deploy.
        import_string: module:attribute that it came from, if it did.

    Raises:
        PayloadError: something in the classes of a script, or a function given to `@on`, cannot be
            serialised, or the directories of a pool are too large.
    """
    by_value.forget()  # a class may have been changed since it was sent
    types = app.types.values()
    pools = tuple(pack_pool(pool) for pool in app.pools)
    return AppSpec(
        name=app.name,
        app=encode(app, f"app {app.name}"),
        import_string=import_string,
        python_path=_python_path([*(t.cls for t in types), *map(_code_of, app.middleware)]),
        digest=_digest(app, pools),
        types=tuple(
            TypeSpec(
                t.name,
                t.options.pool,
                t.prompts,
                idempotent=tuple(a.name for a in t.actions.values() if a.idempotent),
                streams=tuple(a.name for a in t.actions.values() if a.streams),
                actions=tuple(t.actions),
                digest=class_digest(t),
                handles=tuple((name, h.subclasses) for name, h in t.handlers.items()),
                description=_description(app, t),
                accepts=tuple(sorted(t.options.accepts)),
                requests=tuple(tuple(request_view(request)) for request in t.requests),
            )
            for t in types
        ),
        subscriptions=tuple(astuple(s) for s in app.subscriptions),
        entry=app.entry,
        pools=pools,
    )


def _description(app: App, agent_type: AgentType) -> str:
    """Describe a type whose agents have hosts only while they do something."""
    isolated = {pool.name for pool in app.pools if pool.isolation == "actor"}
    if agent_type.options.pool not in isolated.union(app.shared_pools):
        return ""
    return json.dumps(describe_agent_type(agent_type))


def _code_of(middleware: Any) -> Any:
    """Return the class or function of an entry in an app's middleware."""
    if isinstance(middleware, partial):
        return _code_of(cast("partial[Any]", middleware).func)
    return middleware if hasattr(middleware, "__qualname__") else cast("Any", type(middleware))


def _python_path(classes: list[Any]) -> tuple[str, ...]:
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
    import in turn is not looked at, but for the classes' bases and states.
    """
    # Options need not be what the source says: they may be computed, or come from elsewhere.
    options = sorted((name, t.options.model_dump_json()) for name, t in app.types.items())
    digest = hashlib.sha256(repr((app.name, app.entry, pools, options)).encode())
    for agent_type in app.types.values():
        if not (own := class_digest(agent_type)).startswith(_UNKNOWN):
            digest.update(own.encode())
        digest.update(_source(agent_type.cls))
        if agent_type.factory is not None:
            digest.update(_source(agent_type.factory))
    if app.health is not None:
        digest.update(_source(app.health))
    for entry in app.middleware:
        digest.update(_source(_code_of(entry)))
        digest.update(_settings_of(entry))
    return digest.hexdigest()


def _settings_of(middleware: Any) -> bytes:
    """Return what an instance of middleware was made with, as far as its pickle tells."""
    return b"" if isinstance(middleware, type) else encode(middleware, "middleware")


def _source(code: Any) -> bytes:
    name = getattr(code, "__module__", "")  # a partial function has none
    module = sys.modules.get(name)
    try:
        if module is not None and name != "__main__":
            return inspect.getsource(module).encode()
        return inspect.getsource(code).encode()
    except (OSError, TypeError):
        # Typed into a console: there is no source to compare, so every deployment is new.
        return os.urandom(16)


_UNKNOWN = "?"
_digests: WeakKeyDictionary[type[Agent], str] = WeakKeyDictionary()


def class_digest(agent_type: AgentType) -> str:
    """Return a hash of the source of a class, its bases and its state.

    Of these alone: run as a script, a module's class is the same as when it is imported. Always the
    same for one class object: it is what this process has, whatever became of its file.
    """
    cls = agent_type.cls
    if cls not in _digests:
        own = [base for base in cls.__mro__ if base is not Agent and issubclass(base, Agent)]
        try:
            sources = [inspect.getsource(c) for c in (*own, agent_type.state_model) if c]
        except (OSError, TypeError, SyntaxError):
            # Typed into a console, or its file is more than Python.
            _digests[cls] = _UNKNOWN + os.urandom(16).hex()
        else:
            named = repr((cls.__qualname__, sources)).encode()
            _digests[cls] = hashlib.sha256(named).hexdigest()
    return _digests[cls]


def other_code(one: str, other: str) -> bool:
    """Whether two digests of classes are surely of different code."""
    known = one and other and not one.startswith(_UNKNOWN) and not other.startswith(_UNKNOWN)
    return bool(known) and one != other
