"""The manager for programs that do not await: `with agentray.connect() as manager`."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from agentray.agent import Agent
from agentray.blocking import read, wait_for
from agentray.event_run import EventRun
from agentray.handle import Handle
from agentray.ids import AgentId
from agentray.protocol.states import StateRecord
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.sync_event_run import SyncEventRun
from agentray.runtime.sync_part import SyncPart, blocking
from agentray.runtime.sync_requests import SyncRequests
from agentray.runtime.sync_schedules import SyncSchedules
from agentray.runtime.sync_sessions import SyncSessions

A = TypeVar("A", bound=Agent)
P = ParamSpec("P")


def _dispatching(
    method: Callable[Concatenate[ManagerClient, P], Coroutine[Any, Any, EventRun]],
) -> Callable[Concatenate[SyncPart[ManagerClient], P], SyncEventRun]:
    """Return a method that gives the blocking twin of the run that an asynchronous one gives."""

    @wraps(method)
    def call(self: SyncPart[ManagerClient], *args: P.args, **kwargs: P.kwargs) -> SyncEventRun:
        run: EventRun = self._do(method.__name__, *args, **kwargs)  # pyright: ignore[reportPrivateUsage] - ours
        return SyncEventRun(run, self._loop)  # pyright: ignore[reportPrivateUsage] - ours

    call.__annotations__["return"] = SyncEventRun
    return call


class SyncManager(SyncPart[ManagerClient]):
    """A `ManagerClient` whose methods block; see there for what each one does and raises.

    It may be shared by threads. The handles that it gives belong to an event loop in a thread of
    its own: call their agents through `handle.sync`. Ctrl-C cancels what is being waited for.

    ```python
    with agentray.connect() as manager:
        print(manager.handle(Greeter, "door").sync.greet("Ada"))
    ```
    """

    close = blocking(ManagerClient.close)
    agents = blocking(ManagerClient.agents)
    status = blocking(ManagerClient.status)
    gc = blocking(ManagerClient.gc)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Apps, pools and topics

    deploy = blocking(ManagerClient.deploy)
    stop = blocking(ManagerClient.stop)
    remove_app = blocking(ManagerClient.remove_app)
    add_pool = blocking(ManagerClient.add_pool)
    update_pool = blocking(ManagerClient.update_pool)
    set_default_pool = blocking(ManagerClient.set_default_pool)
    remove_pool = blocking(ManagerClient.remove_pool)
    pools = blocking(ManagerClient.pools)
    subscribe = blocking(ManagerClient.subscribe)
    unsubscribe = blocking(ManagerClient.unsubscribe)
    subscriptions = blocking(ManagerClient.subscriptions)

    # Agents

    def handle(self, agent: AgentId | type[A] | str, key: str | None = None) -> Handle[A]:
        """Return a handle to an agent; `.sync` of it has the actions that block."""
        return self._target.handle(agent, key)

    launch = blocking(ManagerClient.launch)
    launch_batch = blocking(ManagerClient.launch_batch)
    register = blocking(ManagerClient.register)
    register_many = blocking(ManagerClient.register_many)
    get_handle = blocking(ManagerClient.get_handle)
    find = blocking(ManagerClient.find)
    running = blocking(ManagerClient.running)
    wait = blocking(ManagerClient.wait)
    shutdown = blocking(ManagerClient.shutdown)
    failed_agents = blocking(ManagerClient.failed_agents)
    reset_agent = blocking(ManagerClient.reset_agent)

    # Their states

    save_state = blocking(ManagerClient.save_state)
    load_state = blocking(ManagerClient.load_state)
    delete_state = blocking(ManagerClient.delete_state)

    def export_state(
        self, app: str, agent_type: str | None = None
    ) -> Generator[StateRecord, None, None]:
        """Go through the kept states of an app's agents, page by page."""
        return read(self._target.export_state(app, agent_type), self._loop)

    def import_state(self, app: str, records: Iterable[StateRecord]) -> int:
        """Keep the states of many agents, all of them or none; earlier ones are replaced."""
        # Read here: what gives them, such as `export_state` of another manager, may block.
        return self._wait(self._target.import_state(app, list(records)))

    # Runs

    prompt = blocking(ManagerClient.prompt)
    dispatch = _dispatching(ManagerClient.dispatch)
    answer = blocking(ManagerClient.answer)
    cancel_run = blocking(ManagerClient.cancel_run)
    wait_idle = blocking(ManagerClient.wait_idle)
    prune_runs = blocking(ManagerClient.prune_runs)
    trace = blocking(ManagerClient.trace)
    traces = blocking(ManagerClient.traces)

    @property
    def requests(self) -> SyncRequests:
        """Typed requests, each of which is a job."""
        return SyncRequests(self._target.requests, self._loop)

    @property
    def sessions(self) -> SyncSessions:
        """Conversations: keyed agents, and the ordered runs of their prompts."""
        return SyncSessions(self._target.sessions, self._loop)

    @property
    def schedules(self) -> SyncSchedules:
        """Prompts and events that are given again and again."""
        return SyncSchedules(self._target.schedules, self._loop)

    # Dead letters

    dead_letters = blocking(ManagerClient.dead_letters)
    dead_letter = blocking(ManagerClient.dead_letter)
    retry_dead_letter = blocking(ManagerClient.retry_dead_letter)
    purge_dead_letters = blocking(ManagerClient.purge_dead_letters)

    # Hosts and machines

    drain_host = blocking(ManagerClient.drain_host)
    scale_pool = blocking(ManagerClient.scale_pool)
    move_slots = blocking(ManagerClient.move_slots)
    move_agent = blocking(ManagerClient.move_agent)
    balance_pool = blocking(ManagerClient.balance_pool)
    nodes = blocking(ManagerClient.nodes)
    drain_node = blocking(ManagerClient.drain_node)
    undrain_node = blocking(ManagerClient.undrain_node)


class SyncContext(ABC):
    """Lets an asynchronous context manager that gives a `ManagerClient` be entered by `with`, too.

    It then lives on an event loop in a thread of its own, which ends with the block.
    """

    _entered: tuple[asyncio.AbstractEventLoop, ExitStack] | None = None

    @abstractmethod
    async def __aenter__(self) -> ManagerClient: ...

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def __enter__(self) -> SyncManager:
        from anyio.from_thread import start_blocking_portal  # importing agentray shall stay quick

        with ExitStack() as exits:
            options = {"use_uvloop": sys.platform != "win32"}
            portal = exits.enter_context(start_blocking_portal(backend_options=options))
            loop = portal.call(asyncio.get_running_loop)
            client = wait_for(self.__aenter__(), loop)
            self._entered = loop, exits.pop_all()
        return SyncManager(client, loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            loop, thread = entered
            with thread:
                wait_for(self.__aexit__(kind, error, traceback), loop)
