"""Routing: which instances get an event, each once, and never the one that sent it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentray.core.routing import recipients
from agentray.errors import ConfigurationError
from agentray.ids import AgentId, new_id
from agentray.protocol.snapshot import Subscription


def route(
    *keys: str | Subscription,
    event_id: str = "evt_1",
    correlation_id: str = "cor_1",
    fields: dict[str, Any] | None = None,
    sender: AgentId | None = None,
) -> list[str]:
    subscriptions = [
        key if isinstance(key, Subscription) else Subscription("Happened", "listener", key)
        for key in keys
    ]
    found = recipients(
        subscriptions,
        event_id=event_id,
        correlation_id=correlation_id,
        fields=fields or {},
        sender=sender,
    )
    return [str(agent) for agent in found]


def of(agent_type: str, key: str = "correlation") -> Subscription:
    return Subscription("Happened", agent_type, key)


def test_by_correlation_all_parts_of_one_conversation_meet_in_one_instance() -> None:
    assert route("correlation", event_id="evt_1") == ["listener/cor_1"]
    assert route("correlation", event_id="evt_2") == ["listener/cor_1"]
    assert route("correlation", correlation_id="cor_2") == ["listener/cor_2"]


@pytest.mark.parametrize(
    ("value", "key"), [("ada", "ada"), (7, "7"), ("with/slash", "with/slash"), (True, "True")]
)
def test_by_field_the_instance_is_the_value_of_the_field(value: object, key: str) -> None:
    assert route("field:customer", fields={"customer": value}) == [f"listener/{key}"]


def test_by_field_an_event_without_it_is_an_error_that_names_all_three() -> None:
    with pytest.raises(ConfigurationError, match=r"listener.*'customer'.*Happened"):
        route("field:customer", fields={"order": 7})


@pytest.mark.parametrize("value", ["", "x" * 513, "nul\0"])
def test_by_field_a_value_that_makes_no_key_is_an_error(value: str) -> None:
    with pytest.raises(ConfigurationError, match="key"):
        route("field:customer", fields={"customer": value})


def test_a_fixed_key_is_always_that_instance_even_with_colons_in_it() -> None:
    assert route("key:the:one", correlation_id="cor_9") == ["listener/the:one"]


def test_any_chooses_one_of_n_the_same_for_the_same_event() -> None:
    ids = [new_id("evt") for _ in range(2000)]
    chosen = [route("any:4", event_id=event_id) for event_id in ids]
    assert chosen == [route("any:4", event_id=event_id) for event_id in ids]
    counts = Counter(agent for agents in chosen for agent in agents)
    assert set(counts) == {f"listener/{n}" for n in range(4)}
    assert max(counts.values()) < 2 * min(counts.values())
    # The same instance in every process and version: a resent event must not go elsewhere.
    assert route("any:4", event_id="evt_1") == ["listener/1"]


def test_an_unknown_key_function_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="nearest:3"):
        route("nearest:3")


def test_an_agent_with_two_matching_subscriptions_gets_the_event_once() -> None:
    assert route("correlation", "key:cor_1", "correlation") == ["listener/cor_1"]


def test_the_sender_does_not_get_its_own_event_but_its_siblings_do() -> None:
    sender = AgentId("listener", "cor_1")
    assert route("correlation", "key:other", sender=sender) == ["listener/other"]
    assert route("correlation", of("auditor"), sender=sender) == ["auditor/cor_1"]


def test_recipients_come_in_the_order_of_their_subscriptions() -> None:
    types = ["c", "a", "b"]
    assert route(*(of(name) for name in types)) == [f"{name}/cor_1" for name in types]


def test_without_subscriptions_nobody_gets_it() -> None:
    assert route() == []


@settings(deadline=None)
@given(
    subscriptions=st.lists(
        st.builds(
            Subscription,
            st.just("Happened"),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["correlation", "field:name", "any:2", "key:0", "key:cor_1"]),
        )
    ),
    sender=st.none() | st.builds(AgentId, st.sampled_from(["a", "b"]), st.just("cor_1")),
    event_id=st.text(min_size=1),
)
def test_each_recipient_is_there_once_and_is_never_the_sender(
    subscriptions: list[Subscription], sender: AgentId | None, event_id: str
) -> None:
    def routed(*some: Subscription, sender: AgentId | None) -> list[str]:
        return route(*some, event_id=event_id, fields={"name": "ada"}, sender=sender)

    together = routed(*subscriptions, sender=sender)
    alone = {agent for s in subscriptions for agent in routed(s, sender=None)}
    assert len(together) == len(set(together))
    assert set(together) == alone - {str(sender)}


def test_by_field_a_value_of_none_is_no_key() -> None:
    with pytest.raises(ConfigurationError, match="is None"):
        route("field:customer", fields={"customer": None})
