"""Routing: which instances get an event, each once, and never the one that sent it."""

from __future__ import annotations

import pickle
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray import AgentId, ConfigurationError, Event, TopicId
from agentray.core.routing import Recipients, Routes
from agentray.ids import new_id
from agentray.protocol.snapshot import CALLABLE, Subscription


class Happened(Event):
    customer: Any = None


class Repeated(Happened):
    times: int = 2


class Unheard(Event):
    pass


def by_name(pickled: bytes) -> Callable[[Any], Any]:
    """Read a function that was pickled by its name."""
    return pickle.loads(pickled)


def of(agent_type: str, key: str = "correlation", **more: Any) -> Subscription:
    event: type[Event] = more.pop("event", Happened)
    return Subscription(event.event_type, agent_type, key, **more)


def routes_of(subscriptions: Sequence[Subscription]) -> Routes:
    by_type: dict[str, list[Subscription]] = {}
    for subscription in subscriptions:
        by_type.setdefault(subscription.event_type, []).append(subscription)
    return Routes(by_type, by_name)


def ask(event: Event, *subscriptions: Subscription, sender: AgentId | None = None) -> Recipients:
    return routes_of(subscriptions).recipients(event, sender)


def route(
    *keys: str | Subscription, event: Event | None = None, sender: AgentId | None = None
) -> list[str]:
    subscriptions = [k if isinstance(k, Subscription) else of("listener", k) for k in keys]
    found = ask(event or Happened(correlation_id="cor_1"), *subscriptions, sender=sender)
    assert not found.failed
    return [str(agent) for agent in found.agents]


def refused(key: str, event: Event, why: str) -> None:
    """Check that a recipient is left out with a reason, and another one gets the event."""
    found = ask(event, of("listener", key), of("other", "key:x"))
    assert found.agents == [AgentId("other", "x")]
    ((agent_type, error),) = found.failed
    assert agent_type == "listener"
    with pytest.raises(ConfigurationError, match=why):
        raise error


# Keys


def test_by_correlation_all_parts_of_one_conversation_meet_in_one_instance() -> None:
    one, two = (Happened(correlation_id=f"cor_{n}") for n in (1, 2))
    assert route("correlation", event=one) == ["listener/cor_1"]
    assert route("correlation", event=one.model_copy(update={"event_id": "evt_2"})) == [
        "listener/cor_1"
    ]
    assert route("correlation", event=two) == ["listener/cor_2"]


@pytest.mark.parametrize(
    ("value", "key"), [("ada", "ada"), (7, "7"), ("with/slash", "with/slash"), (True, "True")]
)
def test_by_field_the_instance_is_the_value_of_the_field(value: object, key: str) -> None:
    assert route("field:customer", event=Happened(customer=value)) == [f"listener/{key}"]


def test_by_field_an_event_without_it_is_an_error_that_names_all_three() -> None:
    refused("field:order", Happened(customer="ada"), r"listener.*'order'.*Happened")


def test_by_field_a_value_of_none_is_no_key() -> None:
    refused("field:customer", Happened(), "is None")


@pytest.mark.parametrize("value", ["", "x" * 513, "nul\0", "\ud800"])
def test_by_field_a_value_that_makes_no_key_is_an_error(value: str) -> None:
    refused("field:customer", Happened(customer=value), "key")


def test_a_fixed_key_is_always_that_instance_even_with_colons_in_it() -> None:
    assert route("key:the:one", event=Happened(correlation_id="cor_9")) == ["listener/the:one"]


def test_any_chooses_one_of_n_the_same_for_the_same_event() -> None:
    events = [Happened(event_id=new_id("evt")) for _ in range(2000)]
    chosen = [route("any:4", event=event) for event in events]
    assert chosen == [route("any:4", event=event) for event in events]
    counts = Counter(agent for agents in chosen for agent in agents)
    assert set(counts) == {f"listener/{n}" for n in range(4)}
    assert max(counts.values()) < 2 * min(counts.values())
    # The same instance in every process and version: a resent event must not go elsewhere.
    assert route("any:4", event=Happened(event_id="evt_1")) == ["listener/1"]


def test_an_unknown_key_function_is_an_error() -> None:
    refused("nearest:3", Happened(), "nearest:3")


