"""What all parts of a `SyncManager` have."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from agentray.blocking import wait_for

if TYPE_CHECKING:
    from agentray.runtime.manager_client import ManagerClient

T = TypeVar("T")


class SyncPart:
    """A `ManagerClient` and its event loop, seen from another thread."""

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
