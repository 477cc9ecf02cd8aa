"""The code of the apps on a host: which agent types it can run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentray.agent import AgentType
from agentray.app import App
from agentray.errors import AgentrayError, ConfigurationError
from agentray.middleware import Middleware, make_hooks
from agentray.protocol.codec import decode
from agentray.protocol.deployment import AppSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An agent type that this host can run."""

    type: AgentType
    app: str


class AppCode:
    """What one host has imported.

    Attributes:
        types: the agent types that it can run, by name.
        broken: why the app of an agent type cannot be imported here, by the type's name.
        digests: of the apps that it has imported.
        checks: of the health of apps, by their names.
        publish_hooks: the middleware that agents' events pass, by the type's name.
    """

    def __init__(self) -> None:
        self.types: dict[str, Loaded] = {}
        self.broken: dict[str, str] = {}
        self.publish_hooks: dict[str, tuple[Middleware, ...]] = {}
        self.digests: dict[str, str] = {}
        self.checks: dict[str, Callable[[], Any]] = {}
        self._apps: dict[str, bytes] = {}

    def load(self, apps: Mapping[str, bytes]) -> dict[str, str]:
        """Learn the code of apps.

        Returns:
            Why, by app, for those that cannot be imported here. The agents of such an app fail
            with that reason; the others are none the worse.
        """
        failures: dict[str, str] = {}
        for name, packed in apps.items():
            if self._apps.get(name) == packed:
                continue
            spec: AppSpec = decode(packed)
            for type_name, *_ in spec.types:
                self.broken.pop(type_name, None)
            try:
                app = _read_app(spec)
                hooks = make_hooks(name, app.middleware)
            except ConfigurationError as error:
                failures[name] = str(error)
                self.broken.update((type_name, str(error)) for type_name, *_ in spec.types)
                logger.error("%s", error, extra={"action": "app_not_loaded", "app": name})
                continue
            for agent_type in app.types.values():
                self.publish_hooks.pop(agent_type.name, None)
                if hooks is not None and hooks.publish:
                    self.publish_hooks[agent_type.name] = hooks.publish
                hooked = agent_type if hooks is None else replace(agent_type, hooks=hooks)
                self.types[agent_type.name] = Loaded(hooked, name)
            self.checks.pop(name, None)
            if app.health is not None:
                self.checks[name] = app.health
            self._apps[name] = packed
            self.digests[name] = spec.digest
        return failures


def _read_app(spec: AppSpec) -> App:
    sys.path.extend(path for path in spec.python_path if path not in sys.path)
    try:
        return decode(spec.app)
    except AgentrayError as error:
        raise ConfigurationError(f"The app {spec.name!r} cannot be loaded: {error}") from error