def test_by_topic_the_instance_is_the_source() -> None:
    event = Happened().on_topic(TopicId("orders", "eu/1"))
    assert route(of("listener", "topic", topic="orders"), event=event) == ["listener/eu/1"]
    refused("topic", Happened(), "is on none")


# Functions of the user's, found by name as those of a module


def by_customer(event: Happened) -> str:
    return event.customer


def is_large(event: Happened) -> bool:
    return event.customer > 10


def exits(_: Happened) -> bool:
    sys.exit("enough")


async def waits(_: Happened) -> bool:
    return True


def function(agent_type: str, **functions: Callable[[Any], Any]) -> Subscription:
    packed = {name: pickle.dumps(function) for name, function in functions.items()}
    return of(agent_type, CALLABLE if "key_function" in packed else "key:x", **packed)


def test_a_function_chooses_the_instance() -> None:
    chosen = function("listener", key_function=by_customer)
    assert route(chosen, event=Happened(customer="ada")) == ["listener/ada"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "returned None"),
        (7, "returned 7.*must return a str"),
        (["a"], "must return a str"),
        (b"ada", "must return a str"),
        ("", "An agent's key has 1 to 512"),
        ("x" * 513, "An agent's key has 1 to 512"),
        ("nul\0", "none of them NUL"),
        ("\udc00", "half a pair"),
    ],
)
def test_a_function_that_returns_no_key_leaves_out_its_own_recipient_only(
    value: object, why: str
) -> None:
    chosen = function("listener", key_function=by_customer)
    found = ask(Happened(customer=value), chosen, of("other", "key:x"))
    assert found.agents == [AgentId("other", "x")]
    ((agent_type, error),) = found.failed
    assert (agent_type, type(error)) == ("listener", ConfigurationError)
    with pytest.raises(ConfigurationError, match=why):
        raise error


def test_a_predicate_says_who_wants_an_event() -> None:
    wants = function("listener", where=is_large)
    assert route(wants, event=Happened(customer=11)) == ["listener/x"]
    assert route(wants, event=Happened(customer=10)) == []


@pytest.mark.parametrize(
    ("where", "error"),
    [(is_large, TypeError), (exits, SystemExit), (by_customer, None), (waits, ConfigurationError)],
)
def test_a_predicate_that_raises_leaves_out_its_own_recipient_only(
    where: Callable[[Any], Any], error: type[BaseException] | None
) -> None:
    found = ask(Happened(customer="ada"), function("listener", where=where), of("other", "key:x"))
    if error is None:  # what it returned is true enough
        assert [agent.type for agent in found.agents] == ["listener", "other"]
    else:
        assert [agent.type for agent in found.agents] == ["other"]
        assert [type(failed.error) for failed in found.failed] == [error]


def test_a_function_that_cannot_be_read_leaves_out_its_own_recipient_only() -> None:
    for broken in (b"", pickle.dumps(is_large).replace(b"is_large", b"is_small")):
        found = ask(Happened(customer=11), of("listener", "key:x", where=broken), of("other"))
        assert [agent.type for agent in found.agents] == ["other"]
        assert [failed.agent_type for failed in found.failed] == ["listener"]


# Topics


@pytest.mark.parametrize(
    ("pattern", "topic", "gets"),
    [
        (None, None, True),
        (None, "orders/eu", True),
        ("orders", "orders/eu", True),
        ("orders", "orders.late/eu", False),
        ("orders", None, False),
        ("orders", "order/s", False),
        ("orders.*", "orders.late/eu", True),
        ("orders.*", "orders./eu", True),
        ("orders.*", "orders/eu", False),
        ("orders*", "orders/eu", True),
        ("orders*", "ordersLATE/eu", True),
        ("*", "anything/eu", True),
        ("*", None, False),
    ],
)
def test_a_subscription_is_to_a_topic_or_to_all_that_begin_so(
    pattern: str | None, topic: str | None, gets: bool
) -> None:
    event = Happened(topic=topic)
    assert bool(route(of("listener", "key:x", topic=pattern), event=event)) is gets


def test_an_agent_with_two_matching_subscriptions_gets_the_event_once() -> None:
    assert route("correlation", "key:cor_1", "correlation") == ["listener/cor_1"]
    event = Happened(topic="orders.eu/ada")
    patterns = ("orders.eu", "orders.*", "*", None)
    matching = [of("listener", "key:ada", topic=pattern) for pattern in patterns]
    at_run_time = of("listener", "topic", topic="orders.eu", id="sub_1")
    assert route(*matching, at_run_time, event=event) == ["listener/ada"]


