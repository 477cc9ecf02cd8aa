"""AutoGen's gRPC runtime: a host process, two worker processes, and the driver as a client."""

from __future__ import annotations

import logging
import sys
from contextlib import AsyncExitStack

import uvloop
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from benchmarks.peers.driving import main
from benchmarks.peers.processes import free_port, module, process, ready
from benchmarks.peers.systems.autogen_agents import know_messages, register
from benchmarks.peers.systems.autogen_system import AutoGen

_WORKERS = 2


class Grpc(AutoGen):
    """One client only: with a second, replies go to the wrong one."""

    agents = 8_000

    async def start(self) -> None:
        self._processes = AsyncExitStack()
        address = f"127.0.0.1:{free_port()}"
        self._pids = [await self._start("host", address)]
        for part in range(_WORKERS):
            self._pids.append(await self._start("worker", address, str(part)))
        self.runtime = self._runtime = GrpcWorkerAgentRuntime(address)
        know_messages(self._runtime)
        await self._runtime.start()
        await self.warm_up()
        return self

    async def _start(self, *arguments: str) -> int:
        command = module("benchmarks.peers.systems.autogen_grpc", *arguments)
        return await self._processes.enter_async_context(process(*command))

    async def stop(self) -> None:
        try:
            await self._runtime.stop()
        finally:
            await self._processes.aclose()

    def serving(self) -> list[int]:
        return self._pids


async def _host(address: str) -> None:
    host = GrpcWorkerAgentRuntimeHost(address)
    host.start()
    ready()
    await host.stop_when_signal(grace=0)


async def _worker(address: str, part: int) -> None:
    runtime = GrpcWorkerAgentRuntime(address)
    await runtime.start()
    await register(runtime, part, _WORKERS)
    ready()
    await runtime.stop_when_signal()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    match sys.argv[1:]:
        case ["host", address]:
            uvloop.run(_host(address))
        case ["worker", address, part]:
            uvloop.run(_worker(address, int(part)))
        case _:
            main(Grpc, uvloop.run)
