"""What goes with an app that is removed, and what stays."""

from __future__ import annotations

from typing import Any

import pytest

from agentray.ids import AgentId
from agentray.protocol.topics import TopicSubscription
from agentray.store.base import AppRow, LaunchedAgent, StateWrite, Store
from agentray.store.supervision import AgentFailure, FailureKind
from tests.contract.samples import T0

MINE, OTHERS = AgentId("mine", "a"), AgentId("others", "a")


async def keep_all(store: Store) -> None:
    for name in ("one", "two"):
        await store.put_app(AppRow(name, b"\0spec", "", "d", "stopped", T0))
    agents = (MINE, OTHERS)
    await store.put_launched([LaunchedAgent(agent, b"\0", launched_at=T0) for agent in agents])
    await store.put_failures([AgentFailure(a, FailureKind.FAILED, "bad", "", T0) for a in agents])
    await store.keep_permanent([(agent, 0) for agent in agents])
    await store.put_states([StateWrite(agent, {"n": 1}) for agent in agents])
    for agent in agents:
        wish = TopicSubscription(f"sub_{agent.type}", agent.type, "orders", None, "topic", T0)
        await store.put_subscription(wish)


async def left(store: Store) -> dict[str, list[Any]]:
    failures = await store.list_failures(kinds=list(FailureKind))
    return {
        "apps": [app.name for app in await store.list_apps()],
        "launched": [launched.agent for launched in await store.list_launched()],
        "failures": [failure.agent for failure in failures],
        "permanent": sorted(await store.list_permanent(["mine", "others"], [0])),
        "subscriptions": [s.agent_type for s in await store.list_subscriptions()],
        "states": sorted(await store.load_states([MINE, OTHERS])),
    }


@pytest.mark.parametrize("states", [False, True])
async def test_an_app_goes_with_all_that_is_kept_of_its_agents(store: Store, states: bool):
    await keep_all(store)
    await store.delete_app("one", ["mine"], states=states)
    kept = {"launched", "failures", "permanent"}
    assert await left(store) == {
        **{what: [OTHERS] for what in kept},
        "apps": ["two"],
        "subscriptions": ["others"],
        "states": [OTHERS] if states else [MINE, OTHERS],
    }


async def test_what_nobody_has_may_be_removed(store: Store):
    await keep_all(store)
    before = await left(store)
    await store.delete_app("nobody", [], states=True)
    assert await left(store) == before
