"""The dispatcher: hands runs to hosts for those who admit them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from agentray.errors import DeploymentStopped, NoHandler, UnknownAgentType
from agentray.event_run import cancel_run, join_run
from agentray.events import Prompt
from agentray.ids import AgentId, slot_of
from agentray.protocol.codec import decode, encode, error_of
from agentray.protocol.cursors import Cursor
from agentray.protocol.envelope import Kind, Reply, ReplyKind, RunMode
from agentray.protocol.event_runs import root_of
from agentray.protocol.runs import Run, RunEvent
from agentray.protocol.schedules import ScheduleSpec
from agentray.protocol.snapshot import TypeView
from agentray.runtime.channel import Channel
from agentray.runtime.dispatching import check_running, pool_for
from agentray.runtime.message import Post, Request
from agentray.runtime.ports import Place
from agentray.runtime.redrive import post_run
from agentray.store.base import NewRun

_WATCH_SLACK_S = 5.0


FRESH_RUN = ("id", "agent", "pool", "slot", "input", "correlation_id", "created_at", "owner")
"""Fields of a `NewRun` that its host needs."""


class ChannelDispatcher:
    """A `RunDispatcher` over a channel."""

    def __init__(
        self, channel: Channel, newest: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Make it.

        Args:
            channel: to the hosts.
            newest: returns when the channel has the newest snapshot; None: it always has.
        """
        self._channel = channel
        self._newest = newest

    def place(
        self, agent_type: str | None, key: str | None, fresh_key: str, *, prompted: bool = True
    ) -> Place:
        """Find out where a prompt goes; see `ports.RunDispatcher`."""
        snapshot = self._channel.snapshot
        name = agent_type
        if name is None:
            if not snapshot.entries:
                if any(view.stopped and view.prompts for view in snapshot.types.values()):
                    raise DeploymentStopped("the entry agent")
                raise UnknownAgentType("", tuple(sorted(snapshot.types)))
            name = snapshot.entries[0]
        view = snapshot.types.get(name)
        if view is None:
            raise UnknownAgentType(name, tuple(sorted(snapshot.types)))
        agent = AgentId(name, key or fresh_key)
        if prompted and not view.prompts:
            raise NoHandler(str(agent), Prompt.event_type)
        if view.stopped:
            raise DeploymentStopped(name)
        nowhere = view.isolated and agent not in snapshot.seats  # its first message starts a host
        if snapshot.host_of(agent) is None and not nowhere:
            nobody = DeploymentStopped(name, why="has no host at the moment")
            raise snapshot.pending(agent) or nobody
        return Place(agent, view.pool, slot_of(agent))

    def agent_types(self) -> Mapping[str, TypeView]:
        """Return what is known of all agent types; see `ports.RunDispatcher`."""
        return self._channel.snapshot.types

    async def newest(self) -> None:
        """Return when the newest agent types are known; see `ports.RunDispatcher`."""
        if self._newest is not None:
            await self._newest()

    def place_scheduled(self, spec: ScheduleSpec, run_id: str) -> Place:
        """Find out where a schedule's run goes; see `ports.RunDispatcher`."""
        snapshot = self._channel.snapshot
        if spec.event is not None:
            check_running(snapshot, spec.lineage)
            pool = pool_for(snapshot, spec.lineage)
            root = root_of(pool, run_id)
            return Place(root, pool, slot_of(root))
        name, _, key = (spec.agent or "").partition("/")
        view = snapshot.types.get(name)
        if view is None:
            raise UnknownAgentType(name, tuple(sorted(snapshot.types)))
        agent = AgentId(name, key or run_id)
        if not view.prompts:
            raise NoHandler(str(agent), Prompt.event_type)
        if view.stopped:
            raise DeploymentStopped(name)
        return Place(agent, view.pool, slot_of(agent))

    async def run(self, run: NewRun, *, held: bool = False) -> Run:
        """Give an admitted run to its host and return it when it has ended."""
        if held:
            return await self._send(run.agent, RunMode.AGAIN, encode((run.id,)))
        # As a plain tuple: a dataclass takes five times as long to pickle.
        fields = tuple(getattr(run, field) for field in FRESH_RUN)
        return await self._send(run.agent, RunMode.FRESH, encode(fields))

    async def _send(self, agent: AgentId, name: str, payload: bytes) -> Run:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Run] = loop.create_future()

        def on_reply(reply: Reply) -> None:
            if future.done():
                return
            if reply.kind == ReplyKind.ERROR:
                future.set_exception(error_of(reply))
            else:
                future.set_result(Run.model_validate_json(reply.payload))

        self._channel.post(Post(Kind.RUN, agent, name, payload, on_reply))
        return await future

    def watch(
        self, agent: AgentId, run_id: str, cursor: Cursor, wait_s: float
    ) -> Coroutine[Any, Any, list[RunEvent]]:
        """Return events beyond those seen, waiting for the first; see `ports.RunDispatcher`."""
        payload = encode((run_id, cursor.offset, wait_s, cursor.attempt))
        # Now, not when it is awaited: with the run itself, that was given to its host just before.
        asked = self._channel.begin_request(
            Kind.WATCH, agent, "", payload, timeout=wait_s + _WATCH_SLACK_S
        )
        return self._events(asked)

    async def _events(self, asked: Request) -> list[RunEvent]:
        return decode(await self._channel.value_of(asked))

    async def join(self, agent: AgentId, run_id: str) -> Run:
        """Return a run when it has ended; see `ports.RunDispatcher`."""
        return await join_run(self._channel, agent, run_id)

    def go_on(self, agent: AgentId, run_id: str) -> None:
        """Hand a run that was answered to its host; see `ports.RunDispatcher`."""
        post_run(self._channel, agent, run_id, RunMode.ANSWERED)

    async def cancel(self, agent: AgentId, run_id: str) -> Run:
        """Have a run's host end it; see `ports.RunDispatcher`."""
        return await cancel_run(self._channel, agent, run_id)
