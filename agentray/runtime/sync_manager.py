"""The manager for programs that do not await: `with agentray.connect() as manager`."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from agentray.agent import Agent, AgentOptions
from agentray.app import App
from agentray.blocking import read, wait_for
from agentray.event_run import DurabilityName, OnErrorName
from agentray.events import Event
from agentray.handle import DEFAULT_TIMEOUT_S, Handle
from agentray.ids import AgentId, TopicId
from agentray.launching import LAUNCH_TIMEOUT_S, AgentRecord, Launch, Lifetime
from agentray.pool import Pool, PoolSettings
from agentray.protocol.budgets import Budget
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.launching import AgentStatus
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.states import StateRecord
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import RunTrace, TraceSummary
from agentray.runtime.launcher import AnyAgent, ReturnWhen
from agentray.runtime.manager_client import STOP_GRACE_S, ManagerClient
from agentray.runtime.supervision_client import RESET_TIMEOUT_S
from agentray.runtime.sync_event_run import SyncEventRun
from agentray.runtime.sync_moves import SyncMoves
from agentray.runtime.sync_schedules import SyncSchedules
from agentray.store.supervision import AgentFailure

A = TypeVar("A", bound=Agent)
T = TypeVar("T")


class SyncManager(SyncMoves):
    """A `ManagerClient` whose methods block; see there for what each one does and raises.

    It may be shared by threads. The handles that it gives belong to an event loop in a thread of
    its own: call their agents through `handle.sync`. Ctrl-C cancels what is being waited for.

    ```python
    with agentray.connect() as manager:
        print(manager.handle(Greeter, "door").sync.greet("Ada"))
    ```
    """

    def __init__(self, manager: ManagerClient, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `connect`.

        Args:
            manager: what does the work.
            loop: its event loop, which runs in another thread.
        """
        self._manager = manager
        self._loop = loop

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return wait_for(work, self._loop)

    # Apps

    def deploy(self, app: App | str, *, pending_timeout: float | None = 30.0) -> str:
        """Deploy an app, and return when its agents can be called."""
        return self._wait(self._manager.deploy(app, pending_timeout=pending_timeout))

    def stop(self, app_name: str, *, drain: bool = True, grace_s: float = STOP_GRACE_S) -> None:
        """Stop an app: its agents take no messages from outside until it is deployed again."""
        self._wait(self._manager.stop(app_name, drain=drain, grace_s=grace_s))

    def remove_app(
        self,
        app_name: str,
        *,
        delete_states: bool = False,
        drain: bool = True,
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        """Stop an app and forget it: its agent types are free for other apps."""
        self._wait(
            self._manager.remove_app(
                app_name, delete_states=delete_states, drain=drain, grace_s=grace_s
            )
        )

    # Pools

    def add_pool(self, pool: Pool | str, **settings: Unpack[PoolSettings]) -> dict[str, Any]:
        """Add a pool, or change one that is there."""
        return self._wait(self._manager.add_pool(pool, **settings))

    def update_pool(self, name: str, **settings: Unpack[PoolSettings]) -> dict[str, Any]:
        """Change some settings of a pool; all that is not named stays as it is."""
        return self._wait(self._manager.update_pool(name, **settings))

    def set_default_pool(self, name: str) -> None:
        """Let agents whose type names no pool live in this one; those that run move there."""
        self._wait(self._manager.set_default_pool(name))

    def remove_pool(self, name: str, *, successor: str | None = None) -> None:
        """Remove a pool: its agents finish what they do, and its hosts stop."""
        self._wait(self._manager.remove_pool(name, successor=successor))

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools."""
        return self._wait(self._manager.pools())

    # What is left over

    def gc(self, *, dry_run: bool = False) -> list[dict[str, str]]:
        """End what is left over of hosts; see `ManagerClient.gc`."""
        return self._wait(self._manager.gc(dry_run=dry_run))

    # Topics

    def subscribe(
        self,
        agent: type[Agent] | str,
        topic: str,
        *,
        event: type[Event] | str | None = None,
        key: str = "topic",
    ) -> TopicSubscription:
        """Send events on a topic to agents of a type, besides those whose `@on` says so."""
        return self._wait(self._manager.subscribe(agent, topic, event=event, key=key))

    def unsubscribe(self, subscription: TopicSubscription | str) -> None:
        """Take a subscription back; when this returns, no host sends anything by it."""
        self._wait(self._manager.unsubscribe(subscription))

    def subscriptions(self, agent: type[Agent] | str | None = None) -> list[TopicSubscription]:
        """Return the subscriptions made by `subscribe`, of one agent type or all, oldest first."""
        return self._wait(self._manager.subscriptions(agent))

    # Agents

    def handle(self, agent: AgentId | type[A] | str, key: str | None = None) -> Handle[A]:
        """Return a handle to an agent; `.sync` of it has the actions that block."""
        return self._manager.handle(agent, key)

    def launch(  # noqa: PLR0913 - as ManagerClient's
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
        """Start an agent, and return when it has started."""
        return self._wait(
            self._manager.launch(
                agent,
                args=args,
                kwargs=kwargs,
                name=name,
                labels=labels,
                pool=pool,
                options=options,
                max_retries=max_retries,
                lifetime=lifetime,
                timeout=timeout,
            )
        )

    def launch_batch(
        self, launches: Sequence[Launch[Any]], *, timeout: float | None = LAUNCH_TIMEOUT_S
    ) -> list[Handle[Any]]:
        """Start several agents, all or none."""
        return self._wait(self._manager.launch_batch(launches, timeout=timeout))

    def register(
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
        """Keep how an agent is to be made, without starting it."""
        return self._wait(
            self._manager.register(
                agent,
                args=args,
                kwargs=kwargs,
                name=name,
                labels=labels,
                options=options,
                max_retries=max_retries,
                lifetime=lifetime,
            )
        )

    def register_many(self, launches: Sequence[Launch[Any]]) -> list[Handle[Any]]:
        """Keep how several agents are to be made, all or none, without starting them."""
        return self._wait(self._manager.register_many(launches))

    def get_handle(self, agent: AnyAgent) -> Handle[Any]:
        """Return the handle of an agent that was registered or launched."""
        return self._wait(self._manager.get_handle(agent))

    def find(
        self,
        *,
        type: type[Agent] | str | None = None,  # noqa: A002 - the word for it
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        action: str | None = None,
        status: AgentStatus | str | None = None,
        limit: int = 1000,
    ) -> list[AgentRecord]:
        """Return agents that were registered or launched, newest first."""
        return self._wait(
            self._manager.find(
                type=type, name=name, labels=labels, action=action, status=status, limit=limit
            )
        )

    def running(self, limit: int = 10_000) -> list[AgentId]:
        """Return agents of all drivers that were launched and have not ended, or are in memory."""
        return self._wait(self._manager.running(limit))

    def wait(
        self,
        agents: Collection[AnyAgent],
        *,
        return_when: ReturnWhen = "ALL_COMPLETED",
        timeout: float | None = None,
    ) -> tuple[set[Handle[Any]], set[Handle[Any]]]:
        """Wait until launched agents have ended: were shut down, or failed."""
        return self._wait(self._manager.wait(agents, return_when=return_when, timeout=timeout))

    def shutdown(
        self,
        agent: AnyAgent,
        *,
        blocking: bool = True,
        grace_s: float = 10.0,
        terminate: bool = False,
        delete_state: bool = False,
        raise_error: bool = False,
    ) -> None:
        """Shut an agent down: from now on its callers get `AgentStopped`, until it is launched."""
        self._wait(
            self._manager.shutdown(
                agent,
                blocking=blocking,
                grace_s=grace_s,
                terminate=terminate,
                delete_state=delete_state,
                raise_error=raise_error,
            )
        )

    def failed_agents(
        self, agent_type: type[Agent] | str | None = None, *, limit: int = 100
    ) -> list[AgentFailure]:
        """Return agents that have failed or are quarantined, newest first."""
        return self._wait(self._manager.failed_agents(agent_type, limit=limit))

    def reset_agent(self, agent: AnyAgent, *, timeout: float = RESET_TIMEOUT_S) -> bool:
        """Let an agent start again that has failed; its errors are counted from none."""
        return self._wait(self._manager.reset_agent(agent, timeout=timeout))

    def close(self) -> None:
        """End the agents of the lifetime `driver`; this manager launches nothing any more."""
        self._wait(self._manager.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def agents(self, agent_type: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return agents that are in memory, those of one type or all, at most `limit`."""
        return self._wait(self._manager.agents(agent_type, limit))

    def status(self) -> dict[str, Any]:
        """Return apps, pools and hosts as the manager sees them."""
        return self._wait(self._manager.status())

    def dead_letters(
        self,
        *,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Return what came to nothing with nobody there to hear of it, newest first."""
        asked = self._manager.dead_letters(
            kind=kind, reason=reason, agent=agent, retried=retried, before=before, limit=limit
        )
        return self._wait(asked)

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter."""
        return self._wait(self._manager.dead_letter(letter_id))

    def retry_dead_letter(self, letter_id: str) -> Run:
        """Try a dead letter once more, as a run; return that as it is now."""
        return self._wait(self._manager.retry_dead_letter(letter_id))

    def purge_dead_letters(
        self,
        *,
        ids: Iterable[str] | None = None,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        older_than: timedelta | None = None,
    ) -> int:
        """Forget dead letters; return how many. Without arguments: all that there are."""
        asked = self._manager.purge_dead_letters(
            ids=ids, kind=kind, reason=reason, agent=agent, retried=retried, older_than=older_than
        )
        return self._wait(asked)

    # State

    def save_state(self, agent: AgentId | str) -> StateRecord:
        """Return what is kept of an agent: its state after the last handler that ended."""
        return self._wait(self._manager.save_state(agent))

    def load_state(
        self,
        agent: AgentId | str,
        data: StateRecord | Mapping[str, Any],
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Replace the state of an agent; the next message that it handles sees the new one."""
        self._wait(self._manager.load_state(agent, data, timeout=timeout))

    def delete_state(
        self, agent: AgentId | str, *, timeout: float | None = DEFAULT_TIMEOUT_S
    ) -> None:
        """Forget the state of an agent, as `load_state` replaces it; it begins with a new one."""
        self._wait(self._manager.delete_state(agent, timeout=timeout))

    def export_state(
        self, app: str, agent_type: str | None = None
    ) -> Generator[StateRecord, None, None]:
        """Go through the kept states of an app's agents, page by page."""
        return read(self._manager.export_state(app, agent_type), self._loop)

    def import_state(self, app: str, records: Iterable[StateRecord]) -> int:
        """Keep the states of many agents, all of them or none; earlier ones are replaced."""
        # Read here: what gives them, such as `export_state` of another manager, may block.
        return self._wait(self._manager.import_state(app, list(records)))

    # Runs

    def dispatch(  # noqa: PLR0913 - all that there is to say of a run
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
    ) -> SyncEventRun:
        """Publish an event, and return the run that it begins: all that it sets off."""
        run = self._wait(
            self._manager.dispatch(
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
        )
        return SyncEventRun(run, self._loop)

    def cancel_run(self, run_id: str) -> Run:
        """End a run, of an event or a prompt, and return it when it has ended."""
        return self._wait(self._manager.cancel_run(run_id))

    def answer(
        self,
        run_id: str,
        answer: Any,
        *,
        question: str | None = None,
        timeout: float | None = None,
    ) -> Run:
        """Answer what a run waits to be told, and return it when it has ended or waits again."""
        return self._wait(self._manager.answer(run_id, answer, question=question, timeout=timeout))

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all runs that this connection dispatched have ended, but for later ones."""
        return self._wait(self._manager.wait_idle(timeout))

    def prompt(  # noqa: PLR0913 - all that there is to say of a run
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
        """Give an agent a prompt and return the run when it has ended."""
        return self._wait(
            self._manager.prompt(
                text,
                agent=agent,
                timeout=timeout,
                idempotency_key=idempotency_key,
                run_timeout_s=run_timeout_s,
                budget=budget,
                max_attempts=max_attempts,
                durability=durability,
                delay_s=delay_s,
                at=at,
            )
        )

    def prune_runs(
        self,
        older_than: timedelta,
        *,
        status: RunStatus | str | None = None,
        dry_run: bool = False,
    ) -> dict[RunStatus, int]:
        """Forget runs that ended longer ago, with their events and traces."""
        return self._wait(self._manager.prune_runs(older_than, status=status, dry_run=dry_run))

    @property
    def schedules(self) -> SyncSchedules:
        """Prompts and events that are given again and again."""
        return SyncSchedules(self._manager.schedules, self._loop)

    # Traces

    def trace(self, run_id: str) -> RunTrace | None:
        """Return what a run set off: the messages that agents handled, each with its cause."""
        return self._wait(self._manager.trace(run_id))

    def traces(
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
        """Return the traces of runs, newest first, without their spans; `trace` has these."""
        return self._wait(
            self._manager.traces(
                agent_type=agent_type,
                event=event,
                correlation_id=correlation_id,
                since=since,
                until=until,
                errors=errors,
                limit=limit,
            )
        )


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
