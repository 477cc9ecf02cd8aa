"""Launching on the host's side: agents are registered, started, waited for and shut down here.

The host that leases an agent's slot is the only one that writes its record, one change at a time.
A shut down agent refuses messages from the first moment on, and its next life begins only after
its last one has ended: nobody ever sees two of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from agentray import context as contexts
from agentray.errors import (
    AgentrayError,
    AgentStopped,
    ConfigurationError,
    Fenced,
    StoreUnavailable,
    UnknownAgent,
)
from agentray.ids import AgentId, slot_of
from agentray.protocol.codec import NO_ARGUMENTS, decode, encode
from agentray.protocol.envelope import Kind, ReplyKind
from agentray.protocol.launching import (
    ENDED,
    AgentStatus,
    Ended,
    LaunchOrder,
    LifeCall,
    ShutdownOrder,
)
from agentray.runtime.group_commit import GroupCommit
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.launch_records import is_special, options_of, relaunched, renewed
from agentray.runtime.sending_on import send_on
from agentray.runtime.turn import Turn
from agentray.store.base import CommitOutcome, LaunchedAgent, LaunchedQuery, LaunchedWrite

if TYPE_CHECKING:
    from agentray.runtime.host import Host

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_BATCH = 512
_STORE_RETRY_S = 0.5

_REPLACE_GRACE_S = 10.0
"""How long an agent that nobody launched may finish before its launched self takes over."""

_AGAIN_S = 1.0
"""How often a handler that will not be cancelled is cancelled again."""

ABANDON_S = 1.0
"""How long an agent may take to end that was cancelled after the grace; then it is abandoned."""

_CHILD_SLACK_S = 30.0
_ALL = 1_000_000


class Launching:
    """Keeps the lives of a host's launched agents."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._locks: WeakValueDictionary[AgentId, asyncio.Lock] = WeakValueDictionary()
        self._stopping: dict[AgentId, asyncio.Task[Ended | AgentrayError]] = {}
        self._waiters: dict[AgentId, set[asyncio.Future[Ended | None]]] = {}
        self._plain: set[str] = set()  # types without records: their agents need no look-up
        self._special: set[str] = set()  # types with records
        self._probes: dict[str, asyncio.Lock] = {}  # one look for the records of a type at a time
        self._known_at = 0  # rises with whatever makes an earlier look-up worthless
        self._fresh: dict[AgentId, LaunchedAgent] = {}  # records of agents about to start
        self.shortest_idle_s = math.inf  # of agents with options of their own

        async def load(batch: Sequence[AgentId]) -> Sequence[LaunchedAgent | None]:
            found = await host.store.load_launched(batch)
            return [found.get(agent) for agent in batch]

        async def keep(batch: Sequence[LaunchedWrite]) -> Sequence[CommitOutcome]:
            outcomes = await host.store.keep_launched(host.host_id, batch)
            host.judged([(w.pool, w.slot, w.epoch) for w in batch], outcomes)
            return outcomes

        # Agents that start together are looked up, and written, together.
        sizes = {"max_batch": _MAX_BATCH, "max_waiting": _ALL}
        self._loads = GroupCommit(load, **sizes, name="launched loads")
        self._writes = GroupCommit(keep, **sizes, name="launched writes")

    # Messages

    async def handle(self, turn: Turn) -> None:
        """Handle a message of the kind `LAUNCH`."""
        agent_id = turn.envelope.target
        try:
            match turn.envelope.name:
                case LifeCall.REGISTER:
                    order: LaunchOrder = decode(turn.envelope.payload)
                    turn.reply(ReplyKind.VALUE, encode(await self._register(agent_id, order)))
                case LifeCall.RESTORE:
                    await self._restore(agent_id, *decode(turn.envelope.payload))
                    turn.reply(ReplyKind.VALUE)
                case LifeCall.SHUTDOWN:
                    await self._shut_down(turn, agent_id, decode(turn.envelope.payload))
                case LifeCall.WAIT:
                    await self._wait(turn, agent_id)
                case LifeCall.RESET:
                    turn.reply(ReplyKind.VALUE, encode(await self._reset(agent_id)))
                case _:
                    await self._launch(turn, agent_id, decode(turn.envelope.payload))
        except Fenced:
            turn.reply(ReplyKind.MOVED)  # the agent's next host does it

    def is_stopping(self, agent_id: AgentId) -> bool:
        """Whether an agent is being shut down."""
        return agent_id in self._stopping

    def refuses(self, turn: Turn) -> bool:
        """Refuse a message to an agent that is not in memory because it is being shut down."""
        agent_id = turn.envelope.target
        if agent_id not in self._stopping:
            return False
        turn.fail(AgentStopped(str(agent_id)))
        return True

    def leases_changed(self) -> None:
        """Forget what may be different now; those who wait ask the next host."""
        self._plain.clear()
        self._known_at += 1
        for agent_id in [a for a in self._waiters if not self._host.leases(a)]:
            self._tell(agent_id, None)

    # Start

    async def _register(
        self, agent_id: AgentId, order: LaunchOrder
    ) -> tuple[LaunchedAgent | None, LaunchedAgent]:
        """Keep how an agent is to be made; return its record before, None: it is new, and after."""
        async with self._lock(agent_id):
            known = await self._load(agent_id)
            return known, await self._keep_order(agent_id, known, order, AgentStatus.REGISTERED)

    async def _restore(
        self, agent_id: AgentId, before: LaunchedAgent | None, after: LaunchedAgent
    ) -> None:
        """Put a record back as it was before a registration; nothing, when it has changed since."""
        async with self._lock(agent_id):
            if await self._load(agent_id) == after != before:
                await self._keep(before or after, forget=before is None)

    async def _launch(self, turn: Turn, agent_id: AgentId, order: LaunchOrder) -> None:
        # In a task of its own: whoever asked may go, but an agent is never left half replaced.
        making = self._host.tasks.spawn(_apart(self._make(agent_id, order)), f"launch {agent_id}")
        made = await asyncio.shield(making)
        if isinstance(made, AgentrayError):
            raise made
        made.offer(turn)  # answered when the agent has been started

    async def _make(self, agent_id: AgentId, order: LaunchOrder) -> Incarnation | AgentrayError:
        try:
            async with self._lock(agent_id):
                known = await self._load(agent_id)
                if await self._host.failures.of(agent_id) is not None:
                    await self._host.failures.forget(agent_id)  # a launch is another try
                launched = await self._keep_order(agent_id, known, order, AgentStatus.RUNNING)
                agent = self._host.find(agent_id)
                made_otherwise = known is None and is_special(launched)
                if agent is not None and (agent.refusal is not None or made_otherwise):
                    agent = await self._replace(agent, launched)
                return agent or self._activate(launched)
        except AgentrayError as error:
            return error  # it is the caller's, not the task's

    async def _keep_order(
        self,
        agent_id: AgentId,
        known: LaunchedAgent | None,
        order: LaunchOrder,
        status: AgentStatus,
    ) -> LaunchedAgent:
        if order.owner == agent_id:
            raise ConfigurationError(f"{agent_id} cannot be its own child.")
        now = datetime.now(UTC)
        if known is None or known.status in ENDED:
            launched = renewed(known or LaunchedAgent(agent_id, NO_ARGUMENTS, now), order, now)
            launched = replace(launched, status=status)
        else:
            launched = relaunched(known, order, status)
        if launched != known:
            await self._keep(launched)
        return launched

    def _activate(self, launched: LaunchedAgent) -> Incarnation:
        agent_id = launched.agent
        if not self._host.leases(agent_id):
            raise Fenced  # it was lost while the record was written, or an old self ended
        self._fresh[agent_id] = launched
        return self._host.residents.activate(agent_id, self._host.types[agent_id.type].type)

    async def _replace(self, agent: Incarnation, launched: LaunchedAgent) -> Incarnation:
        """Let an agent be made anew; what waits for it waits for its next self."""
        waiting: list[Turn] = []
        old: Incarnation | None = agent
        while old is not None:
            old.hold()
            await self._end(old, _REPLACE_GRACE_S)
            waiting += old.dismiss()
            old = self._host.find(agent.id)  # one that was leaving may have been followed
        try:
            made = self._activate(launched)
        except Fenced:
            send_on(waiting, self._host.channel)
            raise
        for turn in waiting:
            made.offer(turn)
        return made

    # Activation

    def is_plain(self, type_name: str) -> bool:
        """Whether no agent of a type has a record, so that there is nothing to look up."""
        return type_name in self._plain

    async def record_of(self, agent_id: AgentId) -> LaunchedAgent | None:
        """Return the record with which an agent must be made; a registered one runs from now on.

        Raises:
            Fenced: this host has lost it.
        """
        fresh = self._fresh.pop(agent_id, None)
        if fresh is not None or not await self._has_records(agent_id.type):
            return fresh
        known = await self._load(agent_id)
        if known is not None and known.status is AgentStatus.REGISTERED:
            async with self._lock(agent_id):
                known = await self._load(agent_id)
                if known is not None and known.status is AgentStatus.REGISTERED:
                    known = replace(known, status=AgentStatus.RUNNING)
                    await self._keep(known)
        return known

    async def status_of(self, agent_id: AgentId) -> str | None:
        """Return `registered`, `stopped` or `failed` of an agent that is not in memory, if it is.

        None: a message would start it.
        """
        if not await self._has_records(agent_id.type):
            return None
        known = await self._load(agent_id)
        if known is None or known.status is AgentStatus.RUNNING:
            return None
        return known.status.value

    async def _has_records(self, type_name: str) -> bool:
        async with self._probes.setdefault(type_name, asyncio.Lock()):
            if type_name not in self._special and type_name not in self._plain:
                known_at = self._known_at
                if await self._host.store.types_with_launched([type_name]):
                    self._special.add(type_name)
                elif known_at == self._known_at:
                    self._plain.add(type_name)
                else:
                    return True  # something was written meanwhile: look at the agent itself
            return type_name in self._special

    def prepare(self, agent: Incarnation, launched: LaunchedAgent) -> bool:
        """Give an agent the options of its record; False: the record refuses it."""
        name = str(agent.id)
        if launched.status is AgentStatus.STOPPED:
            agent.refuse(AgentStopped(name))
            return False
        if launched.status is AgentStatus.FAILED:
            agent.fail(launched.last_error)
            return False
        options = options_of(agent.type, launched)
        if options is not None:
            agent.configure(options)
            self.shortest_idle_s = min(self.shortest_idle_s, options.idle_timeout_s)
        return True

    async def failed(self, agent_id: AgentId, reason: str) -> None:
        """Record that an agent could not be started; its own agents end with it."""
        reason = reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        try:
            async with self._lock(agent_id):
                known = await self._load(agent_id)
                if known is not None and known.status not in ENDED:
                    await self._keep(replace(known, status=AgentStatus.FAILED, last_error=reason))
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent has failed
            # It is failed in memory; its next activation finds out anew.
            extra = {"action": "failure_not_recorded", "agent": str(agent_id)}
            logger.warning("%s: failure not recorded: %s", agent_id, error, extra=extra)
        self._tell(agent_id, Ended(AgentStatus.FAILED, reason))
        end = self._end_owned(agent_id, ShutdownOrder(_REPLACE_GRACE_S))
        self._host.tasks.spawn(_apart(end), name=f"end what {agent_id} owned")

    # End

    async def _shut_down(self, turn: Turn, agent_id: AgentId, order: ShutdownOrder) -> None:
        while (task := self._stopping.get(agent_id)) is not None and order.blocking:
            ended = await asyncio.shield(task)
            if isinstance(ended, Ended) and not order.terminate:
                turn.reply(ReplyKind.VALUE, encode(ended))
                return
        if task is None:
            task = self._spawn_stop(agent_id, order)
        elif order.terminate:
            work = self._stop_next(agent_id, order)
            self._host.tasks.spawn(work, name=f"terminate {agent_id}")
        ended = await asyncio.shield(task) if order.blocking else None
        if isinstance(ended, AgentrayError):
            raise ended
        turn.reply(ReplyKind.VALUE, encode(ended))

    def _spawn_stop(
        self, agent_id: AgentId, order: ShutdownOrder
    ) -> asyncio.Task[Ended | AgentrayError]:
        # In a task of its own: whoever asked may go, the agent stops nevertheless.
        stop = _apart(self._stop(agent_id, order))
        task = self._host.tasks.spawn(stop, name=f"shut down {agent_id}")
        self._stopping[agent_id] = task
        return task

    async def _stop_next(self, agent_id: AgentId, order: ShutdownOrder) -> None:
        """Carry an order out that asks for more than the one that is under way."""
        while (task := self._stopping.get(agent_id)) is not None:
            await asyncio.shield(task)
        self._spawn_stop(agent_id, order)

    async def _stop(self, agent_id: AgentId, order: ShutdownOrder) -> Ended | AgentrayError:
        try:
            self._refuse(agent_id)
            async with self._lock(agent_id):
                return await self._stop_locked(agent_id, order)
        except AgentrayError as error:
            extra = {"action": "shutdown_failed", "agent": str(agent_id)}
            logger.warning("%s was not shut down here: %s", agent_id, error, extra=extra)
            return error  # it is the caller's, not the task's
        finally:
            del self._stopping[agent_id]

    async def _stop_locked(self, agent_id: AgentId, order: ShutdownOrder) -> Ended:
        known = await _persistent(lambda: self._load(agent_id))
        if known is not None and known.status in ENDED and not order.terminate:
            return Ended(known.status, known.last_error)
        while (agent := self._refuse(agent_id)) is not None:
            await self._end_in_time(agent, order.grace_s)
        await self._end_owned(agent_id, order)
        launched = known or LaunchedAgent(agent_id, NO_ARGUMENTS, datetime.now(UTC))
        if launched.status is not AgentStatus.FAILED:
            launched = replace(launched, status=AgentStatus.STOPPED, last_error="")
        ended = Ended(launched.status, launched.last_error)
        forget, delete_state = order.terminate, order.delete_state
        await _persistent(lambda: self._host.permanents.forget(agent_id))
        if forget:
            await _persistent(lambda: self._host.failures.forget(agent_id))
        await _persistent(lambda: self._keep(launched, forget=forget, delete_state=delete_state))
        self._tell(agent_id, ended)
        return ended

    def _refuse(self, agent_id: AgentId) -> Incarnation | None:
        """Let an agent that is in memory take no more messages."""
        agent = self._host.find(agent_id)
        if agent is not None and agent.refusal is None:
            agent.refuse(AgentStopped(str(agent_id)))
        return agent

    async def _end(self, agent: Incarnation, grace_s: float) -> None:
        """Let an agent finish within the grace, then cancel it; return when it has really ended."""
        agent.leaving = True
        await self._quieten(agent, grace_s)
        await agent.stop()
        self._host.residents.forget(agent)

    async def _end_in_time(self, agent: Incarnation, grace_s: float) -> None:
        """Do the same, but abandon what has not ended shortly after the grace."""
        agent.leaving = True
        work = _apart(self._quieten(agent, grace_s))
        ending = self._host.tasks.spawn(work, name=f"end {agent.id}")
        await asyncio.wait((ending,), timeout=grace_s + ABANDON_S)
        if ending.done():
            await agent.stop()
            self._host.residents.forget(agent)
            return
        self._host.residents.abandon(agent, ending)
        logger.error(
            "%s goes on although it was cancelled %g s after its shutdown: what it does has no "
            "effects any more, and it cannot be launched again on this host before it ends",
            agent.id,
            grace_s,
            extra={"action": "agent_abandoned", "agent": str(agent.id)},
        )

    async def _quieten(self, agent: Incarnation, grace_s: float) -> None:
        """Return when nothing of an agent is under way; after the grace it is cancelled."""
        loops = self._host.background.cancel(agent)
        await self._host.residents.abort_start(agent)
        await asyncio.gather(
            self._host.background.ended(agent, loops), self._until_quiet(agent, grace_s)
        )

    async def _until_quiet(self, agent: Incarnation, grace_s: float) -> None:
        await agent.until_idle(grace_s)
        while not agent.quiet:
            await agent.until_idle(_AGAIN_S)

    async def _end_owned(self, owner: AgentId, order: ShutdownOrder) -> None:
        """Shut down the agents that end with another one."""
        alive = (AgentStatus.REGISTERED, AgentStatus.RUNNING)
        query = LaunchedQuery(owner=owner, statuses=alive)
        path = (*order.path, owner)
        found = await _persistent(lambda: self._host.store.list_launched(query, limit=_ALL))
        owned = [launched.agent for launched in found]
        told = replace(order, path=path, blocking=True)
        ends = (self._end_child(child, told) for child in owned if child not in path)
        await asyncio.gather(*ends)

    async def _end_child(self, child: AgentId, order: ShutdownOrder) -> None:
        timeout = order.grace_s + _CHILD_SLACK_S
        try:
            await self._host.channel.request(
                Kind.LAUNCH, child, LifeCall.SHUTDOWN, encode(order), timeout=timeout
            )
        except AgentrayError as error:
            extra = {"action": "child_not_stopped", "agent": str(child)}
            logger.error("%s was not shut down: %s", child, error, extra=extra)

    # Reset

    async def _reset(self, agent_id: AgentId) -> bool:
        """Let an agent start again that has failed, and forget its counters.

        Returns:
            Whether it had failed.
        """
        released = False
        if agent_id in self._host.channel.snapshot.quarantined:
            released = await self._host.connector.let_out(agent_id)
        async with self._lock(agent_id):
            failed = await self._host.failures.of(agent_id) is not None or released
            known = await self._load(agent_id)
            await self._host.failures.forget(agent_id)
            if known is not None and known.status is AgentStatus.FAILED:
                failed = True
                await self._keep(replace(known, status=AgentStatus.RUNNING, last_error=""))
            agent = self._host.find(agent_id)
            if agent is not None and agent.failure is not None:
                failed = True
                self._host.residents.forget(agent)
            elif agent is not None:
                self._host.background.forget_errors(agent)
        self._host.permanents.look()
        return failed

    async def _wait(self, turn: Turn, agent_id: AgentId) -> None:
        future: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(agent_id, set())
        waiters.add(future)  # before the look, or the end could come in between
        try:
            known = await self._load(agent_id)
            if known is None:
                raise UnknownAgent(str(agent_id))
            if known.status in ENDED:
                ended: Ended | None = Ended(known.status, known.last_error)
            else:
                ended = await future
        finally:
            waiters.discard(future)
            if not waiters and self._waiters.get(agent_id) is waiters:
                del self._waiters[agent_id]
        if ended is None:
            turn.reply(ReplyKind.MOVED)
        else:
            turn.reply(ReplyKind.VALUE, encode(ended))

    def _tell(self, agent_id: AgentId, ended: Ended | None) -> None:
        for future in self._waiters.pop(agent_id, ()):
            if not future.done():
                future.set_result(ended)

    # Records

    def _lock(self, agent_id: AgentId) -> asyncio.Lock:
        lock = self._locks.get(agent_id)
        if lock is None:
            lock = self._locks[agent_id] = asyncio.Lock()
        return lock

    async def _load(self, agent_id: AgentId) -> LaunchedAgent | None:
        return await self._loads.submit(agent_id)

    async def _keep(
        self, launched: LaunchedAgent, *, forget: bool = False, delete_state: bool = False
    ) -> None:
        """Write a record.

        Raises:
            Fenced: another host leases the agent; nothing was written.
        """
        agent_id = launched.agent
        pool, slot = self._host.pool_of(agent_id) or "", slot_of(agent_id)
        epoch = self._host.epoch(pool, slot)
        write = LaunchedWrite(pool, slot, epoch, launched, forget, delete_state)
        outcome = await self._writes.submit(write)
        self._plain.discard(agent_id.type)
        self._special.add(agent_id.type)
        self._known_at += 1
        if outcome is not CommitOutcome.COMMITTED:
            raise Fenced


async def _persistent(request: Callable[[], Awaitable[T]]) -> T:
    """Make a request to the Store, again until it can be reached."""
    while True:
        try:
            return await request()
        except StoreUnavailable:
            await asyncio.sleep(_STORE_RETRY_S)


async def _apart(work: Awaitable[T]) -> T:
    """Do something that is no part of the message which set it off, nor bound by its deadline."""
    contexts.current.set(None)
    return await work
