"""What a driver asks about traces of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agentray.agent import Agent
from agentray.events import Event
from agentray.protocol.traces import RunTrace, TraceQuery, TraceSummary
from agentray.runtime.watcher import ManagerPort


class TraceClient:
    """Traces: a part of `ManagerClient`."""

    _manager: ManagerPort

    async def trace(self, run_id: str) -> RunTrace | None:
        """Return what a run set off: the messages that agents handled, each with its cause.

        Returns:
            None when the run has not ended, and when its trace was dropped or is forgotten.

        Raises:
            UnknownRun: there is none of this id.
        """
        return await self._manager.call("trace", run_id)

    async def traces(
        self,
        *,
        agent_type: type[Agent] | str | None = None,
        event: type[Event] | str | None = None,
        correlation_id: str | None = None,
        since: datetime | timedelta | None = None,
        until: datetime | None = None,
        errors: bool | None = None,
        limit: int = 50,
    ) -> list[TraceSummary]:
        """Return the traces of runs, newest first, without their spans; `trace` has these.

        Args:
            agent_type: one of its agents took part.
            event: a type of event, with or without its module, or the name of an action.
            correlation_id: of the conversation.
            since: begun then or later; or how long ago at most.
            until: begun before that.
            errors: whether something in them failed.
            limit: most of them.
        """
        if isinstance(since, timedelta):
            since = datetime.now(UTC) - since
        query = TraceQuery(
            correlation_id=correlation_id,
            agent_type=None if agent_type is None else _type_name(agent_type),
            event=event.event_type if isinstance(event, type) else event,
            since=since,
            until=until,
            errors=errors,
        )
        return await self._manager.call("traces", query, limit)


def _type_name(agent_type: type[Agent] | str) -> str:
    return agent_type if isinstance(agent_type, str) else agent_type.agent_type.name
