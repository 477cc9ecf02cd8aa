"""What a driver without `await` does with runs and their traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from agentray.agent import Agent
from agentray.event_run import DurabilityName, OnErrorName
from agentray.events import Event
from agentray.ids import AgentId, TopicId
from agentray.protocol.attachments import Attachment
from agentray.protocol.budgets import Budget
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.sessions import PolicyName, Session, SessionPolicy
from agentray.protocol.traces import RunTrace, TraceSummary
from agentray.runtime.sync_event_run import SyncEventRun
from agentray.runtime.sync_part import SyncPart
from agentray.runtime.sync_schedules import SyncSchedules
from agentray.runtime.sync_sessions import SyncSessions


class SyncRuns(SyncPart):
    """What `RunClient` and `TraceClient` do, in methods that block."""

    def dispatch(  # noqa: PLR0913 - all that there is to say of a run
        self,
        event: Event,
        *,
        topic: TopicId | str | None = None,
        durability: DurabilityName = "run",
        on_error: OnErrorName = "fail",
        timeout: float | None = None,
        events: bool = True,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> SyncEventRun:
        """Publish an event, and return the run that it begins: all that it sets off."""
        run = self._wait(
            self._manager.dispatch(
                event,
                topic=topic,
                durability=durability,
                on_error=on_error,
                timeout=timeout,
                events=events,
                budget=budget,
                max_attempts=max_attempts,
                delay_s=delay_s,
                at=at,
            )
        )
        return SyncEventRun(run, self._loop)

    def cancel_run(self, run_id: str) -> Run:
        """End a run, of an event or a prompt, and return it when it has ended."""
        return self._wait(self._manager.cancel_run(run_id))

    def answer(
        self,
        run_id: str,
        answer: Any,
        *,
        question: str | None = None,
        timeout: float | None = None,
    ) -> Run:
        """Answer what a run waits to be told, and return it when it has ended or waits again."""
        return self._wait(self._manager.answer(run_id, answer, question=question, timeout=timeout))

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all runs that this connection dispatched have ended, but for later ones."""
        return self._wait(self._manager.wait_idle(timeout))

    def prompt(  # noqa: PLR0913 - all that there is to say of a run
        self,
        text: str,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        run_timeout_s: float | None = None,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        durability: PromptDurability = "run",
        delay_s: float | None = None,
        at: datetime | None = None,
        session: Session | str | None = None,
        policy: SessionPolicy | PolicyName = "enqueue",
        attachments: Sequence[Attachment] = (),
        output_schema: Mapping[str, Any] | type[BaseModel] | None = None,
    ) -> Run:
        """Give an agent a prompt and return the run when it has ended."""
        return self._wait(
            self._manager.prompt(
                text,
                agent=agent,
                timeout=timeout,
                idempotency_key=idempotency_key,
                run_timeout_s=run_timeout_s,
                budget=budget,
                max_attempts=max_attempts,
                durability=durability,
                delay_s=delay_s,
                at=at,
                session=session,
                policy=policy,
                attachments=attachments,
                output_schema=output_schema,
            )
        )

    def prune_runs(
        self,
        older_than: timedelta,
        *,
        status: RunStatus | str | None = None,
        dry_run: bool = False,
    ) -> dict[RunStatus, int]:
        """Forget runs that ended longer ago, with their events and traces."""
        return self._wait(self._manager.prune_runs(older_than, status=status, dry_run=dry_run))

    @property
    def sessions(self) -> SyncSessions:
        """Conversations: keyed agents, and the ordered runs of their prompts."""
        return SyncSessions(self._manager.sessions, self._loop)

    @property
    def schedules(self) -> SyncSchedules:
        """Prompts and events that are given again and again."""
        return SyncSchedules(self._manager.schedules, self._loop)

    def trace(self, run_id: str) -> RunTrace | None:
        """Return what a run set off: the messages that agents handled, each with its cause."""
        return self._wait(self._manager.trace(run_id))

    def traces(
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
        """Return the traces of runs, newest first, without their spans; `trace` has these."""
        return self._wait(
            self._manager.traces(
                agent_type=agent_type,
                event=event,
                correlation_id=correlation_id,
                since=since,
                until=until,
                errors=errors,
                limit=limit,
            )
        )
