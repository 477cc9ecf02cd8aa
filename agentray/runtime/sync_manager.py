"""The manager for programs that do not await: `with agentray.connect() as manager`."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from agentray.blocking import wait_for
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.sync_agents import SyncAgents
from agentray.runtime.sync_apps import SyncApps
from agentray.runtime.sync_letters import SyncLetters
from agentray.runtime.sync_moves import SyncMoves
from agentray.runtime.sync_runs import SyncRuns
from agentray.runtime.sync_states import SyncStates


class SyncManager(SyncApps, SyncAgents, SyncLetters, SyncStates, SyncRuns, SyncMoves):
    """A `ManagerClient` whose methods block; see there for what each one does and raises.

    It may be shared by threads. The handles that it gives belong to an event loop in a thread of
    its own: call their agents through `handle.sync`. Ctrl-C cancels what is being waited for.

    ```python
    with agentray.connect() as manager:
        print(manager.handle(Greeter, "door").sync.greet("Ada"))
    ```
    """

    def gc(self, *, dry_run: bool = False) -> list[dict[str, str]]:
        """End what is left over of hosts; see `ManagerClient.gc`."""
        return self._wait(self._manager.gc(dry_run=dry_run))

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
