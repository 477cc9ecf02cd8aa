"""Calls on a real cluster with two hosts: values, errors, deadlines, deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from agentray import (
    DeadlineExceeded,
    HostDied,
    ManagerClient,
    UnknownAction,
    UnknownAgentType,
)
from tests.support.cluster import until_complete
from tests.support.eventually import eventually_async
from tests.support.helpers import Named, Parrot, Waiter

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("helper_app")]


async def has_status(manager: ManagerClient, agent: str, status: str) -> bool:
    found = await manager.agents(agent.partition("/")[0], 1000)
    return any(row["agent"] == agent and row["status"] == status for row in found)


async def test_an_action_returns_its_value(manager: ManagerClient):
    parrot = manager.handle(Parrot, "value")
    assert await parrot.echo({"x": [1, b"2", (3, None)]}) == {"x": [1, b"2", (3, None)]}
    assert await parrot.call(Parrot.twice, value=21) == 42
    large = os.urandom(5_000_000)
    assert await parrot.echo(large) == large
    assert await parrot.ping() > 0


async def test_an_error_arrives_as_itself_with_where_it_came_from(manager: ManagerClient):
    with pytest.raises(ValueError, match="no such value") as caught:
        await manager.handle(Parrot, "error").fail("no such value")
    assert "in fail" in "".join(caught.value.__notes__)
    with pytest.raises(UnknownAction, match="sing"):
        await manager.handle(Parrot, "error").sing()
    with pytest.raises(UnknownAgentType, match="nobody"):
        await manager.handle("nobody", "x").anything()


async def test_many_calls_at_once_go_to_both_hosts_and_each_gets_its_own_reply(
    manager: ManagerClient,
):
    hosts = await until_complete(manager)
    parrots = [manager.handle(Parrot, f"many-{n}") for n in range(50)]
    values = await asyncio.gather(*(parrots[n % 50].echo(n) for n in range(5000)))
    assert values == list(range(5000))
    processes = await asyncio.gather(*(parrot.process() for parrot in parrots))
    assert set(processes) == set(hosts.values())


async def test_a_call_ends_at_its_deadline_and_frees_the_agents_turn(
    manager: ManagerClient, tmp_path: Path
):
    waiter = manager.handle(Waiter, "deadline")
    await waiter.process()
    with pytest.raises(DeadlineExceeded):
        await waiter.with_timeout(0.2).wait(f"{tmp_path}/never")
    assert await waiter.process() > 0


async def test_a_cancelled_call_frees_the_agents_turn(manager: ManagerClient, tmp_path: Path):
    waiter = manager.handle(Waiter, "cancelled")
    call = asyncio.create_task(waiter.wait(f"{tmp_path}/never"))
    await eventually_async(lambda: has_status(manager, "waiter/cancelled", "running"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually_async(lambda: has_status(manager, "waiter/cancelled", "idle"))
    assert await waiter.process() > 0


async def test_a_killed_host_fails_calls_that_may_have_run_and_repeats_idempotent_ones(
    manager: ManagerClient, tmp_path: Path
):
    hosts = await until_complete(manager)
    waiters = [manager.handle(Waiter, f"killed-{n}") for n in range(16)]
    homes = await asyncio.gather(*(waiter.process() for waiter in waiters))
    victim = homes[0]
    lost, repeated = [w for w, home in zip(waiters, homes, strict=True) if home == victim][:2]
    named = [await manager.launch(Named, args=("Hello",), name=f"n{n}") for n in range(16)]
    greetings = await asyncio.gather(*(agent.greet() for agent in named))
    assert {process for _, process in greetings} == set(hosts.values())

    gate = tmp_path / "gate"
    calls = [
        asyncio.create_task(lost.wait(str(gate))),
        asyncio.create_task(repeated.wait_or_begin_again(str(gate))),
    ]
    for agent in (lost, repeated):
        await eventually_async(lambda agent=agent: has_status(manager, str(agent.id), "running"))
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(HostDied):
        await calls[0]
    assert time.monotonic() - killed < 10, "three heartbeats are missed after 16 s"
    gate.touch()
    assert await calls[1] not in {victim, None}
    # Agents that were launched are made again elsewhere, with their arguments.
    after = await asyncio.gather(*(agent.greet() for agent in named))
    assert {text for text, _ in after} == {"Hello!"}
    assert victim not in {process for _, process in after}
    assert victim not in (await until_complete(manager, without=[victim])).values()
