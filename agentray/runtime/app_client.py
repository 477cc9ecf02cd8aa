"""What a driver does with apps: deploy, stop, remove."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from agentray.app import App, load_app
from agentray.errors import ManagerUnavailable, PoolPending, StartFailed
from agentray.runtime.active_run import CANCEL_GRACE_S
from agentray.runtime.channel import Channel
from agentray.runtime.packing import pack_app
from agentray.runtime.supervision_client import SupervisionClient
from agentray.runtime.watcher import ManagerPort

_PLACED_S = 30.0
"""How long one question whether there is room, or whether runs have ended, stays open."""

STOP_GRACE_S = 30.0


class AppClient(SupervisionClient):
    """Apps: a part of `ManagerClient`."""

    _manager: ManagerPort
    _channel: Channel

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
        try:
            done, snapshot = await self._manager.call("deploy", spec)
        except StartFailed:
            with suppress(ManagerUnavailable):  # then it comes as every other does
                self._channel.update(await self._manager.call("watch", -1))  # it was taken back
            raise
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
