"""Where patterns get their handles from."""

from __future__ import annotations

from typing import Protocol, TypeVar

from agentray.agent import Agent
from agentray.handle import Handle

A = TypeVar("A", bound=Agent)


class HasHandles(Protocol):
    """What gives handles: a manager's client, or an agent (`self`)."""

    def handle(self, agent: type[A], key: str, /) -> Handle[A]:
        """Return a handle to an agent."""
        ...
