"""A group on a real cluster: it outlives the kill of any host, and a broken member is mended."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agentray import Agent, AgentStopped, App, ManagerClient, action, loop
from agentray.ids import new_id
from agentray.patterns import Group, GroupAgent, Member
from tests.support.cluster import until_complete
from tests.support.eventually import eventually_async

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("helper_app")]


class Limb(Agent):
    async def on_start(self) -> None:
        self.broken = asyncio.Event()
        self.birth = new_id("birth")

    @loop
    async def live(self) -> None:
        await self.broken.wait()
        raise ValueError("broken")

    @action(idempotent=True)
    async def born(self) -> str:
        return self.birth

    @action
    async def snap(self) -> None:
        self.broken.set()


class Body(GroupAgent):
    group = Group([Member(Limb, "left"), Member(Limb, "right")], strategy="one_for_all")
    starts = ("whole",)


async def test_a_group_survives_its_hosts_and_mends_its_members(manager: ManagerClient):
    await manager.deploy(App("bodies", [Limb, Body]))
    try:
        before = await until_complete(manager)
        group = manager.handle(Body, "whole").with_timeout(30.0)

        async def whole() -> bool:
            try:
                states = [member["status"] for member in await group.members()]
            except Exception:  # noqa: BLE001 - its own host may have been the one
                return False
            return all(state in {"idle", "running"} for state in states)

        await eventually_async(whole, timeout_s=60)
        pid = next(iter(before.values()))
        os.kill(pid, signal.SIGKILL)
        await until_complete(manager, without=[pid])
        await eventually_async(whole, timeout_s=60)
        left = manager.handle(Limb, "left").with_timeout(30.0)
        before_it = await left.born()
        await manager.handle(Limb, "right").with_timeout(30.0).snap()

        async def restarted() -> bool:
            try:
                return await left.born() != before_it
            except AgentStopped:  # it is between its lives
                return False

        await eventually_async(restarted, timeout_s=60)
    finally:
        await manager.stop("bodies")

    async def stopped() -> bool:
        found = await manager.find(type=Limb, status="stopped")
        return {record.id.key for record in found} == {"left", "right"}

    await eventually_async(stopped)
