"""AutoGen's `SingleThreadedAgentRuntime`: everything in one process and one event loop."""

from __future__ import annotations

import logging
import os

import uvloop
from autogen_core import SingleThreadedAgentRuntime

from benchmarks.peers.driving import main
from benchmarks.peers.systems.autogen_agents import register
from benchmarks.peers.systems.autogen_system import AutoGen


class SingleThreaded(AutoGen):
    """The runtime that delivers by reference."""

    agents = 8_000

    async def start(self) -> None:
        self.runtime = self._runtime = SingleThreadedAgentRuntime()
        await register(self._runtime, 0, 1)
        self._runtime.start()
        await self.warm_up()

    async def stop(self) -> None:
        await self._runtime.stop()

    def serving(self) -> list[int]:
        return [os.getpid()]


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    main(SingleThreaded, uvloop.run)
