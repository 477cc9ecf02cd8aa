"""What a driver does with topics: subscribe agents to them at run time."""

from __future__ import annotations

from agentray.agent import Agent
from agentray.errors import ConfigurationError
from agentray.events import Event
from agentray.handlers import check_key_form
from agentray.ids import (
    check_topic_pattern,
)
from agentray.protocol.topics import TopicSubscription
from agentray.runtime.channel import Channel
from agentray.runtime.watcher import ManagerPort


class TopicClient:
    """Subscriptions made at run time: a part of `ManagerClient`."""

    _manager: ManagerPort
    _channel: Channel

    async def subscribe(
        self,
        agent: type[Agent] | str,
        topic: str,
        *,
        event: type[Event] | str | None = None,
        key: str = "topic",
    ) -> TopicSubscription:
        """Send events on a topic to agents of a type, besides those whose `@on` says so.

        It is kept until it is taken back. Asked for twice, it is there once. When this returns,
        every host routes by it.

        Args:
            agent: the class, or its type's name.
            topic: the type of the topics, as `orders`, or with a `*` what they begin with.
            event: only events of this class (or name), which the agents must handle; None: of all
                the classes that they handle. Subclasses go along where the handler takes them.
            key: which instance gets an event: `topic` (the topic's source), `correlation`,
                `field:NAME`, `any:N` or `key:KEY`.

        Raises:
            ConfigurationError: another form of topic or key.
            UnknownAgentType: no deployed app has the type.
            NoHandler: the agents handle no such events.
        """
        if not isinstance(topic, str):
            raise ConfigurationError(f"{topic!r}: subscribe to the type of a topic, as 'orders'.")
        name = agent if isinstance(agent, str) else agent.agent_type.name
        lineage = _lineage_of(event)
        subscription, snapshot = await self._manager.call(
            "subscribe", name, check_topic_pattern(topic), lineage, check_key_form(key)
        )
        self._channel.update(snapshot)
        return subscription

    async def unsubscribe(self, subscription: TopicSubscription | str) -> None:
        """Take a subscription back; when this returns, no host sends anything by it.

        Args:
            subscription: as `subscribe` returned it, or its id.

        Raises:
            UnknownSubscription: there is none.
        """
        known = subscription if isinstance(subscription, str) else subscription.id
        self._channel.update(await self._manager.call("unsubscribe", known))

    async def subscriptions(
        self, agent: type[Agent] | str | None = None
    ) -> list[TopicSubscription]:
        """Return the subscriptions made by `subscribe`, of one agent type or all, oldest first."""
        name = agent if agent is None or isinstance(agent, str) else agent.agent_type.name
        return await self._manager.call("subscriptions", name)


def _lineage_of(event: type[Event] | str | None) -> tuple[str, ...]:
    if event is None:
        return ()
    return (event,) if isinstance(event, str) else event.event_lineage
