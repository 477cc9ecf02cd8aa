"""Routing: which agents get an event.

Subscriptions are indexed once per snapshot: by the event's class and those above it, then by the
type of its topic. What is remembered does not grow with the topics that are seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, cast
from zlib import crc32

from agentray.errors import ConfigurationError
from agentray.ids import AgentId, check_key
from agentray.protocol.snapshot import CALLABLE, Subscription

Read = Callable[[bytes], Callable[[Any], Any]]
"""Makes a function of what was pickled; raises whatever is wrong with that."""

_MAX_PLANS = 4096
"""Event classes whose plans are remembered: programs have fewer, unless they make them anew."""


class Published(Protocol):
    """What routing asks of an event."""

    event_lineage: ClassVar[tuple[str, ...]]  # of its class and those above it, nearest first

    @property
    def event_id(self) -> str:
        """Chooses the instance for `any:N`."""
        ...

    @property
    def correlation_id(self) -> str:
        """Chooses the instance for `correlation`."""
        ...

    @property
    def topic(self) -> str | None:
        """As `type/source`."""
        ...


class Misrouted(NamedTuple):
    """A recipient that could not be found out."""

    agent_type: str
    error: BaseException


class Recipients(NamedTuple):
    """Who gets an event: each agent once. Not to be changed: it may be the same for many events."""

    agents: list[AgentId]
    failed: Sequence[Misrouted] = ()


# Past the constructors, which take twice as long to say the same.
_new = cast("Any", tuple).__new__


class Routes:
    """The subscriptions of one snapshot, ready to be asked."""

    def __init__(self, subscriptions: Mapping[str, Sequence[Subscription]], read: Read) -> None:
        """Take subscriptions.

        Args:
            subscriptions: by event type, in the order of their registration.
            read: unpickles their functions, when an event asks for them first.
        """
        self._subscriptions = subscriptions
        self._read = read
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def recipients(self, event: Published, sender: AgentId | None) -> Recipients:
        """Return who gets an event.

        Args:
            event: as it goes out.
            sender: the agent that publishes, which does not get it unless it asked for its own
                events; None from outside.
        """
        plan = self._plans.get(event.event_lineage) or self._plan(event.event_lineage)
        if plan.same is not None and sender not in plan.same:
            return plan.same_recipients
        quick = plan.quick
        if quick and (sender is None or sender[0] not in quick):
            return _new(Recipients, ([agent(event) for agent in quick.values()], ()))
        topic: str | None = event.__dict__["topic"]
        found: dict[AgentId, None] = {}
        failed: list[Misrouted] = []
        for rule in plan.always if topic is None or not plan.by_topic else plan.on(topic):
            try:
                if rule.where is not None and not _says_yes(rule, event):
                    continue
                agent = rule.fixed or rule.agent(event)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a function of the user's
                failed.append(Misrouted(rule.agent_type, error))
                continue
            if agent != sender or rule.own:
                found[agent] = None
        return _new(Recipients, (list(found), failed))

    def _plan(self, lineage: tuple[str, ...]) -> _Plan:
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = self._plans[lineage] = _Plan()
        for subscription in self._matching(lineage):
            plan.add(subscription.topic, _Rule(subscription, self._read))
        plan.settle()
        return plan

    def _matching(self, lineage: tuple[str, ...]) -> Iterator[Subscription]:
        """Go through the subscriptions to a class: of one agent type those to the nearest only.

        Those are the ones of the handler that will take the event there.
        """
        nearest: dict[tuple[str, str], str] = {}
        for name in lineage:
            for subscription in self._subscriptions.get(name, ()):
                who = subscription.agent_type, subscription.id
                matches = subscription.subclasses or name is lineage[0]
                if matches and nearest.setdefault(who, name) is name:
                    yield subscription


class _Rule:
    """A subscription, made ready."""

    __slots__ = ("agent", "agent_type", "fixed", "own", "sure", "where")

    def __init__(self, subscription: Subscription, read: Read) -> None:
        self.agent_type = subscription.agent_type
        self.own = subscription.own
        self.agent: Callable[[Any], AgentId] = _agent_function(subscription, read)
        how, _, key = subscription.key.partition(":")
        self.fixed = AgentId(self.agent_type, key) if how == "key" else None
        self.sure = how in ("key", "correlation", "any")  # who gets an event: it cannot fail
        where = subscription.where
        self.where: Callable[[Any], Any] | None = None if where is None else _lazy(where, read)


class _Plan:
    """The rules for one class of events: those for all of them, and those for topics.

    Attributes:
        same: the agents that get each of them, where no rule looks at the event; None: some do.
        quick: what says which agent of a type gets it, where that is one of each, without a
            further look, and cannot fail; empty: it is not so.
    """

    __slots__ = ("_beginnings", "_exact", "always", "by_topic", "quick", "same", "same_recipients")

    def __init__(self) -> None:
        self.same: dict[AgentId, None] | None = None
        self.quick: dict[str, Callable[[Any], AgentId]] = {}
        self.same_recipients = Recipients([])
        self.always: list[_Rule] = []
        self.by_topic = False
        self._exact: dict[str, list[_Rule]] = {}
        self._beginnings: list[tuple[str, _Rule]] = []

    def add(self, topic: str | None, rule: _Rule) -> None:
        if topic is None:
            self.always.append(rule)
            return
        self.by_topic = True
        if topic.endswith("*"):
            self._beginnings.append((topic[:-1], rule))
        else:
            self._exact.setdefault(topic, []).append(rule)

    def settle(self) -> None:
        """Note who gets each event, where that is always the same: there are no more rules."""
        agents = [rule.fixed for rule in self.always if rule.where is None]
        if not self.by_topic and len(agents) == len(self.always) and None not in agents:
            self.same = dict.fromkeys(agent for agent in agents if agent is not None)
            self.same_recipients = Recipients(list(self.same))
        types = {rule.agent_type for rule in self.always}
        sure = all(rule.where is None and rule.sure for rule in self.always)
        if sure and not self.by_topic and len(types) == len(self.always):
            self.quick = {rule.agent_type: rule.agent for rule in self.always}

    def on(self, topic: str) -> Iterator[_Rule]:
        """Go through the rules for an event on a topic."""
        topic_type = topic.partition("/")[0]
        yield from self.always
        yield from self._exact.get(topic_type, ())
        for beginning, rule in self._beginnings:
            if topic_type.startswith(beginning):
                yield rule


def _lazy(pickled: bytes, read: Read) -> Callable[[Any], Any]:
    """Return a function that is unpickled when it is called first."""
    function: Callable[[Any], Any] | None = None

    def call(event: Any) -> Any:
        nonlocal function
        if function is None:
            function = read(pickled)
        return function(event)

    return call


def _says_yes(rule: _Rule, event: Published) -> bool:
    said = cast("Callable[[Any], Any]", rule.where)(event)
    if said is True or said is False:
        return said
    if inspect.isawaitable(said):
        if inspect.iscoroutine(said):
            said.close()
        raise ConfigurationError(
            f"The where of {rule.agent_type} returned something to await: it must be a plain "
            "function."
        )
    return bool(said)


# Keys


def _agent_function(subscription: Subscription, read: Read) -> Callable[[Any], AgentId]:
    """Return what says which agent gets an event. Events are asked past pydantic, which is slow."""
    agent_type = subscription.agent_type
    how, _, argument = subscription.key.partition(":")
    if how == "correlation":
        return lambda event: _new(AgentId, (agent_type, event.__dict__["correlation_id"]))
    if how == "any":
        agents = [AgentId(agent_type, str(number)) for number in range(int(argument))]
        many = len(agents)
        return lambda event: agents[crc32(event.__dict__["event_id"].encode()) % many]
    key = _key_function(subscription, read)
    return lambda event: _new(AgentId, (agent_type, key(event)))


def _key_function(subscription: Subscription, read: Read) -> Callable[[Any], str]:
    how, _, argument = subscription.key.partition(":")
    match how:
        case "topic":
            return _source(subscription)
        case "field":
            return _field(subscription, argument)
        case "key":
            return lambda _: argument
        case _:
            return _called(subscription, read)


def _source(subscription: Subscription) -> Callable[[Any], str]:
    def source(event: Published) -> str:
        if event.topic is None:
            raise ConfigurationError(
                f"{subscription.agent_type} is keyed by the topic, and this "
                f"{event.event_lineage[0]} is on none."
            )
        return event.topic.partition("/")[2]

    return source


def _field(subscription: Subscription, name: str) -> Callable[[Any], str]:
    def field(event: Any) -> str:
        value = event.__dict__.get(name)
        if value is not None:
            return check_key(str(value))
        what = "is None in this" if name in event.__dict__ else "is not in"
        raise ConfigurationError(
            f"{subscription.agent_type} is keyed by the field {name!r}, which {what} "
            f"{event.event_lineage[0]}."
        )

    return field


def _called(subscription: Subscription, read: Read) -> Callable[[Any], str]:
    pickled = subscription.key_function
    if subscription.key != CALLABLE or pickled is None:
        return _unknown(subscription)
    function = _lazy(pickled, read)

    def called(event: Published) -> str:
        key = function(event)
        if not isinstance(key, str):
            raise ConfigurationError(
                f"The key function of {subscription.agent_type} returned {key!r} for "
                f"{event.event_lineage[0]}: it must return a str."
            )
        return check_key(key)

    return called


def _unknown(subscription: Subscription) -> Callable[[Any], str]:
    def unknown(_: Published) -> str:
        raise ConfigurationError(f"Unknown key function {subscription.key!r}.")

    return unknown
