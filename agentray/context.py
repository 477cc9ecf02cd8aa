"""The context of the message that an agent is handling."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.ids import AgentId


class Caller(Protocol):
    """Sends messages to agents. A `Channel` does it over the wire, tests in one process."""

    async def call(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> Any:
        """Run an action and return its value; `timeout` in seconds, None: wait for ever."""
        ...

    async def tell(
        self, target: AgentId, action: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run an action; return as soon as it is queued at the agent."""
        ...

    async def ping(self, target: AgentId, *, timeout: float) -> float:
        """Return the seconds of a round trip to the agent's host."""
        ...


class Surroundings(Protocol):
    """What a handler's host does for it."""

    def publish(self, event: Event, context: Context) -> None:
        """Send an event to its subscribers."""
        ...

    def progress(self, context: Context, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to the run that the context belongs to."""
        ...


class Context:
    """What is known of the message under way: `self.context` in an agent.

    Attributes:
        agent: the agent that handles it.
        sender: the agent that sent it; None from outside.
        correlation_id: the conversation it belongs to; None outside of one.
        cause_id: this message's id in the trace; what it causes names it as cause.
        deadline: when the caller gives up, in seconds of the event loop's clock; None: never.
        chain: the agents whose turns wait for this message, this one last.
        root: the agent that the run was given to; None outside of runs.
        in_agent: False in the code that drives agents from outside.
    """

    __slots__ = (
        "agent",
        "cause_id",
        "chain",
        "correlation_id",
        "deadline",
        "event",
        "root",
        "scope",
        "sender",
        "surroundings",
    )

    def __init__(
        self,
        agent: AgentId,
        surroundings: Surroundings,
        *,
        sender: AgentId | None = None,
        correlation_id: str | None = None,
        cause_id: str | None = None,
        deadline: float | None = None,
        chain: tuple[AgentId, ...] = (),
        root: AgentId | None = None,
    ) -> None:
        self.agent = agent
        self.surroundings = surroundings
        self.sender = sender
        self.correlation_id = correlation_id
        self.cause_id = cause_id
        self.deadline = deadline
        self.chain = chain
        self.root = root
        self.event: Event | None = None
        self.scope: Any = None  # what the handler emitted; owned by the host

    def publish(self, event: Event) -> None:
        """Send an event to every agent that subscribes to its type, now.

        It inherits this message's correlation. What subscribers do with it belongs to the run:
        the run ends when they are done. Returning the event from the handler does the same.
        """
        self.surroundings.publish(event, self)

    def progress(
        self, message: str, *, current: float | None = None, total: float | None = None
    ) -> None:
        """Tell those who watch the run how far it is. Outside of a run it does nothing."""
        data = {"message": message, "current": current, "total": total}
        self.surroundings.progress(self, "progress", data)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds the agent and the correlation id to each record."""
        extra = {"agent": str(self.agent), "correlation_id": self.correlation_id}
        return logging.LoggerAdapter(logging.getLogger(f"agentray.agents.{self.agent.type}"), extra)


current: ContextVar[Context | None] = ContextVar("agentray_context", default=None)
"""The context of the running handler. Handles read it, so that calls inherit what they must."""


class _Process:
    """The caller of this process, for handles that came out of a pickle."""

    caller: Caller | None = None


def bind_process(caller: Caller | None) -> None:
    """Make unpickled handles of this process send through `caller`; None takes it back."""
    _Process.caller = caller


def process_caller() -> Caller:
    """Return the caller of this process.

    Raises:
        ConfigurationError: nothing is connected here.
    """
    if _Process.caller is None:
        raise ConfigurationError("This handle is not connected: call agentray.connect() first.")
    return _Process.caller
