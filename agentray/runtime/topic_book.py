"""The topic book: subscriptions that were made while the cluster runs, kept in the Store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from agentray.errors import NoHandler, UnknownAgentType, UnknownSubscription
from agentray.ids import new_id
from agentray.protocol.snapshot import Subscription
from agentray.protocol.topics import TopicSubscription
from agentray.store.base import Store

Handles = Mapping[str, Sequence[tuple[str, bool]]]
"""Of each agent type: the event types it has handlers for, and whether also for subclasses."""


class TopicBook:
    """Who gets events on which topics, besides those whose classes say so."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, TopicSubscription] = {}

    async def load(self) -> None:
        """Read what was said before."""
        self._known = {row.id: row for row in await self._store.list_subscriptions()}

    async def add(
        self, agent_type: str, topic: str, lineage: Sequence[str], key: str, handles: Handles
    ) -> TopicSubscription:
        """Keep a subscription; one that asks for the same is returned instead.

        Args:
            agent_type: who gets the events.
            topic: the type of the topics, or what they begin with.
            lineage: names of an event class and of those above it; empty: all that are handled.
            key: how the instance is chosen.
            handles: what the deployed agent types handle.

        Raises:
            UnknownAgentType: no deployed app has the type.
            NoHandler: it does not handle such events.
        """
        if agent_type not in handles:
            raise UnknownAgentType(agent_type, tuple(sorted(handles)))
        of_type = dict(handles[agent_type])
        handled = [n for n in lineage if n in of_type and (n == lineage[0] or of_type[n])]
        if not (handled if lineage else of_type):
            raise NoHandler(agent_type, lineage[0] if lineage else "any event")
        event = lineage[0] if lineage else None
        wish = TopicSubscription(new_id("sub"), agent_type, topic, event, key, datetime.now(UTC))
        kept = await self._store.put_subscription(wish)
        self._known[kept.id] = kept
        return kept

    async def remove(self, subscription_id: str) -> None:
        """Forget a subscription.

        Raises:
            UnknownSubscription: there is none of this id.
        """
        known = await self._store.delete_subscription(subscription_id)
        self._known.pop(subscription_id, None)
        if not known:
            raise UnknownSubscription(subscription_id)

    def forget(self, agent_types: Collection[str]) -> None:
        """Forget the subscriptions of types that were deleted with their app."""
        for known in [s for s in self._known.values() if s.agent_type in agent_types]:
            del self._known[known.id]

    def list(self, agent_type: str | None = None) -> list[TopicSubscription]:
        """Return the subscriptions, those of one agent type or all, oldest first."""
        return [s for s in self._known.values() if agent_type in {None, s.agent_type}]

    def expanded(self, handles: Handles) -> Iterator[Subscription]:
        """Go through them as snapshots have them; those of types that are not deployed rest."""
        for subscription in self._known.values():
            if subscription.agent_type in handles:
                yield from subscription.expanded(handles[subscription.agent_type])
