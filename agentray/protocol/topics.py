"""Subscriptions to topics that were made at run time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from agentray.protocol.snapshot import Subscription


@dataclass(frozen=True, slots=True)
class TopicSubscription:
    """Events on a topic go to agents of a type, since somebody said so at run time.

    Attributes:
        id: to take it back by.
        agent_type: who gets them.
        topic: the type of the topics, or with a `*` behind it what they begin with.
        event_type: only events of this class, by its name; None: all that the agents handle.
        key: how the instance is chosen: `topic`, `correlation`, `field:NAME`, `any:N` or `key:KEY`.
        created_at: when it was made.
    """

    id: str
    agent_type: str
    topic: str
    event_type: str | None
    key: str
    created_at: datetime

    @property
    def wish(self) -> tuple[str, str, str | None, str]:
        """What it asks for: two that ask for the same are one."""
        return self.agent_type, self.topic, self.event_type, self.key

    def expanded(self, handles: Iterable[tuple[str, bool]]) -> Iterator[Subscription]:
        """Return it as one subscription for each event type.

        Args:
            handles: the event types that the agents have handlers for, and whether also for their
                subclasses.
        """
        known = dict(handles)
        for event_type in known if self.event_type is None else (self.event_type,):
            yield Subscription(
                event_type,
                self.agent_type,
                self.key,
                topic=self.topic,
                subclasses=known.get(event_type, False),
                id=self.id,
            )
