"""The launcher: starts, finds, waits for and stops agents on behalf of one driver."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from agentray.agent import Agent
from agentray.errors import (
    AgentFailed,
    AgentrayError,
    ChannelClosed,
    ConfigurationError,
    DeadlineExceeded,
    ManagerUnavailable,
)
from agentray.handle import Handle
from agentray.ids import AgentId, new_id
from agentray.launching import AgentRecord, Launch, start
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import ENDED, AgentStatus, Ended, LifeCall, ShutdownOrder
from agentray.runtime.channel import Channel
from agentray.runtime.driver_leases import LEASE_S
from agentray.runtime.launching import ABANDON_S
from agentray.runtime.tasks import TaskSet
from agentray.runtime.watcher import ManagerPort
from agentray.store.base import LaunchedAgent, LaunchedQuery

logger = logging.getLogger(__name__)

_Registered = tuple[LaunchedAgent | None, LaunchedAgent]
"""The record of an agent before it was registered, and after it."""

AnyAgent = Handle[Any] | AgentId | str
"""An agent that is there: its handle, its id, or `type/key`."""

ReturnWhen = Literal["ALL_COMPLETED", "FIRST_COMPLETED"]
"""As asyncio.ALL_COMPLETED and asyncio.FIRST_COMPLETED."""

_REGISTER_TIMEOUT_S = 60.0
_SLACK_S = 30.0
_BLOCKED_S = 1.0
"""How long the host of an isolated agent may be silent that does not end; then it is killed."""

_CLOSE_GRACE_S = 5.0
_CLOSE_TIMEOUT_S = 30.0
_RETRY_S = 0.5


def id_of(agent: AnyAgent) -> AgentId:
    """Return who is meant.

    Raises:
        ConfigurationError: a text that is not `type/key`.
    """
    match agent:
        case AgentId():
            return agent
        case Handle():
            return agent.id
        case str():
            return AgentId.parse(agent)
        case _:
            raise ConfigurationError(
                f"{agent!r} is no agent: write its handle, its AgentId, or 'type/key'."
            )


class Launcher:
    """Launches for one connection, which is what agents of the lifetime `driver` end with."""

    def __init__(self, manager: ManagerPort, channel: Channel, *, lease_s: float = LEASE_S) -> None:
        """Make one.

        Args:
            manager: knows all launched agents, and the connections that live.
            channel: the way to the agents' hosts.
            lease_s: how long the connection may be silent before it counts as dead.
        """
        self.driver = new_id("driver")
        self._manager = manager
        self._channel = channel
        self._lease_s = lease_s
        self._leased = False
        self._tasks = TaskSet("launcher")
        self.closed = False

    def check_open(self) -> None:
        """Raise `ChannelClosed` after `close`."""
        if self.closed:
            raise ChannelClosed

    # Start

    async def launch(self, launch: Launch[Any], timeout: float | None) -> None:
        """Start an agent and return when it has started."""
        order = launch.order(driver=self.driver)
        await self._hold_lease([launch])
        await start(self._channel, launch.id, order, timeout)

    async def register(self, launches: Sequence[Launch[Any]]) -> dict[AgentId, AgentStatus | None]:
        """Keep how agents are to be made, all or none; return the status that each had before."""
        if len({launch.id for launch in launches}) < len(launches):
            raise ConfigurationError("Two agents of one batch have the same name.")
        orders = {launch.id: launch.order(driver=self.driver) for launch in launches}
        await self._hold_lease(launches)
        payloads = {a: encode(order, f"registration of {a}") for a, order in orders.items()}
        # In tasks of their own: of one whose answer nobody waits for, nobody knows what to undo.
        registering = {
            agent_id: self._tasks.spawn(self._register(agent_id, payload), f"register {agent_id}")
            for agent_id, payload in payloads.items()
        }
        try:
            return await _statuses_before(registering)
        except BaseException as error:
            await asyncio.shield(self._take_back(registering, error))
            raise

    async def _register(self, agent_id: AgentId, payload: bytes) -> _Registered | AgentrayError:
        """Register one agent; return its record before and after."""
        try:
            reply = await self._channel.request(
                Kind.LAUNCH, agent_id, LifeCall.REGISTER, payload, timeout=_REGISTER_TIMEOUT_S
            )
        except AgentrayError as error:
            return error
        return decode(reply)

    async def _take_back(
        self,
        registering: Mapping[AgentId, asyncio.Task[_Registered | AgentrayError]],
        error: BaseException,
    ) -> None:
        """Undo the registrations of a batch that failed, those too that are under way."""

        async def take_back(
            agent_id: AgentId, task: asyncio.Task[_Registered | AgentrayError]
        ) -> None:
            registered = await task
            if isinstance(registered, AgentrayError):
                return
            try:
                await self._channel.request(
                    Kind.LAUNCH,
                    agent_id,
                    LifeCall.RESTORE,
                    encode(registered),
                    timeout=_REGISTER_TIMEOUT_S,
                )
            except AgentrayError as left:
                error.add_note(f"{agent_id} of the same batch is still registered: {left}")

        await asyncio.gather(*(take_back(a, task) for a, task in registering.items()))

    async def launch_batch(self, launches: Sequence[Launch[Any]], timeout: float | None) -> None:
        """Start agents, all or none."""
        before = await self.register(launches)
        orders = {launch.id: launch.order(driver=self.driver) for launch in launches}
        try:
            await _all_or_first_error(
                start(self._channel, agent_id, order, timeout) for agent_id, order in orders.items()
            )
        except BaseException as error:
            await asyncio.shield(self._undo(before, error))
            raise

    async def _undo(self, before: dict[AgentId, AgentStatus | None], error: BaseException) -> None:
        """Stop what a failed batch began; what ran before goes on."""

        async def undo(agent_id: AgentId, status: AgentStatus | None) -> None:
            try:
                await self._end(agent_id, ShutdownOrder(0.0, terminate=status is None))
            except AgentrayError as left:
                error.add_note(f"{agent_id} of the same batch was not stopped: {left}")

        begun = [(a, s) for a, s in before.items() if s is not AgentStatus.RUNNING]
        await asyncio.gather(*(undo(agent_id, status) for agent_id, status in begun))

    # Lease

    async def _hold_lease(self, launches: Iterable[Launch[Any]]) -> None:
        """Be known as alive before the first agent is launched that depends on it."""
        self.check_open()
        if self._leased or all(launch.lifetime != "driver" for launch in launches):
            return
        await self._manager.call("renew_driver", self.driver, self._lease_s)
        if not self._leased:
            self._leased = True
            self._tasks.spawn(self._renew(), name="renew the driver's lease")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._manager.call("renew_driver", self.driver, self._lease_s)
            except AgentrayError as error:
                # It gives everybody time to renew when it is back.
                logger.warning("%s", error, extra={"action": "lease_not_renewed"})
            except Exception:
                # Without its lease the driver's agents would end: it is asked for again.
                logger.exception("a lease was not renewed", extra={"action": "lease_not_renewed"})

    async def close(self) -> None:
        """End the agents that end with this connection."""
        if self.closed:
            return
        self.closed = True
        try:
            await self._tasks.close()
            if self._leased:
                await self._end_driver()
        except TimeoutError:
            extra = {"action": "driver_end_late", "driver": self.driver}
            logger.warning("agents of this driver are still being shut down", extra=extra)

    async def _end_driver(self) -> None:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            while True:
                try:
                    await self._manager.call("end_driver", self.driver, _CLOSE_GRACE_S)
                except ManagerUnavailable:
                    await asyncio.sleep(_RETRY_S)  # else the lease runs out
                else:
                    return

    # End

    async def wait(
        self, agents: Collection[AnyAgent], return_when: ReturnWhen, timeout: float | None
    ) -> tuple[set[Handle[Any]], set[Handle[Any]]]:
        """Wait until agents have ended; return those that have, and the others."""
        self.check_open()
        if isinstance(cast("object", agents), Handle | AgentId | str):
            raise ConfigurationError("wait takes a list of agents: write wait([handle]).")
        if return_when not in get_args(ReturnWhen):
            raise ConfigurationError(
                f"return_when={return_when!r}: write ALL_COMPLETED or FIRST_COMPLETED."
            )
        handles = {Handle[Any](id_of(agent), self._channel) for agent in agents}
        if not handles:
            return set(), set()
        tasks = {
            self._tasks.spawn(self._ended(handle.id), name=f"wait for {handle.id}"): handle
            for handle in handles
        }
        try:
            done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=return_when)
            for error in (task.result() for task in done):
                if error is not None:
                    raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        ended = {tasks[task] for task in done}
        return ended, handles - ended

    async def _ended(self, agent_id: AgentId) -> AgentrayError | None:
        """Return when an agent has ended; an error says why that cannot be known."""
        try:
            await self._channel.request(Kind.LAUNCH, agent_id, LifeCall.WAIT, b"", timeout=None)
        except AgentrayError as error:
            return error
        return None

    async def shutdown(self, agent_id: AgentId, order: ShutdownOrder, *, raise_error: bool) -> None:
        """Shut an agent down."""
        self.check_open()
        ended = await self._end(agent_id, order)
        if raise_error and ended is not None and ended.status is AgentStatus.FAILED:
            raise AgentFailed(str(agent_id), ended.last_error)

    async def _end(self, agent_id: AgentId, order: ShutdownOrder) -> Ended | None:
        work = self._channel.request(
            Kind.LAUNCH,
            agent_id,
            LifeCall.SHUTDOWN,
            encode(order),
            timeout=order.grace_s + _SLACK_S,
        )
        request = self._tasks.spawn(_outcome(work), name=f"shut down {agent_id}")
        try:
            await asyncio.wait((request,), timeout=order.grace_s + ABANDON_S)
            view = self._channel.snapshot.types.get(agent_id.type)
            if not request.done() and view is not None and view.isolated:
                await self._kill_if_blocked(agent_id)
            reply = await request
        finally:
            request.cancel()
        if isinstance(reply, AgentrayError):
            raise reply
        return decode(reply)

    async def _kill_if_blocked(self, agent_id: AgentId) -> None:
        """End the process of an isolated agent that blocks it; its next host notes the shutdown."""
        try:
            await self._channel.ping(agent_id, timeout=_BLOCKED_S)
        except DeadlineExceeded:
            await self._manager.call("kill_seat", agent_id)

    # Find

    async def find(self, query: LaunchedQuery, limit: int) -> list[AgentRecord]:
        """Return records of launched agents, newest first."""
        self.check_open()
        found = await self._manager.call("find_launched", query, limit)
        return [self._record(launched) for launched in found]

    def types(self, agent_type: type[Agent] | str | None, action: str | None) -> list[str] | None:
        """Return the names of the types that are meant; None: all."""
        name = agent_type if isinstance(agent_type, str | None) else agent_type.agent_type.name
        if action is None:
            return None if name is None else [name]
        views = self._channel.snapshot.types
        return sorted(
            n for n, view in views.items() if action in view.actions and name in {None, n}
        )

    def _record(self, launched: LaunchedAgent) -> AgentRecord:
        return AgentRecord(
            Handle(launched.agent, self._channel),
            launched.status,
            launched.labels,
            "driver" if launched.driver else "detached",
            launched.owner,
            launched.launched_at,
            launched.last_error,
        )

    async def running(self, limit: int) -> list[AgentId]:
        """Return agents that were launched and have not ended, and others that are in memory."""
        self.check_open()
        query = LaunchedQuery(statuses=[AgentStatus.RUNNING])
        launched, resident = await asyncio.gather(
            self._manager.call("find_launched", query, limit),
            self._manager.call("agents", None, limit),
        )
        ended = {status.value for status in ENDED}
        found = {record.agent for record in launched}
        found |= {AgentId.parse(row["agent"]) for row in resident if row["status"] not in ended}
        return sorted(found)[:limit]


async def _outcome(work: Coroutine[Any, Any, bytes]) -> bytes | AgentrayError:
    """Do it, and return its error as well: whoever waits for it may have gone."""
    try:
        return await work
    except AgentrayError as error:
        return error


async def _statuses_before(
    registering: Mapping[AgentId, asyncio.Task[_Registered | AgentrayError]],
) -> dict[AgentId, AgentStatus | None]:
    """Return the status that each agent had before its registration, when all have ended.

    Raises:
        AgentrayError: the first error.
    """
    if registering:
        await asyncio.wait(registering.values())
    statuses: dict[AgentId, AgentStatus | None] = {}
    for agent_id, task in registering.items():
        result = task.result()
        if isinstance(result, AgentrayError):
            raise result
        statuses[agent_id] = None if result[0] is None else result[0].status
    return statuses


async def _all_or_first_error(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it; the first error cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(item)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
