"""Branches of a conversation that fail, and say so to those who wait for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agentray.agent import Agent
from agentray.errors import HostDied
from agentray.events import Event
from agentray.patterns.emitted import emitted

A = TypeVar("A", bound=Agent)


class BranchFailed(Event):
    """There will be no event of a type, because who should have sent it has failed.

    Attributes:
        instead_of: name of the event's type (`TextSummarised.event_type`).
        agent: who failed, as type/key.
        error: its type and message.
    """

    instead_of: str
    agent: str = ""
    error: str = ""


def reports_failure(
    event: type[Event],
) -> Callable[[Callable[[A, Any], Any]], Callable[[A, Any], Coroutine[Any, Any, list[Event]]]]:
    """Let a handler that raises publish `BranchFailed` instead of failing the run.

    Aggregators that wait for `event` hear of it at once. What the handler yielded before the error
    is published before it. The error is logged. An error that says nothing about the branch itself
    (`HostDied`) is raised as ever: a run that meets it is tried again.

    ::

        @on(TextSubmitted)
        @reports_failure(TextSummarised)
        async def summarise(self, submitted: TextSubmitted) -> TextSummarised: ...

    Args:
        event: what the handler would have sent.
    """

    def mark(
        function: Callable[[A, Any], Any],
    ) -> Callable[[A, Any], Coroutine[Any, Any, list[Event]]]:
        @functools.wraps(function)
        async def branch(self: A, cause: Event) -> list[Event]:
            events: list[Event] = []
            try:
                await emitted(function(self, cause), function.__qualname__, events)
            except HostDied:
                raise
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                self.context.log.warning(
                    "%s failed: %s",
                    function.__qualname__,
                    told,
                    exc_info=error,
                    extra={"action": "branch_failed"},
                )
                agent = str(self.id)
                events.append(BranchFailed(instead_of=event.event_type, agent=agent, error=told))
            return events

        return branch

    return mark
