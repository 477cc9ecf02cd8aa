"""What a driver does with pools: add, change, remove, list."""

from __future__ import annotations

from typing import Any, Unpack

from pydantic import ValidationError

from agentray.errors import ConfigurationError
from agentray.pool import Pool, PoolSettings
from agentray.runtime.channel import Channel
from agentray.runtime.pool_packing import pack_changes, pack_pool
from agentray.runtime.watcher import ManagerPort


class PoolClient:
    """Pools: a part of `ManagerClient`."""

    _manager: ManagerPort
    _channel: Channel

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
            UnknownPart, ConfigurationError: there is no such pool, or a setting is wrong.
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
            UnknownPart: there is no such pool.
            ConfigurationError: its hosts cannot import the agents.
            PoolPending, StartFailed: it has no hosts; nothing has changed.
        """
        self._channel.update(await self._manager.call("set_default_pool", name))

    async def remove_pool(self, name: str, *, successor: str | None = None) -> None:
        """Remove a pool: its agents finish what they do, and its hosts stop.

        Args:
            name: of the pool.
            successor: the pool that takes over its agents.

        Raises:
            UnknownPart: there is no such pool.
            ConfigurationError: agents of running apps live there, and no
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
