"""Handles: how agents are called from anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from agentray import context as contexts
from agentray.blocking import SyncHandle
from agentray.errors import ConfigurationError
from agentray.ids import AgentId
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import LifeCall

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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the action.

        Returns:
            A coroutine of its value; of an action that yields, an asynchronous iterator.
        """
        handle = self._handle
        caller = handle.caller
        streams = caller.streams(handle.id, self._name)
        if streams is None:
            return _Either(handle, self._name, args, kwargs)
        if streams:
            return caller.stream(handle.id, self._name, args, kwargs, timeout=handle.timeout_s)
        # Handed through, not awaited: each coroutine in between would cost every call.
        return caller.call(handle.id, self._name, args, kwargs, timeout=handle.timeout_s)

    async def tell(self, *args: Any, **kwargs: Any) -> None:
        """Run the action without waiting for it; returns when it is queued at the agent."""
        await self._handle.caller.tell(self._handle.id, self._name, args, kwargs)

    def __repr__(self) -> str:
        return f"<action {self._name} of {self._handle.id}>"


class _Either(Coroutine[Any, Any, Any]):
    """A call of an agent type that is not known here (yet): whether it yields shows in its use.

    Awaited it is a call, read with `async for` a stream. Either way the type may turn out to be
    deployed, and what is wrong otherwise is said as for every call.
    """

    __slots__ = ("_args", "_coroutine", "_handle", "_kwargs", "_name")

    def __init__(
        self, handle: Handle[Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._handle = handle
        self._name = name
        self._args = args
        self._kwargs = kwargs
        self._coroutine: Coroutine[Any, Any, Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        handle = self._handle
        return handle.caller.stream(
            handle.id, self._name, self._args, self._kwargs, timeout=handle.timeout_s
        )

    def _call(self) -> Coroutine[Any, Any, Any]:
        if self._coroutine is None:
            handle = self._handle
            self._coroutine = handle.caller.call(
                handle.id, self._name, self._args, self._kwargs, timeout=handle.timeout_s
            )
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._call().__await__()

    def send(self, value: Any) -> Any:
        """Go on: a task that was made of it does."""
        return self._call().send(value)

    def throw(self, *raised: Any) -> Any:
        """Raise something in it, such as its cancellation."""
        return self._call().throw(*raised)

    def close(self) -> None:
        """End it, if it has begun."""
        if self._coroutine is not None:
            self._coroutine.close()


class Handle(Generic[A]):
    """A reference to an agent, wherever it runs. Small, picklable, and never out of date.

    `await handle.greet("ada")` runs the action `greet`; `async for word in handle.words("ada")`
    reads what an action yields. `await handle.call(Greeter.greet, "ada")` and
    `handle.stream(Greeter.words, "ada")` do the same with types that a checker follows.

    Attributes:
        id: the agent's identity.
        timeout_s: the deadline of its calls, and the longest wait for a stream's next value, in
            seconds; None: as long as it takes.
    """

    __slots__ = ("__dict__", "_caller", "_inherits", "id", "timeout_s")

    def __init__(
        self,
        agent_id: AgentId,
        caller: contexts.Caller | None = None,
        *,
        timeout: float | _Inherit | None = INHERIT,
    ) -> None:
        self.id = agent_id
        self._caller = caller
        self._inherits = isinstance(timeout, _Inherit)
        self.timeout_s = DEFAULT_TIMEOUT_S if isinstance(timeout, _Inherit) else timeout

    @property
    def caller(self) -> contexts.Caller:
        """What sends for this handle: its own connection, or the process's after unpickling."""
        return self._caller or contexts.process_caller()

    def __getattr__(self, name: str) -> RemoteAction:
        if name.startswith("_"):
            # copy, pickle and inspect probe for these; no action has such a name.
            raise AttributeError(name)
        # Kept, so that the next call finds it without coming here.
        action = self.__dict__[name] = RemoteAction(self, name)
        return action

    @overload
    def call(
        self,
        action: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def call(
        self, action: Callable[Concatenate[A, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    def call(
        self, action: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Run an action that is given as the agent class's method.

        A cancelled call ends when the handler, and all that it called, has ended, at most 2 s
        later.

        Raises:
            DeadlineExceeded: no reply in time.
            HostDied: its host died meanwhile and the action is not `idempotent`.
            ConfigurationError: it is no method.
            UnknownAgentType, UnknownAction, AgentFailed, Overloaded, PayloadError, RemoteError:
                as their names say; and whatever the action itself raised.
        """
        return self.call_by_name(_name_of(action, "call_by_name"), args, kwargs)

    def call_by_name(
        self, action: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Run an action by its name; the same as `handle.<action>(*args, **kwargs)`."""
        return self.caller.call(self.id, action, args, kwargs or {}, timeout=self.timeout_s)

    def stream(
        self,
        action: Callable[Concatenate[A, P], AsyncIterator[R]]
        | Callable[Concatenate[A, P], Iterator[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AsyncIterator[R]:
        """Read what an action yields: `async for word in handle.stream(Greeter.words, "ada")`.

        The agent may be a bounded number of values ahead of the reader. Leaving the iterator
        before its end cancels the action.

        Raises, while it is read:
            DeadlineExceeded: the next value did not come in time.
            HostDied: its host died meanwhile; an `idempotent` action begins again if nothing of it
                had come.
            Exception: as for `call`; what the action raised comes after what it had yielded.
        """
        timeout_s = self.timeout_s
        return self.caller.stream(self.id, action.__name__, args, dict(kwargs), timeout=timeout_s)

    def with_timeout(self, timeout: float | None) -> Handle[A]:
        """Return this handle with another deadline for its calls.

        Args:
            timeout: seconds; None waits for as long as it takes.

        Raises:
            ConfigurationError: it is no time.
        """
        given: object = timeout
        if given is not None and not (
            isinstance(given, int | float) and not isinstance(given, bool) and given >= 0
        ):
            raise ConfigurationError(
                f"timeout={timeout!r}: write seconds, 0 or more, or None for no deadline."
            )
        return Handle(self.id, self._caller, timeout=timeout)

    @property
    def sync(self) -> SyncHandle[A]:
        """This handle for code that does not await, in another thread than the event loop's."""
        return SyncHandle(self)

    async def ping(self, timeout: float = 5.0) -> float:
        """Return the seconds of a round trip to the agent's host, without the agent itself.

        Raises:
            DeploymentStopped: it has a host of its own while it does something, and has none now.
        """
        return await self.caller.ping(self.id, timeout=timeout)

    async def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return how the agent is, without activating it.

        Returns:
            `agent`, `type`, `host`, `status` (`starting`, `idle`, `running`, `stopping`,
            `stopped`, `failed`, `registered`, or `not in memory`: a message would start it),
            `queued`, `last_error`; while it is in memory also `active_s` and `idle_s`, the seconds
            since it was activated and last used; of a failed one `traceback` and `failed_at`.
        """
        return await self.caller.inspect(self.id, "status", timeout=timeout)

    async def reset(self, timeout: float = 30.0) -> bool:
        """Let the agent start again that has failed; its errors are counted from none.

        Returns:
            Whether it had failed.
        """
        reply = await self.caller.request(
            Kind.LAUNCH, self.id, LifeCall.RESET, b"", timeout=timeout
        )
        return bool(decode(reply))

    async def stats(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return what the agent has counted since it came into memory.

        Returns:
            `queued` and `running` messages at present; `completed` and `failed` ones, `restarts`
            by its loops' and timers' errors, `missed_ticks`, and the `last_error` as text. All
            zero for an agent that is not in memory.
        """
        return await self.caller.inspect(self.id, "stats", timeout=timeout)

    async def describe(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return what the agent can do: its actions with JSON schemas and docstrings.

        Returns:
            See `agentray.schema.describe_agent_type`.
        """
        return await self.caller.inspect(self.id, "describe", timeout=timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        # The connection stays behind; the receiving process has its own.
        return _restore, (
            self.id,
            None if self._inherits else (self.timeout_s,),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Handle({self.id})"


def _restore(agent_id: AgentId, timeout: tuple[float | None] | None) -> Handle[Any]:
    return Handle(agent_id) if timeout is None else Handle(agent_id, timeout=timeout[0])


def _name_of(action: object, by_name: str) -> str:
    name = getattr(action, "__name__", None)
    if isinstance(name, str):
        return name
    raise ConfigurationError(
        f"{action!r} is no method of an agent's class. Give it as Greeter.greet, or call an action "
        f"by its name with handle.{by_name}."
    )
