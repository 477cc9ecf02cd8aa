"""What a driver does with a cluster: deploy apps, launch and find agents, prompt them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from pydantic import ValidationError

from agentray.agent import Agent, AgentOptions
from agentray.app import App, load_app
from agentray.core.delays import begin_at
from agentray.core.lifecycle import TERMINAL
from agentray.errors import ConfigurationError, DeadlineExceeded, PoolPending, UnknownAgent
from agentray.event_loop import time_of_day
from agentray.event_run import DurabilityName, EventRun, OnErrorName, settle_run
from agentray.events import Event
from agentray.handle import DEFAULT_TIMEOUT_S, Handle
from agentray.handlers import check_key_form
from agentray.ids import (
    AgentId,
    TopicId,
    check_key,
    check_topic_pattern,
    check_type_name,
    new_id,
)
from agentray.launching import LAUNCH_TIMEOUT_S, AgentRecord, Launch, Lifetime
from agentray.pool import Pool, PoolSettings
from agentray.protocol.budgets import Budget
from agentray.protocol.codec import as_json, encode
from agentray.protocol.envelope import Kind
from agentray.protocol.event_runs import Durability, PromptDurability
from agentray.protocol.launching import AgentStatus, ShutdownOrder
from agentray.protocol.letters import DeadLetter, LetterKind, LetterQuery, LetterReason
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.states import StateRecord
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace, TraceQuery, TraceSummary
from agentray.runtime.active_run import CANCEL_GRACE_S
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.dispatching import (
    Dispatches,
    check_durability,
    check_limits,
    check_timeout,
)
from agentray.runtime.driver_leases import LEASE_S
from agentray.runtime.launcher import AnyAgent, Launcher, ReturnWhen, id_of
from agentray.runtime.moves_client import MovesClient
from agentray.runtime.packing import class_digest, other_code, pack_app
from agentray.runtime.pool_packing import pack_changes, pack_pool
from agentray.runtime.schedule_client import ScheduleClient
from agentray.runtime.spans import sending
from agentray.runtime.state_client import StateClient
from agentray.runtime.supervision_client import SupervisionClient
from agentray.runtime.watcher import ManagerPort
from agentray.store.base import LaunchedQuery, NewRun, run_input

A = TypeVar("A", bound=Agent)

_PLACED_S = 30.0
"""How long one question whether there is room, or whether runs have ended, stays open."""

STOP_GRACE_S = 30.0


class ManagerClient(SupervisionClient, MovesClient):
    """A driver's connection to the manager and to all agents of a cluster."""

    def __init__(self, manager: ManagerPort, channel: Channel, *, lease_s: float = LEASE_S) -> None:
        """Made by `connect`.

        Args:
            manager: the manager.
            channel: whose snapshot is kept new by a watcher.
            lease_s: how long this process may be silent before the agents end that end with it.
        """
        self._manager = manager
        self._channel = channel
        self._dispatcher = ChannelDispatcher(channel)
        self._dispatches = Dispatches(channel)
        self._states = StateClient(manager, channel)
        self._launcher = Launcher(manager, channel, lease_s=lease_s)

    # Apps

    async def deploy(self, app: App | str, *, pending_timeout: float | None = 30.0) -> str:
        """Deploy an app, and return when its agents can be called.

        Args:
            app: the app, or its import string `module:attribute`. Deployed before with the same
                source code, nothing happens; with other code, its hosts are replaced one by one
                while the old ones go on.
            pending_timeout: seconds to wait while the cluster has no room for its hosts; None: as
                long as it takes.

        Returns:
            `added`, `replaced`, `started` (it was stopped) or `unchanged`.

        Raises:
            ConfigurationError: the app is wrong, clashes with another, or cannot be imported there.
            StartFailed: hosts with its code do not come up; what ran before goes on.
            PoolPending: there was no room in time. It is deployed nevertheless, and its agents can
                be called as soon as there is room; `stop` gives it up.
        """
        loaded, name = (load_app(app), app) if isinstance(app, str) else (app, "")
        spec = pack_app(loaded, name) if name else pack_app(loaded)
        done, snapshot = await self._manager.call("deploy", spec)
        self._channel.update(snapshot)
        await self._until_placed(spec.name, pending_timeout)
        await self._start_groups(loaded)
        return done

    async def _until_placed(self, app: str, timeout: float | None) -> None:
        """Wait until there is room for an app's hosts.

        Raises:
            PoolPending: there was none in time.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            left = _PLACED_S if deadline is None else max(0.0, deadline - loop.time())
            pending, snapshot = await self._manager.call("until_placed", app, min(left, _PLACED_S))
            self._channel.update(snapshot)
            if not pending:
                return
            if deadline is not None and loop.time() >= deadline:
                pool, reason = next(iter(pending.items()))
                raise PoolPending(f"the app {app!r}", pool, reason)

    async def stop(
        self, app_name: str, *, drain: bool = True, grace_s: float = STOP_GRACE_S
    ) -> None:
        """Stop an app: its agents take no messages from outside until it is deployed again.

        Its runs, of prompts and of events that its agents subscribe to, are ended first; new ones
        are refused meanwhile. Other messages that are under way end by themselves.

        Args:
            app_name: of the app.
            drain: let its runs come to their ends; else they are cancelled.
            grace_s: seconds that its runs may take; then they are cancelled, and have ten seconds
                more. Without draining: seconds that cancelled runs may take, ten at most.

        Raises:
            ConfigurationError: there is no app of this name.
        """
        await self._stop_groups(app_name)  # a stopped app's agents take no such orders
        self._channel.update(await self._manager.call("stop_app", app_name))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (grace_s if drain else 0.0)
        while (left := deadline - loop.time()) > 0:
            if not await self._manager.call("end_runs", app_name, False, min(left, _PLACED_S)):
                return
        last_s = CANCEL_GRACE_S if drain else min(grace_s, CANCEL_GRACE_S)
        await self._manager.call("end_runs", app_name, True, last_s)

    async def remove_app(
        self,
        app_name: str,
        *,
        delete_states: bool = False,
        drain: bool = True,
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        """Stop an app and forget it: its agent types are free for other apps.

        The hosts of its pools are replaced one by one, so that its code is in no process any more.
        Its launched agents, their failures and the subscriptions made at run time go with it. Kept
        states stay, for an app that has agents of the same types later; so do runs and schedules.

        Args:
            app_name: of the app.
            delete_states: forget the kept states, too.
            drain: see `stop`.
            grace_s: see `stop`.

        Raises:
            ConfigurationError: there is no app of this name, or agents of other apps live in a pool
                that only this one declares.
            StartFailed: new hosts do not come up; the app is stopped and can be removed again.
        """
        await self._manager.call("check_removable", app_name)  # before anything is stopped
        await self.stop(app_name, drain=drain, grace_s=grace_s)
        self._channel.update(await self._manager.call("remove_app", app_name, delete_states))

    # Pools

    async def add_pool(self, pool: Pool | str, **settings: Unpack[PoolSettings]) -> dict[str, Any]:
        """Add a pool, or change one that is there.

        What is said here takes precedence over what apps declare. With another number of hosts, the
        pool is resized; with other resources or another `runtime_env`, its hosts are replaced one
        by one while the old ones go on.

        Args:
            pool: the pool, or its name together with `settings`.
            settings: of `Pool`.

        Returns:
            It as in `pools`, when its hosts are up, or pending because the cluster has no room for
            them: then they start as soon as there is.

        Raises:
            ConfigurationError: a setting is wrong.
            StartFailed: its hosts do not come up; nothing has changed.
        """
        if isinstance(pool, str):
            pool = _pool(pool, settings)
        elif settings:
            raise ConfigurationError("Give add_pool a Pool, or a name and settings, not both.")
        added, snapshot = await self._manager.call("add_pool", pack_pool(pool))
        self._channel.update(snapshot)
        return added

    async def update_pool(self, name: str, **settings: Unpack[PoolSettings]) -> dict[str, Any]:
        """Change some settings of a pool; all that is not named stays as it is.

        Args:
            name: of a pool, whether it was added or an app declares it.
            settings: of `Pool`.

        Returns:
            It, as `add_pool` does.

        Raises:
            ConfigurationError: there is no such pool, or a setting is wrong.
            StartFailed: its hosts do not come up; nothing has changed.
        """
        if not settings:
            raise ConfigurationError("Say what is to change: update_pool('gpu', hosts=4).")
        changes = pack_changes(_pool(name, settings), settings)
        changed, snapshot = await self._manager.call("update_pool", name, changes)
        self._channel.update(snapshot)
        return changed

    async def set_default_pool(self, name: str) -> None:
        """Let agents whose type names no pool live in this one; those that run move there.

        Raises:
            ConfigurationError: there is no such pool, or its hosts cannot import the agents.
            PoolPending, StartFailed: it has no hosts; nothing has changed.
        """
        self._channel.update(await self._manager.call("set_default_pool", name))

    async def remove_pool(self, name: str, *, successor: str | None = None) -> None:
        """Remove a pool: its agents finish what they do, and its hosts stop.

        Args:
            name: of the pool.
            successor: the pool that takes over its agents.

        Raises:
            ConfigurationError: there is no such pool; or agents of running apps live there, and no
                successor is given.
            PoolPending, StartFailed: the successor has no hosts; nothing has changed.
        """
        self._channel.update(await self._manager.call("remove_pool", name, successor or ""))

    async def pools(self) -> list[dict[str, Any]]:
        """Return the pools.

        Each with `name`, `status` (live, starting, pending, failing, idle), `hosts` that live,
        `wanted`, `min_hosts`, `max_hosts`, `load` (messages under way), `resources` per host,
        `default`, `agents` (types that live there), `pending` (why) and `last_error`.
        """
        return await self._manager.call("pools")

    # What is left over

    async def gc(self, *, dry_run: bool = False) -> list[dict[str, str]]:
        """End what is left over of hosts: actors and rows that nobody looks after.

        The manager does so by itself once a minute. What might be another cluster's is not touched.

        Args:
            dry_run: only look; nothing is changed.

        Returns:
            What was found, each with `kind` (actor, row), `name` and `why`.
        """
        return await self._manager.call("gc", dry_run)

    # Topics

    async def subscribe(
        self,
        agent: type[Agent] | str,
        topic: str,
        *,
        event: type[Event] | str | None = None,
        key: str = "topic",
    ) -> TopicSubscription:
        """Send events on a topic to agents of a type, besides those whose `@on` says so.

        It is kept until it is taken back. Asked for twice, it is there once. When this returns,
        every host routes by it.

        Args:
            agent: the class, or its type's name.
            topic: the type of the topics, as `orders`, or with a `*` what they begin with.
            event: only events of this class (or name), which the agents must handle; None: of all
                the classes that they handle. Subclasses go along where the handler takes them.
            key: which instance gets an event: `topic` (the topic's source), `correlation`,
                `field:NAME`, `any:N` or `key:KEY`.

        Raises:
            ConfigurationError: another form of topic or key.
            UnknownAgentType: no deployed app has the type.
            NoHandler: the agents handle no such events.
        """
        if not isinstance(topic, str):
            raise ConfigurationError(f"{topic!r}: subscribe to the type of a topic, as 'orders'.")
        name = agent if isinstance(agent, str) else agent.agent_type.name
        lineage = _lineage_of(event)
        subscription, snapshot = await self._manager.call(
            "subscribe", name, check_topic_pattern(topic), lineage, check_key_form(key)
        )
        self._channel.update(snapshot)
        return subscription

    async def unsubscribe(self, subscription: TopicSubscription | str) -> None:
        """Take a subscription back; when this returns, no host sends anything by it.

        Args:
            subscription: as `subscribe` returned it, or its id.

        Raises:
            UnknownSubscription: there is none.
        """
        known = subscription if isinstance(subscription, str) else subscription.id
        self._channel.update(await self._manager.call("unsubscribe", known))

    async def subscriptions(
        self, agent: type[Agent] | str | None = None
    ) -> list[TopicSubscription]:
        """Return the subscriptions made by `subscribe`, of one agent type or all, oldest first."""
        name = agent if agent is None or isinstance(agent, str) else agent.agent_type.name
        return await self._manager.call("subscriptions", name)

    # Agents

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
            pool: only the pool of its type: write `AgentOptions(pool=...)` into the class.
            options: what differs from its type's: concurrency, mailbox, idle_timeout_s, restart.
                Only the fields that are given count.
            max_retries: how often a start that fails is tried again, in all; None: as the restart
                policy says. A `ConfigurationError` is final at once.
            lifetime: `driver`: it ends with this connection, also when this process dies;
                None: as it was before, `detached` for a new one.
            timeout: seconds to wait for its start.

        Raises:
            ConfigurationError: an agent of this name runs with other arguments or options, an app
                has a class of this name and other code, or one of the arguments above is wrong.
            AgentFailed: it could not be started, and its retries are used up.
            DeadlineExceeded: it has not started yet; it goes on trying.
            ChannelClosed: this manager was closed.
        """
        launch = Launch(agent, args, kwargs, name, labels, pool, options, max_retries, lifetime)
        launch.order()  # what is wrong with it is told before anything is deployed
        await self._deploy_classes([launch])
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
        await self._deploy_classes(launches)
        await self._launcher.launch_batch(launches, timeout)
        return [Handle(launch.id, self._channel) for launch in launches]

    async def register(
        self,
        agent: type[A] | A,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        options: AgentOptions | None = None,
        max_retries: int | None = None,
        lifetime: Lifetime | None = None,
    ) -> Handle[A]:
        """Keep how an agent is to be made, without starting it.

        Its first message starts it, or `launch(handle)` does. The arguments are those of `launch`.

        Raises:
            ConfigurationError: an agent of this name is known with other arguments.
        """
        launch = Launch(agent, args, kwargs, name, labels, None, options, max_retries, lifetime)
        await self.register_many([launch])
        return Handle(launch.id, self._channel)

    async def register_many(self, launches: Sequence[Launch[Any]]) -> list[Handle[Any]]:
        """Keep how several agents are to be made, all or none, without starting them."""
        for launch in launches:
            launch.order()
        await self._deploy_classes(launches)
        await self._launcher.register(launches)
        return [Handle(launch.id, self._channel) for launch in launches]

    async def _deploy_classes(self, launches: Sequence[Launch[Any]]) -> None:
        """Deploy the classes that no app has, or that were launched with other code.

        Each becomes an app of its own.

        Raises:
            ConfigurationError: another app has a class of this name and other code.
        """
        self._launcher.check_open()
        for launch in launches:
            cls = launch.cls
            if cls is not None and self._to_deploy(launch.id.type, cls):
                pool = cls.agent_type.options.pool
                shared = () if pool == "default" else (pool,)
                await self.deploy(App(launch.id.type, [cls], pools=shared))

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

    async def close(self) -> None:
        """End the agents of the lifetime `driver`; this manager launches nothing any more.

        Leaving the context of `connect()` does it. All other agents go on.
        """
        await self._launcher.close()
        await self._dispatches.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def agents(self, agent_type: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return agents that are in memory, those of one type or all, at most `limit`.

        Each with `agent`, `type`, `host`, `status` (starting, idle, running, failed), `queued`,
        `active_s`, `idle_s` and `last_error`.
        """
        return await self._manager.call("agents", agent_type, limit)

    async def status(self) -> dict[str, Any]:
        """Return apps, pools and hosts as the manager sees them."""
        return await self._manager.call("status")

    # Dead letters

    async def dead_letters(
        self,
        *,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Return what came to nothing with nobody there to hear of it, newest first.

        `status()["dead_letters_by_reason"]` counts it.

        Args:
            kind: only events, told messages or runs.
            reason: only those that are dead for this reason.
            agent: only those that were for this agent, or for agents of this type; or events of
                this type that nobody subscribes to.
            retried: only those that were tried once more, or that were not; None: both.
            before: id of the last one already seen, for the next page.
            limit: most of them.
        """
        query = _letters(kind, reason, agent, retried)
        return await self._manager.call("dead_letters", query, limit, before)

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        return await self._manager.call("dead_letter", letter_id)

    async def retry_dead_letter(self, letter_id: str) -> Run:
        """Try a dead letter once more, as a run; return that as it is now.

        An event without subscribers goes to those that it has now, every other one, and what was
        told, to the agent that it was for. A run that died is run anew as another one. However
        often it is asked for, also at once, there is one run, until that has ended without success.

        Raises:
            UnknownDeadLetter: there is none of this id.
            NotRetryable: its content was not kept.
        """
        return await self._manager.call("retry_dead_letter", letter_id)

    async def purge_dead_letters(
        self,
        *,
        ids: Iterable[str] | None = None,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        older_than: timedelta | None = None,
    ) -> int:
        """Forget dead letters; return how many. Without arguments: all that there are.

        Args:
            ids: only these.
            kind: see `dead_letters`, as for `reason`, `agent` and `retried`.
            reason: see there.
            agent: see there.
            retried: see there.
            older_than: only those that are at least as old.
        """
        until = None if older_than is None else datetime.now(UTC) - older_than
        wanted = None if ids is None else list(ids)
        query = replace(_letters(kind, reason, agent, retried), until=until, ids=wanted)
        return await self._manager.call("purge_dead_letters", query)

    # State

    async def save_state(self, agent: AgentId | str) -> StateRecord:
        """Return what is kept of an agent: its state after the last handler that ended.

        Raises:
            UnknownState: nothing is kept of it.
        """
        return await self._states.save(_agent_id(agent))

    async def load_state(
        self,
        agent: AgentId | str,
        data: StateRecord | Mapping[str, Any],
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Replace the state of an agent; the next message that it handles sees the new one.

        What the agent does is finished first. It then leaves memory, and starts with its next
        message; messages that come meanwhile wait. A failed agent starts anew, too.

        Args:
            agent: its id, or `type/key`.
            data: the state; a record of an older version is migrated when the agent starts.
            timeout: seconds to wait for what the agent does; then nothing is changed.

        Raises:
            StateInvalid, StateTooNew, StateRefused: its code cannot read it; nothing was changed.
            ConfigurationError: its type keeps no state.
            DeadlineExceeded: it is busy for too long.
            HostDied: its host did; whether the state was replaced is unknown.
        """
        await self._states.load(_agent_id(agent), data, timeout)

    async def delete_state(
        self, agent: AgentId | str, *, timeout: float | None = DEFAULT_TIMEOUT_S
    ) -> None:
        """Forget the state of an agent, as `load_state` replaces it; it begins with a new one.

        Raises:
            ConfigurationError, DeadlineExceeded, HostDied: as for `load_state`.
        """
        await self._states.delete(_agent_id(agent), timeout)

    def export_state(
        self, app: str, agent_type: str | None = None
    ) -> AsyncGenerator[StateRecord, None]:
        """Go through the kept states of an app's agents, page by page.

        Each is as it was committed when its page was read; for one moment of the whole app, stop
        the app first.

        Args:
            app: name of a deployed app.
            agent_type: only of this type.

        Raises:
            ConfigurationError: there is no such app, or it has no such type.
        """
        return self._states.export(app, agent_type)

    async def import_state(self, app: str, records: Iterable[StateRecord]) -> int:
        """Keep the states of many agents, all of them or none; earlier ones are replaced.

        All are checked before anything is written. Agents in memory leave it, and start with their
        new state; a handler that is under way is repeated when it had changed the state.
        States of other agents stay.

        Args:
            app: name of the deployed app that the agents belong to.
            records: as `export_state` gives them; held in memory at once.

        Returns:
            How many.

        Raises:
            ConfigurationError: there is no such app, an agent is not one of its, or is there twice.
            PayloadError: a state is not JSON.
            StateError: the code that is deployed cannot read a state, or it is too large.
            PoolPending: no host runs that can tell.
        """
        return await self._states.take_in(app, records)

    # Runs

    async def dispatch(  # noqa: PLR0913 - all that there is to say of a run
        self,
        event: Event,
        *,
        topic: TopicId | str | None = None,
        durability: DurabilityName = "run",
        on_error: OnErrorName = "fail",
        timeout: float | None = None,
        events: bool = True,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> EventRun:
        """Publish an event, and return the run that it begins: all that it sets off.

        Args:
            event: the root of the run. Its correlation id, if it has none, is the run's id.
            topic: that it is about; None: its own, if it was made with one.
            durability: `run`: it is kept before this returns, and begins again when a host dies.
                `step`: what its handlers emit is kept, too, and it goes on after the last commit.
                `none`: it is kept at its end, and a host's death fails it with `HostDied`.
            on_error: `fail`: an error in a branch fails the run. `collect`: the run succeeds, and
                `run.errors` tells them.
            timeout: seconds after which the run is ended as `timed_out`; None: never.
            events: keep the events of the run, for `run.events()`.
            budget: what the run may use; beyond it, it ends as `budget_exceeded`.
            max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
            delay_s: seconds after which it begins; it is kept before this returns.
            at: when it begins, an aware time; None: at once.

        Raises:
            StoreUnavailable: the run was not kept.
            DeploymentStopped, Overloaded: not now.
            PayloadError: the event cannot be serialised.
        """
        return await self._dispatches.dispatch(
            event,
            topic=topic,
            durability=durability,
            on_error=on_error,
            timeout=timeout,
            events=events,
            budget=budget,
            max_attempts=max_attempts,
            delay_s=delay_s,
            at=at,
        )

    async def cancel_run(self, run_id: str) -> Run:
        """End a run, of an event or a prompt, and return it when it has ended.

        Its handlers are cancelled, on all hosts, and what waits is withdrawn. A run that has ended
        already stays as it is; one that no host works on is ended without any.

        Raises:
            UnknownRun: there is none of this id.
        """
        if (run := self._dispatches.find(run_id)) is not None:
            return await run.cancel()
        return await self._manager.call("cancel_run", run_id)

    async def answer(
        self,
        run_id: str,
        answer: Any,
        *,
        question: str | None = None,
        timeout: float | None = None,
    ) -> Run:
        """Answer what a run waits to be told, and return it when it has ended or waits again.

        Args:
            run_id: the run.
            answer: JSON values, or what has a JSON form, such as a pydantic model.
            question: id of the question; None: the one that the run asks now.
            timeout: seconds to wait; None: as long as it takes. The run goes on after it.

        Raises:
            UnknownRun: there is none of this id.
            NotWaiting: it does not wait, or not for this question; the same answer to the same
                question again is none.
            AnswerInvalid: the answer is not what the question wants.
            DeadlineExceeded: it has not ended yet.
        """
        told = as_json(answer, "answer")
        run: Run = await self._manager.call("answer_run", run_id, told, question, new_id("key"))
        try:
            async with asyncio.timeout(timeout):
                return await settle_run(self._channel, run)
        except TimeoutError:
            raise DeadlineExceeded(f"Run {run_id}", timeout) from None

    async def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all runs that this connection dispatched have ended, but for later ones.

        Args:
            timeout: seconds; None: as long as it takes.

        Returns:
            Whether they have.
        """
        return await self._dispatches.wait_idle(timeout)

    async def prompt(  # noqa: PLR0913 - all that there is to say of a run
        self,
        text: str,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        run_timeout_s: float | None = None,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        durability: PromptDurability = "run",
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> Run:
        """Give an agent a prompt and return the run when it has ended, or waits for an answer.

        The run is accepted before it begins: when this call is cancelled or the driver ends, the
        run goes on.

        Args:
            text: the prompt.
            agent: a type, a `type/key`, or None for the entry of the deployed app. Without a key,
                an instance of its own takes the run.
            timeout: seconds to wait for the end; None: as long as it takes.
            idempotency_key: the same key and text find the same run again, for 24 hours.
            run_timeout_s: seconds from now, or from when it is to begin, after which the run is
                ended as `timed_out`, wherever it is then; None: never.
            budget: what the run may use; beyond it, it ends as `budget_exceeded`. What it does not
                limit the agent type's own budget does.
            max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
            durability: `run`: it begins again when a host dies. `step`: it goes on after the last
                commit; it has no budget then, and cannot wait for an answer.
            delay_s: seconds after which the run begins. Then this returns as soon as it is kept,
                with the run as `queued` and its `not_before`.
            at: when the run begins, an aware time; the same otherwise.

        Raises:
            ConfigurationError: one of the limits is wrong, or the durability.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take it.
            IdempotencyConflict: the key was used with another text.
            DeadlineExceeded: it has not ended yet; it goes on.
        """
        check_timeout("run_timeout_s", run_timeout_s)
        run_id, now = new_id("run"), time_of_day()
        not_before = begin_at(delay_s, at, now)
        later = "" if not_before is None else f"{delay_s}|{at}|"
        type_name, key = _prompt_target(agent)
        check_limits(budget, max_attempts)
        check_durability(durability, budget, (Durability.RUN, Durability.STEP))
        given = run_input(
            text,
            None,
            timeout_s=run_timeout_s,
            budget=budget,
            max_attempts=max_attempts,
            durability=durability,
        )
        place = self._dispatcher.place(type_name, key, run_id)
        new = NewRun(
            run_id,
            place.agent,
            place.pool,
            place.slot,
            given,
            run_id,
            now,
            owner="driver",
            idempotency_key=idempotency_key,
            digest=_digest(f"{later}{type_name}/{key}", given),
            not_before=not_before,
        )
        with sending(place.agent, "prompt", run_id) as traceparent:
            if traceparent is not None:
                new = replace(new, input={**given, "traceparent": traceparent})
            ended = await self._channel.request(
                Kind.ADMIT, place.agent, "", encode(new), timeout=timeout
            )
        return Run.model_validate_json(ended)

    async def prune_runs(
        self,
        older_than: timedelta,
        *,
        status: RunStatus | str | None = None,
        dry_run: bool = False,
    ) -> dict[RunStatus, int]:
        """Forget runs that ended longer ago, with their events and traces.

        Args:
            older_than: since their end; at least a day, in which idempotency keys find them.
            status: only those of this terminal status.
            dry_run: only count them.

        Returns:
            How many, by status; only statuses that occur.

        Raises:
            ConfigurationError: it is less than a day, or the status is none in which runs end.
        """
        if status is not None and status not in TERMINAL:
            known = ", ".join(sorted(TERMINAL))
            raise ConfigurationError(f"status={status!r}: write one of {known}.")
        if not timedelta(days=1) <= older_than <= timedelta(days=36_500):
            raise ConfigurationError(f"older_than={older_than!r}: write a day or more.")
        statuses = sorted(TERMINAL) if status is None else [RunStatus(status)]
        seconds = older_than.total_seconds()
        return await self._manager.call("prune_runs", seconds, statuses, dry_run)

    @property
    def schedules(self) -> ScheduleClient:
        """Prompts and events that are given again and again."""
        return ScheduleClient(self._manager)

    # Traces

    async def trace(self, run_id: str) -> RunTrace | None:
        """Return what a run set off: the messages that agents handled, each with its cause.

        Returns:
            None when the run has not ended, and when its trace was dropped or is forgotten.

        Raises:
            UnknownRun: there is none of this id.
        """
        return await self._manager.call("trace", run_id)

    async def traces(
        self,
        *,
        agent_type: type[Agent] | str | None = None,
        event: type[Event] | str | None = None,
        correlation_id: str | None = None,
        since: datetime | timedelta | None = None,
        until: datetime | None = None,
        errors: bool | None = None,
        limit: int = 50,
    ) -> list[TraceSummary]:
        """Return the traces of runs, newest first, without their spans; `trace` has these.

        Args:
            agent_type: one of its agents took part.
            event: a type of event, with or without its module, or the name of an action.
            correlation_id: of the conversation.
            since: begun then or later; or how long ago at most.
            until: begun before that.
            errors: whether something in them failed.
            limit: most of them.
        """
        if isinstance(since, timedelta):
            since = datetime.now(UTC) - since
        query = TraceQuery(
            correlation_id=correlation_id,
            agent_type=None if agent_type is None else _type_name(agent_type),
            event=event.event_type if isinstance(event, type) else event,
            since=since,
            until=until,
            errors=errors,
        )
        return await self._manager.call("traces", query, limit)


def _status(status: AgentStatus | str) -> AgentStatus:
    try:
        return AgentStatus(status)
    except ValueError:
        known = ", ".join(AgentStatus)
        raise ConfigurationError(f"status={status!r}: write one of {known}.") from None


def _pool(name: str, settings: PoolSettings) -> Pool:
    try:
        return Pool(name, **settings)
    except ValidationError as error:
        raise ConfigurationError(_told("pool", name, error)) from error


def _told(what: str, name: str, error: ValidationError) -> str:
    """Return what is wrong, without pydantic's own frame."""
    wrong = "; ".join(
        ".".join(map(str, each["loc"])) + ": " + each["msg"].removeprefix("Value error, ")
        if each["type"] != "value_error"
        else each["msg"].removeprefix("Value error, ")
        for each in error.errors()
    )
    return f"The {what} {name!r}: {wrong}"


def _agent_id(agent: AgentId | str) -> AgentId:
    return agent if isinstance(agent, AgentId) else AgentId.parse(agent)


def _lineage_of(event: type[Event] | str | None) -> tuple[str, ...]:
    if event is None:
        return ()
    return (event,) if isinstance(event, str) else event.event_lineage


def _type_name(agent_type: type[Agent] | str) -> str:
    return agent_type if isinstance(agent_type, str) else agent_type.agent_type.name


def _digest(target: str, given: Mapping[str, Any]) -> str:
    """Return a hash of what is asked of whom, and how."""
    asked = f"{target}:{json.dumps(given, sort_keys=True)}"
    return hashlib.sha256(asked.encode()).hexdigest()


def _prompt_target(agent: AgentId | type[Agent] | str | None) -> tuple[str | None, str | None]:
    match agent:
        case None:
            return None, None
        case AgentId(type_name, key):
            return type_name, key
        case str() if "/" in agent:
            return AgentId.parse(agent)
        case str():
            return agent, None
        case _:
            return agent.agent_type.name, None


def _letters(
    kind: LetterKind | None,
    reason: LetterReason | None,
    agent: AgentId | str | None,
    retried: bool | None,
) -> LetterQuery:
    return LetterQuery(
        None if kind is None else LetterKind(kind),
        None if reason is None else LetterReason(reason),
        None if agent is None else str(agent),
        retried,
    )
