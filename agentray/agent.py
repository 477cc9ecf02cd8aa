"""Agents: what a user writes.

::

    class Greeter(Agent):
        state: GreeterState

        @action
        async def greet(self, name: str) -> str:
            self.state.greeted += 1
            return f"Hello {name}"

        @on(Farewell)
        async def note(self, farewell: Farewell) -> Noted:
            return Noted(...)

One instance lives per key, on one host at a time. It handles one message at a time unless its
options say otherwise, so its attributes need no locks.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, cast, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from agentray import context as contexts
from agentray.access import check_level
from agentray.background import BackgroundSpec, background_of
from agentray.context import Context
from agentray.errors import ConfigurationError
from agentray.event_run import DurabilityName, EventRun, OnErrorName
from agentray.events import Event, Prompt, Request
from agentray.handle import Handle
from agentray.handlers import EventHandler, Key, declare
from agentray.ids import AgentId, TopicId, check_key, check_type_name
from agentray.launching import LAUNCH_TIMEOUT_S, Launch, start
from agentray.middleware import Hooks
from agentray.protocol.access import AccessLevel
from agentray.protocol.budgets import Budget
from agentray.protocol.chat import Accepts

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound="Agent")

Factory = Callable[..., "Agent | Awaitable[Agent]"]
"""Makes an agent: takes its `AgentId`, and then the arguments that it was launched with."""

_ACTION = "__agentray_action__"
_EVENTS = "__agentray_events__"


class RestartPolicy(BaseModel):
    """What happens after an agent could not be started, or a loop or timer of its own failed.

    An error of a handler is its caller's, and restarts nobody.

    Attributes:
        restart: `transient`: it is started again after such an error, and comes back with its next
            message after it left memory or its host was lost. `permanent`: as that, and it stays
            in memory, and is brought back without waiting for a message when its host was lost or
            replaced, or the cluster started again. `temporary`: its first error is final.
        max_restarts: within `period_s`; one more and the agent is failed, until it is reset.
        period_s: the window, in seconds, and the quiet time after which waits start small again.
        backoff_s: the first wait between two attempts; each further one is twice as long, with up
            to 20 % of jitter.
        max_backoff_s: the longest wait.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    restart: Literal["permanent", "transient", "temporary"] = "transient"
    max_restarts: NonNegativeInt = 3
    period_s: PositiveFloat = 60.0
    backoff_s: PositiveFloat = 0.1
    max_backoff_s: PositiveFloat = 10.0


