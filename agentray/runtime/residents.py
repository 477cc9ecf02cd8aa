"""The agents in a host's memory: they come, are found, rest, and leave."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentray.agent import AgentType
from agentray.core.supervision import Backoff
from agentray.errors import AgentQuarantined
from agentray.ids import AgentId
from agentray.protocol.envelope import Kind
from agentray.runtime.activation import Activator
from agentray.runtime.held_leases import Lease
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.permanents import is_permanent
from agentray.runtime.sending_on import send_on
from agentray.runtime.start_chains import StartChains
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.host import Host


_EVENT = int(Kind.EVENT)
_HANDLED = frozenset(map(int, (Kind.CALL, Kind.TELL, Kind.EVENT, Kind.STREAM)))

_CANCEL_S = 1.0
"""How long a handler that was cancelled may take to end."""

_ANEW_GRACE_S = 10.0
"""How long an agent whose slot is leased anew to its host may finish."""

_First = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Finishing:
    """An agent that leaves, within its grace.

    Attributes:
        until: when its grace ends, in seconds of the event loop's clock.
        left: is done when it has left, and must not write any more.
    """

    until: float
    left: asyncio.Future[None]


class Residents:
    """The agents that live in one host's memory, the least recently used first."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._agents: OrderedDict[AgentId, Incarnation] = OrderedDict()
        self.starts = StartChains(host)
        self._activator = Activator(host, self.starts)
        self._leaving: dict[AgentId, set[asyncio.Task[None]]] = {}  # until they do nothing
        self._late: set[Incarnation] = set()  # of these, who began for others that leave
        self._finishing: dict[Incarnation, _Finishing] = {}  # within their grace

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[Incarnation]:
        return iter(list(self._agents.values()))

    def ids(self) -> list[AgentId]:
        """Return the ids of all of them."""
        return list(self._agents)

    @property
    def getter(self) -> Callable[[Any], Incarnation | None]:
        """The quickest way to find one, by its id or by an equal tuple."""
        return self._agents.get

    # Coming

    def activate(self, agent_id: AgentId, agent_type: AgentType) -> Incarnation:
        """Bring an agent into memory; messages may be offered to it at once."""
        if self._leaving and agent_id in self._leaving:
            agent = self.reserve(agent_id, agent_type)
            self._host.tasks.spawn(self._follow(agent), name=f"start {agent_id} anew")
            return agent
        agent = Incarnation(agent_id, agent_type, self._host, self._host.now())
        self._agents[agent_id] = agent
        if self._host.meters is not None:
            self._host.meters[agent_id.type].activations += 1
        self._activator.start(agent)
        return agent

    def find(self, agent_id: AgentId) -> Incarnation | None:
        """Return an agent that is in memory."""
        return self._agents.get(agent_id)

    def forget(self, agent: Incarnation) -> None:
        """Take an agent that has ended out of memory."""
        if self._agents.get(agent.id) is agent:
            del self._agents[agent.id]

    async def abort_start(self, agent: Incarnation) -> None:
        """Give up the start of an agent if one is under way; return when it has ended."""
        await self._activator.abort(agent)

    def used(self, agent: Incarnation) -> None:
        """Note that an agent did something, which nobody did later."""
        if agent.id in self._agents:
            self._agents.move_to_end(agent.id)

    def quarantine(self, quarantined: Mapping[AgentId, str]) -> None:
        """Let agents in quarantine take no messages, and those that were let out begin anew."""
        for agent in self:
            if agent.id in quarantined and agent.refusal is None:
                agent.refuse(AgentQuarantined(str(agent.id), quarantined[agent.id]))
            elif isinstance(agent.refusal, AgentQuarantined) and agent.id not in quarantined:
                self.forget(agent)

    # Leaving

    def let_go(self, agent: Incarnation) -> None:
        """Drop an agent at once; what waits for it goes to its next host."""
        self._host.background.cancel(agent)
        self.forget(agent)
        self._activator.cancel(agent)
        send_on(agent.dismiss(), self._host.channel)

    async def restart(self, agent: Incarnation, error: BaseException, backoff: Backoff) -> None:
        """Start an agent anew that has ended because of an error of its own."""
        await self._activator.restart(agent, error, backoff)

    def finishing(self, lease: Lease) -> bool:
        """Whether agents of a slot that leave have not left."""
        return any(self._host.lease_of(agent.id) == lease for agent in self._finishing)

    async def until_left(self, which: Callable[[Incarnation], bool]) -> None:
        """Return when agents that leave have left."""
        # Who leaves may let others begin, which then leave with it.
        while finishing := [f.left for agent, f in self._finishing.items() if which(agent)]:
            await asyncio.wait(finishing)

    def leave(self, agent: Incarnation, grace_s: float) -> None:
        """Let an agent finish what it does, then drop it; what waits goes elsewhere at once.

        Should it come again, its next self begins when this one does nothing any more.
        """
        agent.leaving = True
        loops = self._host.background.cancel(agent)
        self.let_go(agent)
        self._finish(agent, grace_s, lambda: self._prepare_end(agent, loops))

    def waits_for(self, turn: Turn) -> Incarnation | None:
        """Return the agent for a message that one which leaves waits for, if it must be here.

        Elsewhere the message would wait until that one has left, which waits for the message. So
        an agent that leaves is called back here, and one that has not begun, and whose slot is
        given up as well, begins here: it leaves after those that wait for it.
        """
        envelope = turn.envelope
        waiting = [agent for agent in self._finishing if agent.id in envelope.chain]
        if not waiting:
            return None
        target = envelope.target
        leaving = next((agent for agent in self._finishing if agent.id == target), None)
        if target in envelope.chain or leaving in self._late:
            return leaving
        begins = (
            leaving is None
            and envelope.kind != _EVENT  # nobody waits for one
            and target not in self._leaving
            and self._host.finishes(target)
            and target.type in self._host.types
        )
        return self._begin_late(target, waiting) if begins else None

    def _begin_late(self, agent_id: AgentId, waiting: list[Incarnation]) -> Incarnation:
        """Bring an agent into memory that leaves again when others have left."""
        agent_type = self._host.types[agent_id.type].type
        agent = Incarnation(agent_id, agent_type, self._host, self._host.now())
        agent.leaving = True
        self._late.add(agent)
        others = [self._finishing[other] for other in waiting]
        grace_s = max(other.until for other in others) - self._host.now()
        self._finish(agent, grace_s, lambda: self._until_left(agent, others, grace_s))
        self._activator.start(agent)
        return agent

    def _finish(self, agent: Incarnation, grace_s: float, first: _First) -> None:
        """Let an agent end within its grace.

        Args:
            agent: which.
            grace_s: for what it does.
            first: what must be over before it may end; begins with the task, which may be cancelled
                before that.
        """
        left = asyncio.get_running_loop().create_future()
        self._finishing[agent] = _Finishing(self._host.now() + grace_s, left)
        task = self._host.tasks.spawn(self._end(agent, first), name=f"drain {agent.id}")
        self._leaving.setdefault(agent.id, set()).add(task)
        task.add_done_callback(lambda task: self._left(agent, task))

    async def _prepare_end(self, agent: Incarnation, loops: set[asyncio.Task[None]]) -> None:
        await self._host.background.ended(agent, loops)
        await self.abort_start(agent)

    async def _until_left(
        self, agent: Incarnation, others: list[_Finishing], grace_s: float
    ) -> None:
        await asyncio.wait([other.left for other in others])
        await self._activator.until_started(agent, max(grace_s, _CANCEL_S))
        await self.abort_start(agent)

    async def _end(self, agent: Incarnation, first: _First) -> None:
        await first()
        await agent.until_idle(max(self._finishing[agent].until - self._host.now(), _CANCEL_S))
        await agent.until_idle(_CANCEL_S)
        await agent.stop()
        self._late.discard(agent)
        self._finishing.pop(agent).left.set_result(None)
        send_on(agent.dismiss(), self._host.channel)
        while not agent.quiet:
            await agent.until_idle(_CANCEL_S)

    def _left(self, agent: Incarnation, task: asyncio.Task[None]) -> None:
        tasks = self._leaving[agent.id]
        tasks.discard(task)
        if not tasks:
            del self._leaving[agent.id]
        self._late.discard(agent)
        if (finishing := self._finishing.pop(agent, None)) is not None:
            finishing.left.set_result(None)  # it was cut short

    async def _follow(self, agent: Incarnation) -> None:
        """Begin an agent whose last self still leaves."""
        while (leaving := self._leaving.get(agent.id)) is not None:
            await asyncio.wait(leaving)
            await asyncio.sleep(0)  # until they are noted as gone
        self.succeed(agent)

    def lose(self, agent: Incarnation, *, anew: bool) -> None:
        """Let an agent go whose lease has ended.

        Args:
            agent: which.
            anew: its slot is leased to this host again: what it changes now is not written.
        """
        if anew and not (agent.idle and agent.leaves_at_once):
            self.leave(agent, _ANEW_GRACE_S)
        else:
            self.let_go(agent)

    def abandon(self, agent: Incarnation, ending: asyncio.Task[None]) -> None:
        """Drop an agent that does not end although it was cancelled: it has no effects any more.

        Who called it hears that now. Its next self begins when this one does nothing any more:
        there are never two.

        Args:
            agent: which; it takes no messages any more.
            ending: ends when it has, and goes on to cancel it until then.
        """
        self.forget(agent)
        self._leaving.setdefault(agent.id, set()).add(ending)
        ending.add_done_callback(lambda task: self._left(agent, task))
        sinks = [*self._host.sinks(), *self._host.runs]
        turns = [turn for sink in sinks for turn in sink.active.values() if turn.task is not None]
        for turn in turns:
            envelope = turn.envelope
            if agent.refusal and envelope.kind in _HANDLED and envelope.target == agent.id:
                turn.abandon(agent.refusal)

    def may_write(self, agent: Incarnation) -> bool:
        """Whether what an agent changes may be written: no successor of it can be anywhere."""
        if self._agents.get(agent.id) is agent:
            return True
        return agent in self._finishing and self._host.finishes(agent.id)

    async def _evict(self, agent: Incarnation) -> None:
        """Let an idle agent leave memory; what comes during its clean-up starts it anew."""
        if not await self._host.background.on_idle(agent):
            return
        agent.hold()
        await self._host.background.ended(agent, self._host.background.cancel(agent))
        await agent.stop()
        self.succeed(agent)

    def succeed(self, agent: Incarnation) -> None:
        """Drop an agent that has been stopped; what came meanwhile starts its successor."""
        self.forget(agent)
        for turn in agent.dismiss():
            self._host.deliver_turn(turn)

    def reserve(self, agent_id: AgentId, agent_type: AgentType) -> Incarnation:
        """Let the messages for an agent that is not in memory wait, until `succeed`."""
        agent = self._agents[agent_id] = Incarnation(
            agent_id, agent_type, self._host, self._host.now()
        )
        return agent

    def evict_idle(self) -> None:
        """Let agents leave that have been idle for long."""
        now = self._host.now()
        shortest = min(
            (loaded.type.options.idle_timeout_s for loaded in self._host.types.values()),
            default=0.0,
        )
        shortest = min(shortest, self._host.launching.shortest_idle_s)
        for agent in self._long_idle(now, shortest):
            if agent.leaves_at_once:
                del self._agents[agent.id]
            else:
                self._host.tasks.spawn(self._evict(agent), name=f"evict {agent.id}")

    def _long_idle(self, now: float, shortest_s: float) -> list[Incarnation]:
        found: list[Incarnation] = []
        for agent in self._agents.values():
            if now - agent.used < shortest_s:
                break  # ordered by their last use: the rest was used later
            long = now - agent.used >= agent.type.options.idle_timeout_s
            stays = is_permanent(agent.type.options) and agent.refusal is None
            if long and agent.idle and not stays and not self._host.background.keeps(agent):
                found.append(agent)
        return found

    # Looking

    def list(self, agent_type: str | None, limit: int) -> list[dict[str, Any]]:
        """Return agents in memory, the most recently used first."""
        found: list[dict[str, Any]] = []
        for agent_id in reversed(self._agents):
            if agent_type is not None and agent_id.type != agent_type:
                continue
            found.append(self.status_of(agent_id))
            if len(found) >= limit:
                break
        return found

    def status_of(self, agent_id: AgentId) -> dict[str, Any]:
        """Return how an agent is, without activating it."""
        about = {"agent": str(agent_id), "type": agent_id.type, "host": self._host.host_id}
        agent = self._agents.get(agent_id)
        if agent is None:
            return {**about, "status": "not in memory", "queued": 0, "last_error": None}
        now = self._host.now()
        return {
            **about,
            "status": agent.status,
            "queued": agent.queued,
            "active_s": round(now - agent.since, 3),
            "idle_s": round(now - agent.used, 3),
            "last_error": agent.failure,
        }
