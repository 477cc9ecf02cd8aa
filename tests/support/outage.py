"""A database that can be away, without a database."""

from __future__ import annotations

import inspect
from typing import Any, cast

from agentray.errors import StoreUnavailable
from agentray.store.base import Store


class Outage:
    """A database that can be away."""

    def __init__(self) -> None:
        """It is there."""
        self.away = False

    def behind(self, store: Store) -> Store:
        """Return a store that needs it."""
        return cast("Store", _Behind(store, self))


class _Behind:
    def __init__(self, store: Store, outage: Outage) -> None:
        self._store, self._outage = store, outage

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name == "as_manager":

            def as_manager(epoch: int) -> Store:
                return self._outage.behind(found(epoch))

            return as_manager
        if name == "close" or not inspect.iscoroutinefunction(found):
            return found

        async def ask(*args: Any, **kwargs: Any) -> Any:
            if self._outage.away:
                raise StoreUnavailable
            return await found(*args, **kwargs)

        return ask
