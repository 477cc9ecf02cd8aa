"""Launching: how an agent is described that shall be started, and what is known of one later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from agentray.errors import ConfigurationError, DeadlineExceeded
from agentray.handle import Handle
from agentray.ids import DEFAULT_POOL, AgentId, check_key, new_id
from agentray.protocol.codec import encode, encode_arguments
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import AgentStatus, LaunchOrder, LifeCall

if TYPE_CHECKING:
    from agentray.agent import Agent, AgentOptions
    from agentray.context import Caller

A = TypeVar("A", bound="Agent")

_WANTED: dict[str, tuple[type[Any], str]] = {
    "args": (Sequence, "a list or tuple, as in args=[1, 2]"),
    "kwargs": (Mapping, "a dict, as in kwargs={'depth': 2}"),
    "max_retries": (int, "a number, 0 or more"),
}
"""Types of arguments of a launch, and how an error says what to write."""

Lifetime = Literal["detached", "driver"]
"""`detached`: it outlives who launched it; `driver`: it ends with the launching connection."""

LAUNCH_TIMEOUT_S = 120.0
"""How long a launch waits for the agent's start, its retries among it."""


@dataclass(slots=True)
class Launch(Generic[A]):
    """An agent that shall be started.

    Its id is known as soon as it is made: give `handle` to others as an argument before it runs.

    Attributes:
        agent: its class; an instance, which is carried over as it is; or the handle of an agent
            that was registered or launched before.
        args: for the constructor, kept for re-activation.
        kwargs: for the constructor, kept for re-activation.
        name: its key; None: a new unique one.
        labels: to find it by; None: as before, else none.
        pool: where agents of its type live: decided by the first launch of a class that names no
            pool and that no app has; from then on it can only be named again.
        options: what differs from its type's options: concurrency, mailbox, idle_timeout_s,
            restart. Only the fields that are given count.
        max_retries: how often a start that fails is tried again, in all; None: as the restart
            policy says.
        lifetime: None: as before, else `detached`.
        id: who it is.
    """

    agent: type[A] | A | Handle[A]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    name: str | None = None
    labels: Mapping[str, str] | None = None
    pool: str | None = None
    options: AgentOptions | None = None
    max_retries: int | None = None
    lifetime: Lifetime | None = None
    id: AgentId = field(init=False)

    def __post_init__(self) -> None:
        agent = self.agent
        if not isinstance(cast("object", self.name), str | None):
            raise ConfigurationError(f"name={self.name!r}: an agent's name is a text.")
        if isinstance(agent, Handle):
            if self.name not in {None, agent.id.key}:
                raise ConfigurationError(f"{agent.id} has its name already: leave name= out.")
            self.id = agent.id
            return
        if not hasattr(agent, "agent_type"):
            raise ConfigurationError(
                f"{agent!r} cannot be launched: give a subclass of Agent, an instance of one, or "
                "a handle."
            )
        type_name = agent.agent_type.name
        key = new_id(type_name) if self.name is None else check_key(self.name)
        self.id = AgentId(type_name, key)

    @property
    def handle(self) -> Handle[A]:
        """A handle to it, also before it runs."""
        return Handle(self.id)

    @property
    def cls(self) -> type[A] | None:
        """Its class; None when only a handle is known."""
        if isinstance(self.agent, Handle):
            return None
        return self.agent if isinstance(self.agent, type) else type(self.agent)

    @property
    def wanted_pool(self) -> str | None:
        """The pool in which it shall live; None: nothing was said.

        Raises:
            ConfigurationError: two of them were named.
        """
        options = self.options
        named = options.pool if options is not None and self._sets("pool") else None
        return one_pool(self.id.type, {self.pool, named})

    def order(self, *, driver: str = "", owner: AgentId | None = None) -> LaunchOrder:
        """Return what its host is told.

        Args:
            driver: the connection that it ends with when its lifetime is `driver`.
            owner: the agent that it ends with.

        Raises:
            ConfigurationError: something about it contradicts itself.
            PayloadError: an argument, or the instance, cannot be serialised.
        """
        self._check_types()
        self._check()
        ending = {None: None, "detached": "", "driver": driver}
        return LaunchOrder(
            arguments=self._arguments(),
            labels=None if self.labels is None else dict(self.labels),
            options=self._options(),
            max_retries=self.max_retries,
            driver=ending[self.lifetime],
            owner=owner,
        )

    def _check_types(self) -> None:
        """Refuse what would fail later, and somewhere else."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _WANTED}
        for name, value in given.items():
            kinds, wanted = _WANTED[name]
            wrong = isinstance(value, str | bytes | bool) or not isinstance(value, kinds)
            if value is not None and wrong:
                raise ConfigurationError(f"{name}={value!r}: write {wanted}.")
        options: object = self.options
        if options is not None and not hasattr(options, "model_fields_set"):
            raise ConfigurationError(
                f"options={options!r}: write options=AgentOptions(concurrency=8)."
            )

    def _check(self) -> None:
        cls, wanted = self.cls, self.wanted_pool
        if cls is not None and wanted and cls.agent_type.options.pool not in {DEFAULT_POOL, wanted}:
            raise elsewhere(self.id, wanted, cls.agent_type.options.pool)
        if self._sets("name"):
            raise ConfigurationError("An agent type is named in its class, not at a launch.")
        if self.max_retries is not None and self.max_retries < 0:
            raise ConfigurationError("max_retries is 0 or more.")
        if self.lifetime not in {None, "detached", "driver"}:
            raise ConfigurationError(f"lifetime={self.lifetime!r}: write detached or driver.")
        labels: Mapping[Any, Any] = self.labels or {}
        if not isinstance(cast("object", labels), Mapping) or not all(
            isinstance(text, str) for text in (*labels, *labels.values())
        ):
            raise ConfigurationError("Labels are texts by texts: labels={'team': 'blue'}.")

    def _sets(self, name: str) -> bool:
        return self.options is not None and name in self.options.model_fields_set

    def _arguments(self) -> bytes | None:
        agent, given = self.agent, bool(self.args or self.kwargs)
        what = self.cls.__name__ if self.cls is not None else str(self.id)
        if isinstance(agent, (type, Handle)):
            if not given:
                return None
            return encode_arguments(tuple(self.args), dict(self.kwargs or {}), what)
        if given:
            raise ConfigurationError(f"The instance of {what} is made already: it takes no args.")
        if hasattr(agent, "_id"):
            raise ConfigurationError(f"{agent.id} runs already: launch its class, or its handle.")
        return encode(agent, f"instance of {what}")

    def _options(self) -> dict[str, Any] | None:
        if self.options is None:
            return None
        return json.loads(self.options.model_dump_json(exclude_unset=True, exclude={"pool"}))


def one_pool(agent_type: str, pools: set[str | None]) -> str | None:
    """Return the pool that was named for agents of a type; None: none was.

    Raises:
        ConfigurationError: two of them were.
    """
    one, *others = sorted(pool for pool in pools if pool is not None) or [None]
    if others:
        raise ConfigurationError(
            f"Agents of the type {agent_type!r} live in one pool, not in {one!r} and {others[0]!r}."
        )
    return one


def elsewhere(agent: AgentId, wanted: str, pool: str) -> ConfigurationError:
    """Return the error of a launch into another pool than that of an agent's type."""
    return ConfigurationError(
        f"{agent} cannot be launched in the pool {wanted!r}: all agents of a type live in one "
        f"pool, so that everybody finds them, and {agent.type!r} lives in {pool!r}. For agents in "
        f"another pool launch a subclass with options = AgentOptions(pool={wanted!r})."
    )


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What is known of an agent that was registered or launched.

    Attributes:
        handle: to call it.
        status: of its life: registered, running (launched and not ended, whether it is in memory
            or not: that is what `Handle.status` says), stopped or failed.
        labels: that it was given.
        lifetime: detached, or driver.
        owner: the agent that launched it as its own.
        launched_at: when it was registered or launched last.
        last_error: why it failed; "" when it did not.
    """

    handle: Handle[Any]
    status: AgentStatus
    labels: Mapping[str, str]
    lifetime: Lifetime
    owner: AgentId | None
    launched_at: datetime
    last_error: str

    @property
    def id(self) -> AgentId:
        """Who it is."""
        return self.handle.id


async def start(caller: Caller, target: AgentId, order: LaunchOrder, timeout: float | None) -> None:
    """Let an agent be started by its host, and return when it has started.

    Raises:
        ConfigurationError: it is known with other arguments, or as something else.
        AgentFailed: it could not be started.
        DeadlineExceeded: it had not started in time.
    """
    payload = encode(order, f"launch of {target}")
    try:
        await caller.request(Kind.LAUNCH, target, LifeCall.LAUNCH, payload, timeout=timeout)
    except DeadlineExceeded as error:
        what = "its host had not made it, or its on_start had not ended"
        raise DeadlineExceeded(f"{target}.{LifeCall.LAUNCH}", timeout, what) from error
