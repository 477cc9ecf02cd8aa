"""Agents of a run that have only just got its first message hold their slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from agentray import Agent, App, Event, RunStatus, TerminateEvent, on
from agentray.ids import AgentId, slot_of
from agentray.protocol.envelope import Envelope
from agentray.runtime.host import Host
from agentray.runtime.turn import ReplySink
from agentray.testing import LocalRuntime
from agentray.testing import run as run_virtual


class Begun(Event):
    pass


class One(Event):
    pass


class Two(Event):
    pass


class Both(TerminateEvent):
    heard: list[str]


class Source(Agent):
    @on(Begun, key="correlation")
    async def begin(self, event: Begun) -> AsyncGenerator[One | Two]:
        del event
        yield One()
        await asyncio.sleep(3.0)
        yield Two()


class Gatherer(Agent):
    """Needs both events in the same memory."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @on(One, key="correlation")
    async def one(self, event: One) -> Both | None:
        return self._take(event)

    @on(Two, key="correlation")
    async def two(self, event: Two) -> Both | None:
        return self._take(event)

    def _take(self, event: Event) -> Both | None:
        self.heard.append(event.event_type)
        return Both(heard=self.heard) if len(self.heard) == 2 else None


def look_when_it_comes(host: Host, agent: AgentId) -> None:
    """Let slots of a host be asked for just when a message for an agent is in and not begun yet."""
    release, accept = host.departures.release, host.accept
    here = asyncio.Event()

    async def release_then(*args: Any, **more: Any) -> list[int]:
        await here.wait()
        return await release(*args, **more)

    def accept_first(envelope: Envelope, sink: ReplySink, now: float) -> None:
        if envelope.target == agent:
            here.set()  # who waits for it goes on before what the message begins
        accept(envelope, sink, now)

    host.departures.release = release_then
    host.accept = accept_first


def test_a_planned_move_waits_for_a_run_whose_message_has_only_just_come() -> None:
    async def scenario() -> None:
        runtime = LocalRuntime(hosts=2)
        async with runtime as manager:
            await manager.deploy(App("gatherers", [Source, Gatherer]))
            for number in range(8):  # from now on it is known how they are started
                warm = await manager.dispatch(Begun(correlation_id=f"warm-{number}"))
                assert (await warm.wait()).attempt == 1
            gatherer, source = AgentId("gatherer", "c"), AgentId("source", "c")
            at = runtime.host_of(gatherer)
            to = next(host for host in runtime.hosts if host != at)
            if runtime.host_of(source) == at:
                await manager.move_slots([slot_of(source)], to)
            look_when_it_comes(next(h for h in runtime.running if h.host_id == at), gatherer)
            moving = asyncio.create_task(manager.move_slots([slot_of(gatherer)], to))
            await asyncio.sleep(0.5)
            run = await manager.dispatch(Begun(correlation_id="c"))
            ended = await run.wait()
            assert (ended.status, ended.attempt) == (RunStatus.SUCCEEDED, 1), ended.error
            assert [e.rpartition(".")[2] for e in ended.result["heard"]] == ["One", "Two"]
            assert (await moving)["waiting"] == []
            assert runtime.host_of(gatherer) == to

    run_virtual(scenario())
