"""Handles: how agents are called from anywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from agentray import context as contexts
from agentray.ids import AgentId

if TYPE_CHECKING:
    from agentray.agent import Agent

A = TypeVar("A", bound="Agent")
P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT_S = 60.0
"""A call's deadline where neither the caller nor an outer call sets one."""


class _Inherit:
    """The type of `INHERIT`: the outer call's deadline, else the default."""

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT = _Inherit()


class RemoteAction:
    """One action of a remote agent; calling it sends the message."""

    __slots__ = ("_handle", "_name")

    def __init__(self, handle: Handle[Any], name: str) -> None:
        self._handle = handle
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Run the action; await what this returns for its value."""
        return self._handle.call_by_name(self._name, args, kwargs)

    async def tell(self, *args: Any, **kwargs: Any) -> None:
        """Run the action without waiting for it; returns when it is queued at the agent."""
        await self._handle.caller.tell(self._handle.id, self._name, args, kwargs)

    def __repr__(self) -> str:
        return f"<action {self._name} of {self._handle.id}>"


class Handle(Generic[A]):
    """A reference to an agent, wherever it runs. Small, picklable, and never out of date.

    `await handle.greet("ada")` runs the action `greet`. `await handle.call(Greeter.greet, "ada")`
    does the same with arguments and value that a type checker follows.

    Attributes:
        id: the agent's identity.
    """

    __slots__ = ("_caller", "_timeout", "id")

    def __init__(
        self,
        agent_id: AgentId,
        caller: contexts.Caller | None = None,
        *,
        timeout: float | _Inherit | None = INHERIT,
    ) -> None:
        self.id = agent_id
        self._caller = caller
        self._timeout = timeout

    @property
    def caller(self) -> contexts.Caller:
        """What sends for this handle: its own connection, or the process's after unpickling."""
        return self._caller or contexts.process_caller()

    def __getattr__(self, name: str) -> RemoteAction:
        if name.startswith("_"):
            # copy, pickle and inspect probe for these; no action has such a name.
            raise AttributeError(name)
        return RemoteAction(self, name)

    async def call(
        self,
        action: Callable[Concatenate[A, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run an action that is given as the agent class's method.

        Raises:
            DeadlineExceeded: no reply in time.
            HostDied: its host died meanwhile and the action is not `idempotent`.
            UnknownAgentType, UnknownAction, AgentFailed, Overloaded, PayloadError, RemoteError:
                as their names say; and whatever the action itself raised.
        """
        return await self.call_by_name(action.__name__, args, dict(kwargs))

    def call_by_name(
        self, action: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Run an action by its name; the same as `handle.<action>(*args, **kwargs)`."""
        timeout = self._timeout
        if isinstance(timeout, _Inherit):
            timeout = DEFAULT_TIMEOUT_S
        # Handed through, not awaited: each coroutine in between would cost every call.
        return self.caller.call(self.id, action, args, kwargs or {}, timeout=timeout)

    def with_timeout(self, timeout: float | None) -> Handle[A]:
        """Return this handle with another deadline for its calls.

        Args:
            timeout: seconds; None waits for as long as it takes.
        """
        return Handle(self.id, self._caller, timeout=timeout)

    async def ping(self, timeout: float = 5.0) -> float:
        """Return the seconds of a round trip to the agent's host, without the agent itself."""
        return await self.caller.ping(self.id, timeout=timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        # The connection stays behind; the receiving process has its own.
        return _restore, (
            self.id,
            None if isinstance(self._timeout, _Inherit) else (self._timeout,),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Handle({self.id})"


def _restore(agent_id: AgentId, timeout: tuple[float | None] | None) -> Handle[Any]:
    return Handle(agent_id) if timeout is None else Handle(agent_id, timeout=timeout[0])