class AgentOptions(BaseModel):
    """How the agents of a type are run. Put it into the class as `options = AgentOptions(...)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str | None = Field(
        default=None, description="The agent type's name; None: the class's, in snake_case."
    )
    pool: str = Field(default="default", description="The pool whose hosts run it.")
    concurrency: PositiveInt | None = Field(
        default=1, description="Messages handled at once by one agent; None: no limit."
    )
    mailbox: PositiveInt = Field(
        default=1000, description="Messages that may wait for one agent; more are refused."
    )
    fair_runs: bool = Field(
        default=True,
        description="Messages of different runs that wait for one agent take turns, so that no run "
        "holds back another; False: they are handled in the order in which they came.",
    )
    idle_timeout_s: PositiveFloat = Field(
        default=300.0, description="Seconds without a message after which it leaves memory."
    )
    background_keeps: bool = Field(
        default=True,
        description="Loops and timers keep it in memory; False: it leaves when no message came "
        "for idle_timeout_s, and they end until the next one.",
    )
    budget: Budget | None = Field(
        default=None,
        description="What a run of a prompt to such an agent may use, where the prompt does not "
        "say it; None: there is no limit.",
    )
    accepts: frozenset[Accepts] = Field(
        default=frozenset(),
        description="What its prompts may bring beside text: `tools` of the caller's, a "
        "`json_schema` for the answer, `images`, `files`, `audio`. Others are refused.",
    )
    restart: RestartPolicy = RestartPolicy()


@dataclass(frozen=True, slots=True)
class AgentType:
    """What agentray knows of an agent class: read from it once, when it is defined."""

    name: str
    cls: type[Agent]
    options: AgentOptions
    actions: Mapping[str, ActionSpec]
    handlers: Mapping[str, EventHandler]
    state_model: type[BaseModel] | None
    takes_arguments: bool  # its constructor does: they are kept, and looked up at activation
    keeps_state: bool = False  # it has a state model, or hooks that say what is kept
    saves_by_itself: bool = False  # it has a save_state of its own
    state_version: int = 1
    background: tuple[BackgroundSpec, ...] = ()
    factory: Factory | None = None  # makes its agents instead of the constructor; given by the app
    wanted: tuple[EventHandler, ...] = ()  # all `@on`; `handlers` has one for each event type
    hooks: Hooks | None = None  # of the app's middleware; made where the app is loaded

    @property
    def prompts(self) -> bool:
        """Whether it can be prompted."""
        return Prompt.event_type in self.handlers

    @property
    def requests(self) -> list[type[Request]]:
        """The requests that it answers beside prompts."""
        each = [handler.event for handler in self.handlers.values()]
        return [e for e in each if issubclass(e, Request) and e not in {Request, Prompt}]

    def handler_of(self, event: Event) -> EventHandler | None:
        """Return what handles an event: of its own class, else of the nearest one above it."""
        for name in event.event_lineage:
            handler = self.handlers.get(name)
            if handler is not None and (handler.subclasses or name == event.event_type):
                return handler
        return None


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """A method that can be called through a handle."""

    name: str
    idempotent: bool = False
    streams: bool = False  # it is a generator
    access: AccessLevel | None = None  # what it touches; None: it says nothing


@overload
def action(method: F, /) -> F: ...
@overload
def action(
    *, idempotent: bool = False, access: AccessLevel | str | None = None
) -> Callable[[F], F]: ...
def action(
    method: Any = None, /, *, idempotent: bool = False, access: AccessLevel | str | None = None
) -> Any:
    """Make a method callable through a handle.

    A method that yields is a stream: `async for value in handle.method(...)`. It is the agent's
    turn until its caller has read it to the end, or left it.

    Args:
        method: the method, where the decorator is used without parentheses.
        idempotent: running it twice does no harm. A call whose host dies is then sent again to the
            agent's next host; otherwise the caller gets `HostDied`.
        access: what it touches: `public`, `read` or `write`. A run whose session has a lower level
            gets `AccessDenied`, and the method is not run.

    Raises:
        ConfigurationError: its name is taken, or the level is none.
    """
    level = None if access is None else check_level(access)

    def mark(function: F) -> F:
        if function.__name__.startswith("_"):
            raise ConfigurationError(f"The action {function.__qualname__} must not start with _.")
        if hasattr(Handle, function.__name__):
            raise ConfigurationError(
                f"The action {function.__qualname__} has the name of a method of every handle: "
                "give it another one."
            )
        streams = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        setattr(function, _ACTION, ActionSpec(function.__name__, idempotent, streams, level))
        return function

    return mark if method is None else mark(method)


def on(
    *events: type[Event],
    key: Key | None = None,
    topic: str | None = None,
    subclasses: bool = False,
    where: Callable[[Any], bool] | None = None,
    own: bool = False,
    subscribe: bool = True,
    access: AccessLevel | str | None = None,
) -> Callable[[F], F]:
    """Make a method handle events; what it returns or yields is published.

    An agent gets an event once, however many subscriptions match. `key` and `where` are evaluated
    where the event is published; one that fails is an error of that branch of the run, and keeps
    the event from nobody else.

    Args:
        events: the event classes, exactly these unless `subclasses` is set. Of several handlers
            the one of the nearest class takes an event, and it alone says which agent gets it.
        key: which instance gets an event: `correlation` (one instance per conversation: all its
            parts meet there), `topic` (the topic's source), `field:NAME` (by a field of the event),
            `any:N` (spread over N instances), `key:KEY` (always that one), or a function of the
            event that returns the key. None: `topic` with a topic, else `correlation`.
        topic: only events on topics of this type, as `orders`, or that begin so, as `orders.*`;
            `*`: on any topic. None: whatever their topic, also without one.
        subclasses: also events of subclasses.
        where: a function of the event that says whether it is wanted.
        own: also what the agent published itself.
        subscribe: False: only what `manager.subscribe` has sent here.
        access: what the handler touches: `public`, `read` or `write`. An event of a run whose
            session has a lower level is refused with `AccessDenied`, an error of that branch.

    Raises:
        ConfigurationError: no event class, another form of one of the arguments, or a key by a
            field that an event class does not have.
    """
    declared = declare(
        events,
        key,
        topic=topic,
        subclasses=subclasses,
        where=where,
        own=own,
        subscribe=subscribe,
        access=None if access is None else check_level(access),
    )

    def mark(function: F) -> F:
        known: list[EventHandler] = getattr(function, _EVENTS, [])
        twice = {(h.event, h.topic) for h in known}.intersection((e, topic) for e in events)
        if twice:
            name = min(event.__name__ for event, _ in twice)
            raise ConfigurationError(
                f"{function.__qualname__} has two @on for {name}: several are for several topics."
            )
        handlers = [replace(handler, method=function.__name__) for handler in declared]
        setattr(function, _EVENTS, [*known, *handlers])
        return function

    return mark


class Agent:
    """A small piece of software with an identity, a mailbox and, if it wants, a state.

    Subclass it. The constructor may take arguments when the agent is launched with them; everything
    that needs the running cluster belongs into `on_start`.

    Attributes:
        options: how agents of this type are run.
        state: annotate it with a pydantic model in the subclass, all of whose fields have defaults;
            it is loaded before the first message and committed after each handler that changed it.
        state_version: of what is kept as state; raise it when `migrate_state` must turn what older
            code kept into what this code reads.
    """

    options: ClassVar[AgentOptions] = AgentOptions()
    state_version: ClassVar[int] = 1
    agent_type: ClassVar[AgentType]
    state: Any = None

    __slots__ = ("__dict__", "__weakref__", "_caller", "_id")
    _id: AgentId
    _caller: contexts.Caller

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.agent_type = describe(cls)

    @property
    def id(self) -> AgentId:
        """Who this agent is."""
        return self._id

    @property
    def context(self) -> Context:
        """The message under way.

        Raises:
            ConfigurationError: no message is under way in this task.
        """
        context = contexts.current.get()
        if context is None:
            raise ConfigurationError("There is no context here: no message is being handled.")
        return context

    def handle(self, agent: type[A] | str, key: str) -> Handle[A]:
        """Return a handle to another agent, by its class or its type's name, and its key."""
        name = agent if isinstance(agent, str) else agent.agent_type.name
        return Handle(AgentId(check_type_name(name), check_key(key)), self._caller)

    async def launch(  # noqa: PLR0913 - all that there is to say of a launch
        self,
        agent: type[A] | A | Handle[A],
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        options: AgentOptions | None = None,
        max_retries: int | None = None,
        owned: bool = True,
        timeout: float | None = LAUNCH_TIMEOUT_S,
    ) -> Handle[A]:
        """Start another agent, whose type is deployed, and return when it has started.

        Launching the same one again, such as in `on_start` after a move, finds the one that runs.

        Args:
            agent: as for `ManagerClient.launch`, and so are the arguments below.
            args: for its constructor.
            kwargs: for its constructor.
            name: its key; None: a new unique one.
            labels: to find it by.
            options: what differs from its type's.
            max_retries: of a start that fails.
            owned: shut it down when this agent is shut down or fails. When this one leaves memory
                because it is idle, it goes on.
            timeout: seconds to wait for its start.

        Raises:
            UnknownAgentType: no deployed app has it.
            ConfigurationError: an agent of this name runs with other arguments or options, or is
                another one's.
            AgentFailed: it could not be started.
        """
        launch = Launch(agent, args, kwargs, name, labels, None, options, max_retries)
        order = launch.order(owner=self.id if owned else None)
        await start(self._caller, launch.id, order, timeout)
        return Handle(launch.id, self._caller)

    async def dispatch(
        self,
        event: Event,
        *,
        topic: TopicId | str | None = None,
        durability: DurabilityName = "run",
        on_error: OnErrorName = "fail",
        timeout: float | None = None,
        events: bool = True,
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> EventRun:
        """Publish an event as the root of a run of its own, which this message is no part of.

        This agent does not get it. A handler that awaits the end of the run holds its turn
        meanwhile: nothing in that run may need this agent.

        Args:
            event: as for `ManagerClient.dispatch`, and so are the arguments below.
            topic: that it is about.
            durability: what of the run survives the death of a host.
            on_error: `fail` or `collect`.
            timeout: seconds after which the run is ended as `timed_out`.
            events: keep the events of the run.
            delay_s: seconds after which the run begins.
            at: when it begins, an aware time.

        Raises:
            StoreUnavailable, DeploymentStopped, Overloaded, PayloadError: as there.
        """
        return await self.context.surroundings.dispatch(
            event,
            self.context,
            topic=topic,
            durability=durability,
            on_error=on_error,
            timeout=timeout,
            events=events,
            delay_s=delay_s,
            at=at,
        )

    async def run_sync(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking code in a thread, so that the host's other agents go on meanwhile.

        A host has `AGENTRAY_THREADS` of them; more calls wait for one. Cancelling this call takes
        back what has not begun. What has begun goes on to its end, and what it returns is dropped:
        a thread cannot be interrupted.

        Raises:
            ConfigurationError: the agent does not run on a host.
            Exception: whatever the function raised.
        """
        call = functools.partial(function, *args, **kwargs)
        return await self.context.surroundings.run_sync(call)

    def run_async(self, work: Coroutine[Any, Any, R], /) -> R:
        """Run a coroutine on the host's event loop, from within a thread, and wait for its value.

        The way back from `run_sync` and from loops without `async`: turns and publishing belong to
        the event loop. For calls of other agents there is `handle.sync`, too.

        Raises:
            ConfigurationError: it was called on the event loop itself, which it would block.
            Exception: whatever the coroutine raised.
        """
        return self.context.surroundings.run_async(work)

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Return a turn of the agent, for a loop: `async with self.turn(): …`.

        No handler of an agent with `concurrency=1` runs meanwhile. The state is committed at its
        end; an error in it, or being cancelled, leaves the state as it was.

        Raises:
            ConfigurationError: on entering; a handler or a timer has its turn already.
        """
        return self.context.surroundings.turn(self.context)

    async def on_start(self) -> None:
        """Prepare; the first message waits for it. An error here goes to the restart policy.

        It may call who waits for it, such as the agent that launches this one. What it calls may
        not call back: that gets a `StartCycle`.
        """

    async def on_idle(self) -> None:
        """Called once no message has come for `idle_timeout_s`, before the agent leaves memory.

        It is a turn: messages wait for it, and what it changed in the state is committed. When
        one comes meanwhile, the agent stays.
        """

    async def on_stop(self) -> None:
        """Clean up before the agent leaves memory: stopped, moved, or idle for long."""

    # State: what is kept, and how it is read

    def save_state(self) -> Mapping[str, Any]:
        """Return what is kept of this agent, as JSON values or what has a JSON form.

        Called after each handler; what is equal to what is kept is not written again. Override it
        together with `load_state`, to keep other things than the fields of `state`.
        """
        return cast("BaseModel", self.state).model_dump(mode="json")

    def load_state(self, data: dict[str, Any]) -> None:
        """Take in what `save_state` returned: before `on_start`, and after a handler that failed.

        Raises:
            pydantic.ValidationError: it does not fit; the agent is failed with the field's name.
        """
        model = type(self).agent_type.state_model
        if model is not None:
            self.state = model.model_validate(data)

    @classmethod
    def migrate_state(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Turn a state that older code kept into one of this code's `state_version`.

        Called before `load_state` when the kept version is lower. As it is, it changes nothing: new
        fields get their defaults.

        Args:
            data: what was kept.
            version: it was kept with.
        """
        del version
        return data


def bind(agent: Agent, agent_id: AgentId, caller: contexts.Caller) -> None:
    """Tell an agent who it is and through what it calls others; its host does, at its start."""
    # Its own module sets them: a subclass may have an `__init__` of its own, which knows nothing.
    agent._id = agent_id  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    agent._caller = caller  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def describe(cls: type[Agent]) -> AgentType:
    """Read what agentray needs from an agent class.

    Raises:
        ConfigurationError: the class contradicts itself; the message says where.
    """
    actions: dict[str, ActionSpec] = {}
    handlers: dict[str, EventHandler] = {}
    wanted: list[EventHandler] = []
    for function in _methods(cls):
        if spec := getattr(function, _ACTION, None):
            actions[spec.name] = spec
        for handler in cast("list[EventHandler]", getattr(function, _EVENTS, [])):
            name = handler.event.event_type
            if name in handlers and handlers[name].method != handler.method:
                raise ConfigurationError(
                    f"{cls.__name__} handles {name} twice: "
                    f"{handlers[name].method}, {handler.method}."
                )
            if name not in handlers or handler.subclasses:
                handlers[name] = handler
            wanted.append(handler)
    name = cls.options.name if "options" in vars(cls) else None
    model = _state_model(cls)
    saves_by_itself = _saves_by_itself(cls, model)
    return AgentType(
        name=check_type_name(name or _snake_case(cls.__name__)),
        cls=cls,
        options=cls.options,
        actions=actions,
        handlers=handlers,
        state_model=model,
        takes_arguments=len(inspect.signature(cls.__init__).parameters) > 1
        and cls.__init__ is not object.__init__,
        keeps_state=saves_by_itself or model is not None,
        saves_by_itself=saves_by_itself,
        state_version=_state_version(cls),
        background=background_of(_methods(cls)),
        wanted=tuple(wanted),
    )


def _methods(cls: type[Agent]) -> Iterator[Callable[..., Any]]:
    for name, member in inspect.getmembers_static(cls):
        if name.startswith("__"):
            continue
        if inspect.isfunction(member):
            yield member
        elif _is_marked(member):
            raise ConfigurationError(
                f"{cls.__name__}.{name} is a {type(member).__name__}: @action and @on are for "
                "methods that take self, with no other decorator above or below that hides them."
            )


def _is_marked(member: Any) -> bool:
    """Whether a decorator hides a method that was marked as an action or handler."""
    inner = (getattr(member, name, None) for name in ("__func__", "fget", "func"))
    return any(
        mark in getattr(function, "__dict__", {})
        for function in (member, *inner)
        for mark in (_ACTION, _EVENTS)
    )


def _saves_by_itself(cls: type[Agent], model: type[BaseModel] | None) -> bool:
    saves = cls.save_state is not Agent.save_state
    loads = cls.load_state is not Agent.load_state
    if model is None and saves != loads:
        missing = "load_state" if saves else "save_state"
        raise ConfigurationError(
            f"{cls.__name__} has no {missing} of its own: without a state model, override "
            "save_state and load_state together."
        )
    return saves


def _state_version(cls: type[Agent]) -> int:
    version = cls.state_version
    if type(version) is not int or version < 1:
        raise ConfigurationError(f"{cls.__name__}.state_version must be 1 or more: {version!r}.")
    return version


def _state_model(cls: type[Agent]) -> type[BaseModel] | None:
    owner = next(
        (
            c
            for c in cls.__mro__
            if c is not Agent and "state" in vars(c).get("__annotations__", {})
        ),
        None,
    )
    if owner is None:
        return None
    # Of this annotation only: others may name what is imported for type checkers alone.
    only: Any = type(
        owner.__name__,
        (),
        {
            "__annotations__": {"state": vars(owner)["__annotations__"]["state"]},
            "__module__": owner.__module__,
        },
    )
    try:
        model = get_type_hints(only, localns=dict(vars(owner))).get("state")
    except NameError as error:
        raise ConfigurationError(
            f"{cls.__name__}.state: {error}. Define its class above, at module level."
        ) from error
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        raise ConfigurationError(f"{cls.__name__}.state must be annotated with a pydantic model.")
    needed = [name for name, info in model.model_fields.items() if info.is_required()]
    if needed:
        raise ConfigurationError(
            f"{cls.__name__}.state starts empty: give {model.__name__}.{needed[0]} a default."
        )
    _check_aliases(cls, model)
    return model


def _check_aliases(cls: type[Agent], model: type[BaseModel]) -> None:
    """Refuse a model that does not read what it writes: a field under its name, by its alias."""
    config = model.model_config
    if config.get("populate_by_name") or config.get("validate_by_name"):
        return
    for name, info in model.model_fields.items():
        same = (
            config.get("serialize_by_alias") and info.serialization_alias == info.validation_alias
        )
        if info.validation_alias is not None and not same:
            raise ConfigurationError(
                f"{cls.__name__}.state would not be read back: {model.__name__}.{name} has an "
                "alias. Set validate_by_name=True in the model's configuration."
            )


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
