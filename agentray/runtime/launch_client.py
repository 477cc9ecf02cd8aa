"""What a driver does with agents: address, launch, find, await and shut them down."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from agentray.agent import Agent, AgentOptions
from agentray.app import App
from agentray.errors import ConfigurationError, UnknownAgent
from agentray.handle import Handle
from agentray.ids import (
    DEFAULT_POOL,
    AgentId,
    check_key,
    check_type_name,
)
from agentray.launching import (
    LAUNCH_TIMEOUT_S,
    AgentRecord,
    Launch,
    Lifetime,
    elsewhere,
    one_pool,
)
from agentray.protocol.event_runs import root_type
from agentray.protocol.launching import AgentStatus, ShutdownOrder
from agentray.runtime.app_client import AppClient
from agentray.runtime.launcher import AnyAgent, Launcher, ReturnWhen, id_of
from agentray.runtime.packing import class_digest, other_code
from agentray.store.base import LaunchedQuery

A = TypeVar("A", bound=Agent)


class LaunchClient(AppClient):
    """Agents: a part of `ManagerClient`."""

    _launcher: Launcher

    def handle(self, agent: AgentId | type[A] | str, key: str | None = None) -> Handle[A]:
        """Return a handle to an agent; the agent starts with its first message.

        Args:
            agent: its id, or its class or type name together with `key`.
            key: its key.
        """
        if isinstance(agent, AgentId):
            return Handle(agent, self._channel)
        name = agent if isinstance(agent, str) else agent.agent_type.name
        if key is None:
            return Handle(AgentId.parse(name), self._channel)
        return Handle(AgentId(check_type_name(name), check_key(key)), self._channel)

    async def launch(  # noqa: PLR0913 - all that there is to say of a launch
        self,
        agent: type[A] | A | Handle[A],
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        options: AgentOptions | None = None,
        max_retries: int | None = None,
        lifetime: Lifetime | None = None,
        timeout: float | None = LAUNCH_TIMEOUT_S,
    ) -> Handle[A]:
        """Start an agent, and return when it has started.

        All that makes it is kept: when the agent moves or comes back after having been idle, it is
        made in the same way. A class that no deployed app has is deployed first, as an app of its
        own; when it was deployed in this way with other code, its hosts are replaced as by
        `deploy`. Launching an agent that runs already returns its handle.

        Args:
            agent: its class; an instance, which is carried over as it is; or the handle of one that
                was registered, or shut down.
            args: for its constructor; none: those that it was registered with, if it was.
            kwargs: for its constructor.
            name: its key; None: a new unique one.
            labels: to find it by.
            pool: where agents of its type live: decided by the first launch of a class that names
                no pool and that no app has; from then on it can only be named again.
            options: what differs from its type's: concurrency, mailbox, idle_timeout_s, restart.
                Only the fields that are given count.
            max_retries: how often a start that fails is tried again, in all; None: as the restart
                policy says. A `ConfigurationError` is final at once.
            lifetime: `driver`: it ends with this connection, also when this process dies;
                None: as it was before, `detached` for a new one.
            timeout: seconds to wait for its start.

        Raises:
            ConfigurationError: an agent of this name runs with other arguments or options, an app
                has a class of this name and other code, agents of its type live in another pool,
                or one of the arguments above is wrong.
            PoolPending: its pool has no room yet.
            AgentFailed: it could not be started, and its retries are used up.
            DeadlineExceeded: it has not started yet; it goes on trying.
            ChannelClosed: this manager was closed.
        """
        launch = Launch(agent, args, kwargs, name, labels, pool, options, max_retries, lifetime)
        launch.order()  # what is wrong with it is told before anything is deployed
        await self._deploy_classes([launch], timeout)
        await self._launcher.launch(launch, timeout)
        return Handle(launch.id, self._channel)

    async def launch_batch(
        self, launches: Sequence[Launch[Any]], *, timeout: float | None = LAUNCH_TIMEOUT_S
    ) -> list[Handle[Any]]:
        """Start several agents, all or none: `launch_batch([Launch(A), Launch(B, name="b")])`.

        All are registered before the first one is started, so each may be given the others'
        `Launch.handle`, and may call them in its `on_start`: the call waits until the sibling has
        started. Siblings whose `on_start`s wait for each other cannot start: a call that closes
        the circle fails with `StartCycle`, and with it the batch. When one fails, those that did
        not run before are stopped, and forgotten when they are new.

        Returns:
            Their handles, in the order given.

        Raises:
            AgentrayError: of the first one that failed; as `launch`.
        """
        for launch in launches:
            launch.order()
        await self._deploy_classes(launches, timeout)
        await self._launcher.launch_batch(launches, timeout)
        return [Handle(launch.id, self._channel) for launch in launches]

    async def register(  # noqa: PLR0913 - all that there is to say of one
        self,
        agent: type[A] | A,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str | None = None,
        options: AgentOptions | None = None,
        max_retries: int | None = None,
        lifetime: Lifetime | None = None,
    ) -> Handle[A]:
        """Keep how an agent is to be made, without starting it.

        Its first message starts it, or `launch(handle)` does. The arguments are those of `launch`.

        Raises:
            ConfigurationError: an agent of this name is known with other arguments.
        """
        launch = Launch(agent, args, kwargs, name, labels, pool, options, max_retries, lifetime)
        await self.register_many([launch])
        return Handle(launch.id, self._channel)

    async def register_many(self, launches: Sequence[Launch[Any]]) -> list[Handle[Any]]:
        """Keep how several agents are to be made, all or none, without starting them."""
        for launch in launches:
            launch.order()
        await self._deploy_classes(launches)
        await self._launcher.register(launches)
        return [Handle(launch.id, self._channel) for launch in launches]

    async def _deploy_classes(
        self, launches: Sequence[Launch[Any]], timeout: float | None = LAUNCH_TIMEOUT_S
    ) -> None:
        """Deploy the classes that no app has, or that were launched with other code.

        Each becomes an app of its own, in the pool that a launch names.

        Raises:
            ConfigurationError: another app has a class of this name and other code, or agents of
                the type live in another pool than was named.
            PoolPending: that pool has no room.
        """
        self._launcher.check_open()
        named: dict[str, set[str | None]] = {}
        for launch in launches:
            named.setdefault(launch.id.type, set()).add(launch.wanted_pool)
        wanted = {name: one_pool(name, pools) for name, pools in named.items()}
        for launch in launches:
            name, cls = launch.id.type, launch.cls
            self._check_pool(launch, wanted[name])
            if cls is not None and self._to_deploy(name, cls):
                own = cls.agent_type.options.pool
                shared = () if own == DEFAULT_POOL else (own,)
                app = App(name, [cls], pools=shared, pool=wanted[name] or self._pool_of(name))
                await self.deploy(app, pending_timeout=timeout)

    def _check_pool(self, launch: Launch[Any], wanted: str | None) -> None:
        view = self._channel.snapshot.types.get(launch.id.type)
        if wanted is None or view is None:
            return
        if view.pool != self._resolved(wanted):
            raise elsewhere(launch.id, wanted, view.pool)

    def _pool_of(self, type_name: str) -> str | None:
        """Return the pool in which agents of a type live; None: in the default, whichever it is."""
        view = self._channel.snapshot.types.get(type_name)
        return None if view is None or view.pool == self._resolved(DEFAULT_POOL) else view.pool

    def _resolved(self, pool: str) -> str:
        """Return the pool that has taken over from one, if one has."""
        root = self._channel.snapshot.roots.get(root_type(pool))
        return pool if root is None else root.pool

    def _to_deploy(self, name: str, cls: type[Agent]) -> bool:
        types = self._channel.snapshot.types
        view = types.get(name)
        if view is None:
            return True
        digest = class_digest(cls.agent_type)
        if view.digest in ("", digest) or view.stopped:
            return False
        if view.app == name and sum(other.app == name for other in types.values()) == 1:
            return True
        if other_code(view.digest, digest):
            raise ConfigurationError(
                f"The app {view.app!r} is deployed with a class {cls.__name__} of other code than "
                f"this one. Deploy {view.app!r} again with this code, or give this class another "
                "name."
            )
        return False

    async def get_handle(self, agent: AnyAgent) -> Handle[Any]:
        """Return the handle of an agent that was registered or launched.

        Args:
            agent: its id, or `type/key`.

        Raises:
            UnknownAgent: there is no record of it. `handle()` addresses an agent without one.
        """
        agent_id = id_of(agent)
        found = await self._launcher.find(LaunchedQuery([agent_id.type], agent_id.key), 1)
        if not found:
            raise UnknownAgent(str(agent_id))
        return found[0].handle

    async def find(
        self,
        *,
        type: type[Agent] | str | None = None,  # noqa: A002 - the word for it
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        action: str | None = None,
        status: AgentStatus | str | None = None,
        limit: int = 1000,
    ) -> list[AgentRecord]:
        """Return agents that were registered or launched, newest first.

        Args:
            type: of this class or type name.
            name: of this key.
            labels: that have all of these labels.
            action: that have an action of this name.
            status: registered, running (launched and not ended, in memory or not), stopped or
                failed.
            limit: at most so many.

        Raises:
            ConfigurationError: there is no such status.
        """
        query = LaunchedQuery(
            self._launcher.types(type, action),
            name,
            labels or {},
            None if status is None else [_status(status)],
        )
        return await self._launcher.find(query, limit)

    async def running(self, limit: int = 10_000) -> list[AgentId]:
        """Return agents of all drivers that were launched and have not ended, or are in memory."""
        return await self._launcher.running(limit)

    async def wait(
        self,
        agents: Collection[AnyAgent],
        *,
        return_when: ReturnWhen = "ALL_COMPLETED",
        timeout: float | None = None,
    ) -> tuple[set[Handle[Any]], set[Handle[Any]]]:
        """Wait until launched agents have ended: were shut down, or failed.

        Args:
            agents: handles, ids or `type/key`; of whichever driver.
            return_when: `ALL_COMPLETED` or `FIRST_COMPLETED`, as for `asyncio.wait`.
            timeout: seconds; None: as long as it takes.

        Returns:
            Those that have ended, and the others.

        Raises:
            UnknownAgent: one of them was neither registered nor launched.
            ConfigurationError: it was given one agent instead of a list.
        """
        return await self._launcher.wait(agents, return_when, timeout)

    async def shutdown(
        self,
        agent: AnyAgent,
        *,
        blocking: bool = True,
        grace_s: float = 10.0,
        terminate: bool = False,
        delete_state: bool = False,
        raise_error: bool = False,
    ) -> None:
        """Shut an agent down: from now on its callers get `AgentStopped`, until it is launched.

        It finishes what it does within the grace and is cancelled after it; `on_stop` runs, for ten
        seconds at most; the agents that it owns are shut down; then it is recorded as stopped. A
        handler that has not ended a second after it was cancelled is abandoned: its caller gets
        `AgentStopped`, and it can neither change the state nor reply any more. The process of an
        isolated agent that blocks it is killed. An agent that nobody launched can be stopped, too.
        One that has ended already stays as it is.

        Args:
            agent: its handle, its id or `type/key`.
            blocking: return when it has stopped, else when it has begun to.
            grace_s: seconds for what is under way.
            terminate: forget it as well: its arguments, labels and status. Its state stays.
            delete_state: together with `terminate`: delete its state, too.
            raise_error: raise the error that it failed with, if it did.

        Raises:
            AgentFailed: with `raise_error`: it had failed.
            ConfigurationError: grace_s is no time.
            DeadlineExceeded: its host does not answer; it takes no messages.
            UnknownAgentType: no deployed app has its type.
        """
        seconds: object = grace_s
        if not (isinstance(seconds, int | float) and seconds >= 0):
            raise ConfigurationError(f"grace_s={grace_s!r}: write seconds, 0 or more.")
        if delete_state and not terminate:
            raise ConfigurationError("delete_state=True needs terminate=True.")
        order = ShutdownOrder(grace_s, terminate, delete_state, blocking=blocking)
        await self._launcher.shutdown(id_of(agent), order, raise_error=raise_error)


def _status(status: AgentStatus | str) -> AgentStatus:
    try:
        return AgentStatus(status)
    except ValueError:
        known = ", ".join(AgentStatus)
        raise ConfigurationError(f"status={status!r}: write one of {known}.") from None
