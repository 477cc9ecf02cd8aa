"""The pool book: what an operator has said of pools while the cluster runs, kept in the Store."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from agentray.ids import DEFAULT_POOL
from agentray.protocol.deployment import PoolSpec
from agentray.store.base import PoolRow, Store

DEFAULT = DEFAULT_POOL


class PoolBook:
    """Pools that were added, changed, removed or redirected at run time.

    Attributes:
        specs: of the pools that were added or changed, by name. They take precedence over what
            apps declare.
        warming: pools whose hosts are started although their agents still live in another one.
    """

    def __init__(self, store: Store) -> None:
        self.specs: dict[str, PoolSpec] = {}
        self.warming: set[str] = set()
        self._store = store
        self._successors: dict[str, str] = {}
        self._removed: set[str] = set()

    async def load(self) -> None:
        """Read what was said before."""
        for row in await self._store.list_pools():
            spec = None if row.spec is None else pickle.loads(row.spec)  # noqa: S301 - written by this cluster's manager
            self._note(row.name, spec, row.successor)

    def resolve(self, name: str, successors: Mapping[str, str] | None = None) -> str:
        """Return the pool in which the agents of a pool live.

        Args:
            name: as an agent type names it.
            successors: to be tried instead of those in the book.
        """
        known = self._successors if successors is None else successors
        while name in known:
            name = known[name]
        return name

    @property
    def successors(self) -> Mapping[str, str]:
        """Which pool has taken over from which."""
        return self._successors

    def is_away(self, name: str) -> bool:
        """Whether a pool has no hosts although it is declared: it was removed or redirected."""
        return (name in self._successors or name in self._removed) and name not in self.warming

    def is_removed(self, name: str) -> bool:
        """Whether a pool was removed and nothing took over."""
        return name in self._removed

    async def put(self, name: str, spec: PoolSpec | None, successor: str = "") -> None:
        """Keep what is said of a pool; without spec and successor it is removed."""
        packed = None if spec is None else pickle.dumps(spec, protocol=5)
        await self._store.put_pool(PoolRow(name, packed, successor))
        self._note(name, spec, successor)

    def _note(self, name: str, spec: PoolSpec | None, successor: str) -> None:
        self._forget(name)
        if spec is not None:
            self.specs[name] = spec
        if successor:
            self._successors[name] = successor
        elif spec is None and name != DEFAULT:
            self._removed.add(name)

    def _forget(self, name: str) -> None:
        self.specs.pop(name, None)
        self._successors.pop(name, None)
        self._removed.discard(name)

    async def delete(self, name: str) -> None:
        """Forget what was said of a pool."""
        await self._store.delete_pool(name)
        self._forget(name)