def test_what_is_remembered_does_not_grow_with_topics() -> None:
    routes = routes_of([of("listener", "key:x", topic="orders.*"), of("other", topic="news")])

    def publish(first: int, last: int) -> None:
        for n in range(first, last):
            for topic in (f"orders.{n}/{n}", f"news/{n}", f"unheard.{n}/{n}"):
                routes.recipients(Happened(topic=topic, correlation_id="c"), None)
            routes.recipients(Unheard(topic=f"unheard/{n}"), None)

    publish(0, 100)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        publish(100, 5100)
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()


# Subclasses


def test_exactly_the_class_unless_subclasses_are_wanted_too() -> None:
    exact, also = of("listener", "key:x"), of("listener", "key:x", subclasses=True)
    assert route(exact, event=Happened()) == route(also, event=Happened()) == ["listener/x"]
    assert route(exact, event=Repeated()) == []
    assert route(also, event=Repeated()) == ["listener/x"]
    assert route(of("audit", "key:x", event=Event, subclasses=True), event=Repeated()) == [
        "audit/x"
    ]
    assert route(of("listener", "key:x", event=Repeated, subclasses=True), event=Happened()) == []


def test_of_one_agent_type_the_nearest_class_alone_says_who_gets_it() -> None:
    far = of("listener", "key:far", subclasses=True)
    near = of("listener", "key:near", event=Repeated)
    assert route(far, near, event=Repeated()) == ["listener/near"]
    assert route(far, near, event=Happened()) == ["listener/far"]
    picky = of("listener", "key:near", event=Repeated, topic="orders")
    assert route(far, picky, event=Repeated()) == []
    # Other types, and subscriptions made at run time, say so for themselves.
    other = of("other", "key:far", subclasses=True)
    at_run_time = of("listener", "key:far", subclasses=True, id="sub_1")
    assert route(near, other, at_run_time, event=Repeated()) == [
        "listener/near",
        "other/far",
        "listener/far",
    ]


# The sender


def test_the_sender_does_not_get_its_own_event_but_its_siblings_do() -> None:
    sender = AgentId("listener", "cor_1")
    assert route("correlation", "key:other", sender=sender) == ["listener/other"]
    assert route("correlation", of("auditor"), sender=sender) == ["auditor/cor_1"]


def test_the_sender_gets_its_own_event_where_it_asked_for_it_once() -> None:
    sender = AgentId("listener", "cor_1")
    own = of("listener", own=True)
    assert route(own, "correlation", own, sender=sender) == ["listener/cor_1"]


# All of them


def test_recipients_come_in_the_order_of_their_subscriptions() -> None:
    types = ["c", "a", "b"]
    assert route(*(of(name) for name in types)) == [f"{name}/cor_1" for name in types]


def test_without_subscriptions_nobody_gets_it() -> None:
    assert route() == []


@settings(deadline=None)
@given(
    subscriptions=st.lists(
        st.builds(
            of,
            st.sampled_from(["a", "b"]),
            st.sampled_from(["correlation", "field:customer", "any:2", "key:0", "key:cor_1"]),
            topic=st.sampled_from([None, "orders", "orders*", "*", "news"]),
            id=st.sampled_from(["", "sub_1"]),
        )
    ),
    sender=st.none() | st.builds(AgentId, st.sampled_from(["a", "b"]), st.just("cor_1")),
    event_id=st.text(min_size=1),
    topic=st.sampled_from([None, "orders/1", "orders.eu/2"]),
)
def test_each_recipient_is_there_once_and_is_never_the_sender(
    subscriptions: list[Subscription], sender: AgentId | None, event_id: str, topic: str | None
) -> None:
    event = Happened(event_id=event_id, correlation_id="cor_1", customer="ada", topic=topic)

    def routed(*some: Subscription, sender: AgentId | None) -> list[str]:
        return route(*some, event=event, sender=sender)

    together = routed(*subscriptions, sender=sender)
    alone = {agent for s in subscriptions for agent in routed(s, sender=None)}
    assert len(together) == len(set(together))
    assert set(together) == alone - {str(sender)}
