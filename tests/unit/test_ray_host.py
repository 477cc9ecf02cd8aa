"""Host actors as other processes see them: what Ray raises, and what it means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from agentray.core.deaths import DeathCause, NodeSign
from agentray.core.reconcile import HostStatus
from agentray.protocol.snapshot import HostRef
from agentray.runtime.host_keeper import HEARTBEAT_S, HostKeeper
from agentray.runtime.ports import HostFactory, HostGone, HostUnreachable
from agentray.runtime.ray_adapter.ray_host import RayHost
from tests.support.eventually import eventually_async
from tests.support.virtual_time import run

HOST = HostRef("host_x", "agentray-host_x")


class Actor:
    """A handle of which each call raises what Ray would, until it is well."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0
        self.heartbeat = SimpleNamespace(remote=self._heartbeat)
        self.until_death = SimpleNamespace(remote=self._until_death)

    async def next_call(self) -> None:
        """Return when it has been called once more."""
        before = self.calls

        async def called() -> bool:
            return self.calls > before

        await eventually_async(called)

    def _heartbeat(self) -> Awaitable[dict[str, Any]]:
        return self._answer({"load": 0})

    async def _until_death(self) -> str:
        await eventually_async(self._fails, timeout_s=1000)
        raise self.error or AssertionError

    async def _fails(self) -> bool:
        return self.error is not None

    async def _answer(self, told: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return told


class Machines:
    """What a keeper asks of machines."""

    def __init__(self) -> None:
        self.sign = NodeSign.THERE

    async def sign_of(self, node: str | None) -> NodeSign:
        assert node == "node"
        return self.sign


async def kept(scenario: Callable[[Actor, HostKeeper, Machines], Awaitable[None]]) -> None:
    actor, machines = Actor(), Machines()
    keeper = HostKeeper(
        HOST,
        "default",
        1.0,
        1,
        cast(HostFactory, machines),
        on_lost=lambda _keeper, _reason: None,
        on_pending=lambda: None,
    )
    assert await keeper.adopt(RayHost(HOST, actor), "node")
    try:
        await scenario(actor, keeper, machines)
    finally:
        await keeper.abandon()


def test_an_actor_that_is_unavailable_for_a_moment_is_not_dead() -> None:
    async def scenario(actor: Actor, keeper: HostKeeper, machines: Machines) -> None:
        del machines
        for _ in range(5):
            actor.error = ActorUnavailableError("the connection was reset", None)
            await actor.next_call()
            actor.error = None
            await actor.next_call()
            assert keeper.status is HostStatus.LIVE
        assert keeper.describe()["missed_heartbeats"] == 0

    run(kept(scenario))


def test_one_that_is_unavailable_for_long_hangs_and_one_without_its_machine_is_lost_at_once() -> (
    None
):
    async def hangs(actor: Actor, keeper: HostKeeper, machines: Machines) -> None:
        del machines
        actor.error = ActorUnavailableError("the connection was reset", None)
        await eventually_async(lambda: _is(keeper, HostStatus.DEAD), timeout_s=10 * HEARTBEAT_S)
        assert keeper.death is not None
        assert keeper.death.cause is DeathCause.HUNG

    async def lost(actor: Actor, keeper: HostKeeper, machines: Machines) -> None:
        machines.sign = NodeSign.GONE
        actor.error = ActorUnavailableError("the connection was reset", None)
        await eventually_async(lambda: _is(keeper, HostStatus.DEAD), timeout_s=HEARTBEAT_S)
        assert keeper.death is not None
        assert keeper.death.cause is DeathCause.NODE_LOST

    run(kept(hangs))
    run(kept(lost))


def test_a_look_that_fails_is_not_the_last_one() -> None:
    async def scenario(actor: Actor, keeper: HostKeeper, machines: Machines) -> None:
        del machines
        actor.error = KeyError("a fault on the way to the host, or in it")
        await actor.next_call()
        actor.error = None
        await actor.next_call()
        assert keeper.status is HostStatus.LIVE
        actor.error = ActorDiedError()
        await eventually_async(lambda: _is(keeper, HostStatus.DEAD), timeout_s=10 * HEARTBEAT_S)

    run(kept(scenario))


def test_what_ray_raises_is_told_apart() -> None:
    async def scenario() -> None:
        actor = Actor()
        host = RayHost(HOST, actor)
        actor.error = ActorUnavailableError("the connection was reset", None)
        with pytest.raises(HostUnreachable):
            await host.heartbeat()
        actor.error = ActorDiedError()
        with pytest.raises(HostGone):
            await host.heartbeat()

    run(scenario())


async def _is(keeper: HostKeeper, status: HostStatus) -> bool:
    return keeper.status is status
