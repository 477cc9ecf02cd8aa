"""What Ray's tasks and actors do with a handle, where their processes can import it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

from agentray import Agent, App, DeadlineExceeded, Handle, action
from tests.support.eventually import eventually_async


class Desk(Agent):
    """Is called from Ray's tasks and actors."""

    @action
    async def add(self, a: int, b: int) -> int:
        return a + b

    @action
    async def up_to(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number

    @action
    async def fail(self) -> None:
        raise ValueError("on purpose")

    @action
    async def forever(self) -> None:
        await asyncio.get_running_loop().create_future()


app = App("desk", [Desk])


def use(desk: Handle[Desk]) -> dict[str, Any]:
    """Do what code that does not await does."""
    seen: dict[str, Any] = {"pid": os.getpid()}
    seen["added"] = desk.sync.add(1, 2)
    seen["read"] = list(desk.sync.up_to(5))
    try:
        desk.sync.fail()
    except ValueError as error:
        seen["error"] = str(error)
    try:
        desk.with_timeout(0.2).sync.forever()
    except DeadlineExceeded as error:
        seen["deadline"] = type(error).__name__
    desk.sync.add.tell(1, 2)
    seen["status"] = desk.sync.status()["status"]
    seen["described"] = "add" in desk.sync.describe()["actions"]
    seen["completed"] = desk.sync.stats()["completed"] > 0
    seen["pinged"] = desk.sync.ping() >= 0
    names = [thread.name for thread in threading.enumerate()]
    seen["connections"] = names.count("agentray-connection")
    return seen


class SyncUser:
    def use(self, desk: Handle[Desk]) -> dict[str, Any]:
        return use(desk)


class AsyncUser:
    async def use(self, desk: Handle[Desk]) -> dict[str, Any]:
        seen: dict[str, Any] = {"pid": os.getpid()}
        seen["added"] = sum(await asyncio.gather(*(desk.add(n, 1) for n in range(10))))
        seen["read"] = [number async for number in desk.up_to(5)]
        try:
            await desk.fail()
        except ValueError as error:
            seen["error"] = str(error)
        try:
            await desk.with_timeout(0.2).forever()
        except DeadlineExceeded as error:
            seen["deadline"] = type(error).__name__
        await desk.add.tell(1, 2)
        seen["pinged"] = await desk.ping() >= 0
        call = asyncio.create_task(desk.forever())

        async def runs() -> bool:
            return (await desk.status())["status"] == "running"

        await eventually_async(runs)
        call.cancel()
        await asyncio.wait([call])
        seen["after"] = call.cancelled(), (await desk.status())["status"]
        # What the actor returns finds its way, too.
        seen["handle"] = desk
        return seen
