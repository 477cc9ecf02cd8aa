"""What a driver without `await` does with apps, pools and topics."""

from __future__ import annotations

from typing import Any, Unpack

from agentray.agent import Agent
from agentray.app import App
from agentray.events import Event
from agentray.pool import Pool, PoolSettings
from agentray.protocol.topics import TopicSubscription
from agentray.runtime.app_client import STOP_GRACE_S
from agentray.runtime.sync_part import SyncPart


class SyncApps(SyncPart):
    """What `AppClient`, `PoolClient` and `TopicClient` do, in methods that block."""

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
