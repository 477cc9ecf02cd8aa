"""agentray on the cluster that is up: one host process or two, and the driver."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import agentray
from agentray.microbenchmark.places import deployed
from benchmarks.peers.driving import MEASUREMENTS, System, main, option
from benchmarks.peers.systems.agentray_agents import POOL, PUBLISHERS, Echo, Publisher, Ticked, app
from benchmarks.peers.systems.agentray_agents import Text as TextEvent


class Agentray(System):
    """Its agents live on so many hosts."""

    figures = MEASUREMENTS
    agents = 20_000

    def __init__(self, hosts: int) -> None:
        super().__init__()
        self._hosts = hosts

    async def start(self) -> None:
        self._up = AsyncExitStack()
        self._manager = await self._up.enter_async_context(agentray.connect())
        pools = {POOL: self._hosts, PUBLISHERS: 1}
        await self._up.enter_async_context(deployed(self._manager, app, pools))
        status = await self._manager.status()
        self._pids = [host["pid"] for host in status["hosts"] if host["pool"] == POOL]
        self._echo = self._manager.handle(Echo, "one")
        self._publisher = self._manager.handle(Publisher, "one")
        await self.call()

    async def stop(self) -> None:
        await self._up.aclose()

    async def call(self) -> None:
        await self._echo.echo(1)

    async def publish(self, count: int) -> None:
        await self._publisher.publish(count)

    async def create(self, number: int) -> None:
        await self._manager.handle(Echo, f"new-{number}").echo(number)

    def serving(self) -> list[int]:
        return self._pids

    async def analyse(self, given: list[str]) -> None:
        self.tally.clear()
        await asyncio.gather(*(self._one(text) for text in given))

    async def _one(self, text: str) -> None:
        run = await self._manager.dispatch(TextEvent(text=text), durability="none", events=False)
        await run.result()

    async def dispatch(self) -> None:
        await self._manager.dispatch(Ticked(value=1), durability="none", events=False)


if __name__ == "__main__":
    main(lambda: Agentray(int(option("HOSTS", "2"))), agentray.run)
