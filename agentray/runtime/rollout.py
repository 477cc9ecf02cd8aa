"""Rollouts: while hosts with new code replace those with old, only what both handle is routed.

A subscription that comes with the new code would reach agents that have no handler for it yet, and
one that goes with the old code would reach agents that have none any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentray.protocol.deployment import AppSpec, TypeSpec
from agentray.protocol.snapshot import Subscription


@dataclass(frozen=True, slots=True)
class Routed:
    """What is routed to the agents of an app.

    Attributes:
        subscriptions: of its classes.
        handles: of each of its agent types, the event types, and whether also for subclasses.
    """

    subscriptions: Sequence[Subscription]
    handles: Mapping[str, Sequence[tuple[str, bool]]]

    def both(self, other: Routed) -> Routed:
        """Return what agents of this code and of another one handle alike."""
        handles = {
            name: [handled for handled in of_type if handled in other.handles.get(name, ())]
            for name, of_type in self.handles.items()
        }
        events = {(name, event) for name, of_type in handles.items() for event, _ in of_type}
        kept = [s for s in self.subscriptions if (s.agent_type, s.event_type) in events]
        return Routed(kept, handles)


def routed_of(spec: AppSpec) -> Routed:
    """Return what an app's code wants."""
    subscriptions = [Subscription(*fields) for fields in spec.subscriptions]
    handles: dict[str, Sequence[tuple[str, bool]]] = {}
    for of_type in (TypeSpec(*fields) for fields in spec.types):
        # An older version has kept the subscriptions only.
        handles[of_type.name] = of_type.handles or [
            (s.event_type, False) for s in subscriptions if s.agent_type == of_type.name
        ]
    return Routed(subscriptions, handles)


class Rollouts:
    """The apps whose hosts are being replaced."""

    def __init__(self) -> None:
        self._before: dict[str, Routed] = {}

    def begin(self, old: AppSpec, new: AppSpec) -> None:
        """Note that an app's code is replaced, maybe once more."""
        before = self._before.get(old.name) or routed_of(old)
        self._before[old.name] = before.both(routed_of(new))

    def end(self, app: str) -> None:
        """Note that all hosts have an app's code; harmless when they had it before."""
        self._before.pop(app, None)

    def routed(self, spec: AppSpec, all_new: Callable[[], bool]) -> Routed:
        """Return what is routed to an app's agents now.

        Args:
            spec: of the app.
            all_new: whether all its agents live on hosts with this code.
        """
        before = self._before.get(spec.name)
        if before is not None and not all_new():
            return before
        self.end(spec.name)
        return routed_of(spec)
