"""Groups: agents that are started, restarted and stopped together.

::

    class Intake(GroupAgent):
        group = Group(
            [Member(Reader, "reader"), Member(Parser, "parser")],
            strategy="rest_for_one",
            max_restarts=3,
            period_s=60,
        )

    await manager.deploy(App("intake", [Intake, Reader, Parser]))
    await manager.launch(Intake, name="main")

The group is itself an agent, permanent and with its state in the Store: it lives on some host, its
members on whichever theirs are, and all come back when a host dies. What is decided is in
`core/groups.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast, get_args

from pydantic import BaseModel

from agentray.agent import Agent, AgentOptions, RestartPolicy, action
from agentray.background import loop
from agentray.core.groups import MemberRestart, Strategy, counts, plan
from agentray.core.supervision import Backoff
from agentray.errors import AgentFailed, AgentrayError, ConfigurationError, GroupFailed
from agentray.handle import Handle
from agentray.ids import AgentId, check_key
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Kind
from agentray.protocol.launching import AgentStatus, Ended, LifeCall, ShutdownOrder

_STOP_S = 10.0
"""For what a member is doing when it is stopped."""

_STOP_SLACK_S = 30.0
_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 10.0
_RETRY_S = 0.5

_OF_MEMBERS = AgentOptions(
    restart=RestartPolicy(restart="permanent", max_restarts=0), idle_timeout_s=float("inf")
)
"""A member's first error ends it: what happens then is the group's business. When its host dies it
is brought back, which is no error."""


_OF_GROUPS = RestartPolicy(restart="permanent", max_restarts=0)


def _permanent(options: AgentOptions, name: str) -> AgentOptions:
    """Return the options of a group whose class has its own, for a name or a pool.

    Raises:
        ConfigurationError: they say that it shall not be permanent.
    """
    if "restart" not in options.model_fields_set:
        return options.model_copy(update={"restart": _OF_GROUPS})
    if options.restart.restart != "permanent":
        raise ConfigurationError(
            f"{name} is a group, which is permanent: leave restart={options.restart.restart!r} "
            "out of its options."
        )
    return options


@dataclass(frozen=True, slots=True)
class Member:
    """An agent of a group.

    Attributes:
        agent: its class; that of another group makes it a group within the group.
        name: its key.
        args: for its constructor.
        kwargs: for its constructor.
        restart: `permanent`: it is started again however it ended; `transient`: when it failed;
            `temporary`: never.
    """

    agent: type[Agent]
    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    restart: MemberRestart = "permanent"

    def __post_init__(self) -> None:
        agent: object = self.agent  # as it is, whatever it is said to be
        if not (isinstance(agent, type) and issubclass(agent, Agent)):
            raise ConfigurationError(f"A member is of a class of agents, and not {agent!r}.")
        check_key(self.name)
        if self.restart not in get_args(MemberRestart):
            raise ConfigurationError(
                f"restart={self.restart!r}: write permanent, transient or temporary."
            )

    @property
    def id(self) -> AgentId:
        """Who it is."""
        return AgentId(self.agent.agent_type.name, check_key(self.name))


@dataclass(frozen=True, slots=True)
class Group:
    """What a group consists of.

    Attributes:
        members: in the order in which they start: each when the one before has started. They stop
            the other way round.
        strategy: who is started again with a member that has ended: `one_for_one`: itself;
            `one_for_all`: all; `rest_for_one`: itself and those after it.
        max_restarts: within `period_s`; one more and the group is failed, and its members stop.
        period_s: the window, in seconds.
    """

    members: Sequence[Member]
    strategy: Strategy = "one_for_one"
    max_restarts: int = 3
    period_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigurationError("A group has members: write Group([Member(Agent, name)]).")
        members: Sequence[object] = self.members
        for member in members:
            if not isinstance(member, Member):
                given = member.__name__ if isinstance(member, type) else repr(member)
                raise ConfigurationError(
                    f"A group has members, and {given} is none: write Member({given}, name)."
                )
        ids = [member.id for member in self.members]
        if len(set(ids)) < len(ids):
            raise ConfigurationError("Two members of one group are the same agent.")
        if self.strategy not in {"one_for_one", "one_for_all", "rest_for_one"}:
            raise ConfigurationError(
                f"strategy={self.strategy!r}: write one_for_one, one_for_all or rest_for_one."
            )
        if self.max_restarts < 0:
            raise ConfigurationError(f"max_restarts={self.max_restarts}: write 0 or more.")
        if not self.period_s > 0:
            raise ConfigurationError(f"period_s={self.period_s}: write more than 0 seconds.")


class GroupState(BaseModel):
    """What a group remembers: when it has restarted members, and which are gone for good."""

    restarts: list[float] = []
    gone: list[str] = []


class GroupAgent(Agent):
    """Starts, watches, restarts and stops the members of its `group`. Subclass it, and launch it.

    A group whose members end too often is failed: its members are stopped in reverse order, its
    status has the last error, and a reset lets it start again.

    Attributes:
        group: who belongs to it.
        starts: keys under which groups of this class are launched when their app is deployed, and
            shut down when it is stopped; (): they are launched by whoever wants one.
    """

    options = AgentOptions(restart=_OF_GROUPS)
    group: ClassVar[Group]
    starts: ClassVar[Sequence[str]] = ()
    state: GroupState

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "options" in vars(cls):
            cls.options = _permanent(cls.options, cls.__name__)
        if not isinstance(getattr(cls, "group", None), Group):
            raise ConfigurationError(
                f"{cls.__name__} is a group: say of whom, as group = Group([Member(Agent, name)])."
            )
        super().__init_subclass__(**kwargs)

    async def on_start(self) -> None:
        """Start the members, one after the other; those that run already go on."""
        self._started: list[str] = []
        try:
            for member in self.group.members:
                if str(member.id) not in self.state.gone:
                    await self._start(member)
        except AgentrayError as error:
            await self._stop(reversed(self._started))
            raise GroupFailed(str(self.id), f"a member did not start: {error}") from error

    async def on_stop(self) -> None:
        """Stop the members when the group is shut down, the last one first."""
        if self.context.surroundings.ends(self.id):
            await self._stop(str(member.id) for member in reversed(self.group.members))

    @action(idempotent=True)
    async def members(self) -> list[dict[str, Any]]:
        """Return the status of each member, in the order in which they start."""
        handles = (Handle[Any](member.id, self._caller) for member in self.group.members)
        return list(await asyncio.gather(*(handle.status() for handle in handles)))

    @loop
    async def supervise(self) -> None:
        """Wait for members to end, and do what the strategy says."""
        backoff = Backoff(self.group.max_restarts, self.group.period_s, _BACKOFF_S, _MAX_BACKOFF_S)
        backoff.failures = list(self.state.restarts)
        watches: dict[str, asyncio.Task[Ended]] = {}
        try:
            while True:
                self._watch(watches)
                if not watches:
                    return  # all are gone for good
                await asyncio.wait(watches.values(), return_when=asyncio.FIRST_COMPLETED)
                done = {name for name, task in watches.items() if task.done()}
                ended = next(name for name in self._names if name in done)
                await self._mend(ended, watches.pop(ended).result(), backoff, watches)
        finally:
            for task in watches.values():
                task.cancel()
            await asyncio.gather(*watches.values(), return_exceptions=True)

    @property
    def _names(self) -> list[str]:
        return [str(member.id) for member in self.group.members]

    def _watch(self, watches: dict[str, asyncio.Task[Ended]]) -> None:
        for name in self._names:
            if name not in watches and name not in self.state.gone:
                watches[name] = asyncio.create_task(self._ended(AgentId.parse(name)))

    async def _mend(
        self, name: str, ended: Ended, backoff: Backoff, watches: dict[str, asyncio.Task[Ended]]
    ) -> None:
        """Restart what has to be after the end of a member, or give the group up."""
        member = next(m for m in self.group.members if str(m.id) == name)
        if not counts(member.restart, failed=ended.status is AgentStatus.FAILED):
            async with self.turn():
                self.state.gone.append(name)
            return
        error = ended.last_error or "it was shut down"
        todo = plan(self.group.strategy, self._names, name, self.state.gone)
        while True:
            wait_s = backoff.failed(time.time(), random.random())  # noqa: S311 - jitter
            async with self.turn():
                self.state.restarts = backoff.failures[-self.group.max_restarts - 1 :]
            for other in todo.stop:
                if (task := watches.pop(other, None)) is not None:
                    task.cancel()
            if wait_s is None:
                await self._give_up(name, error)
            await self._stop(todo.stop)
            await asyncio.sleep(cast("float", wait_s))
            try:
                for other in todo.start:
                    await self._start(next(m for m in self.group.members if str(m.id) == other))
            except AgentFailed as again:
                name, error = again.agent, again.last_error
                todo = plan(self.group.strategy, self._names, name, self.state.gone)
            else:
                return

    async def _give_up(self, name: str, error: str) -> None:
        await self._stop(reversed(self._names))
        async with self.turn():
            self.state.restarts = []  # a reset begins to count anew
        raise GroupFailed(
            str(self.id),
            f"its members ended more than {self.group.max_restarts} times in "
            f"{self.group.period_s:g} s; the last one was {name}: {error}",
        )

    # Members

    async def _start(self, member: Member) -> None:
        options = None if issubclass(member.agent, GroupAgent) else _OF_MEMBERS
        await self.launch(
            member.agent,
            args=member.args,
            kwargs=member.kwargs,
            name=member.name,
            options=options,
            timeout=None,
        )
        self._started.append(str(member.id))

    async def _ended(self, member: AgentId) -> Ended:
        while True:
            try:
                return decode(
                    await self._caller.request(
                        Kind.LAUNCH, member, LifeCall.WAIT, b"", timeout=None
                    )
                )
            except AgentrayError:
                await asyncio.sleep(_RETRY_S)  # nobody can tell just now

    async def _stop(self, names: Any) -> None:
        """Stop members in an order; one that does not stop is told in the log, and left."""
        for name in names:
            order = ShutdownOrder(_STOP_S)
            try:
                await self._caller.request(
                    Kind.LAUNCH,
                    AgentId.parse(name),
                    LifeCall.SHUTDOWN,
                    encode(order),
                    timeout=_STOP_S + _STOP_SLACK_S,
                )
            except AgentrayError as error:
                self.context.log.warning(
                    "%s was not stopped: %s", name, error, extra={"action": "member_not_stopped"}
                )
