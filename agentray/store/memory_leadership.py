"""Which manager works, for the store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from agentray.core.leadership import Lead
from agentray.errors import ManagerSuperseded

if TYPE_CHECKING:
    from agentray.store.base import Store

_READS = ("get_", "list_", "load_", "find_", "count_", "read_", "unfinished_", "live_", "types_")
_UNFENCED = frozenset({"open", "ping", "run_events", "write_lead", "as_manager"})


class MemoryLeadership:
    """A `LeadershipStore` in memory; the Store's clock is that of the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._lead: Lead | None = None

    async def read_lead(self) -> tuple[Lead | None, float]:
        """Return who leads, if anybody ever has, and the Store's time in seconds."""
        return self._lead, asyncio.get_running_loop().time()

    async def write_lead(self, lead: Lead, *, instead_of: Lead | None) -> bool:
        """Write who leads, if the row is still the one that was found."""
        if self._lead != instead_of:
            return False
        self._lead = lead
        return True

    def as_manager(self, epoch: int) -> Store:
        """Return the same Store for the manager that leads with this epoch."""
        return cast("Store", _OfManager(self, epoch))

    def check_epoch(self, epoch: int) -> None:
        """Refuse what a manager writes that does not lead any more.

        Raises:
            ManagerSuperseded: another one leads.
        """
        if self._lead is None or self._lead.epoch != epoch:
            raise ManagerSuperseded(self._lead.about if self._lead else "")


class _OfManager:
    """The store of one manager: looks at its epoch before each write.

    A write awaits nothing, so the look and the write are one transaction.
    """

    def __init__(self, store: MemoryLeadership, epoch: int) -> None:
        self._store = store
        self._epoch = epoch

    async def close(self) -> None:
        """Do nothing: others use the store, too."""

    def __getattr__(self, name: str) -> Any:
        found: Callable[..., Any] = getattr(self._store, name)
        if name in _UNFENCED or name.startswith(_READS):
            return found

        @wraps(found)
        async def fenced(*args: Any, **kwargs: Any) -> Any:
            self._store.check_epoch(self._epoch)
            return await found(*args, **kwargs)

        return fenced
