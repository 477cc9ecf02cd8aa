"""What a driver does with runs: prompt, dispatch, answer, cancel, schedule, prune."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from agentray.agent import Agent
from agentray.core.delays import begin_at
from agentray.core.lifecycle import TERMINAL
from agentray.core.output_schemas import schema_of
from agentray.errors import ConfigurationError, DeadlineExceeded, SessionChanged
from agentray.event_loop import time_of_day
from agentray.event_run import DurabilityName, EventRun, OnErrorName, settle_run
from agentray.events import Event
from agentray.ids import AgentId, TopicId, new_id
from agentray.protocol.attachments import ATTACHMENTS, OUTPUT_SCHEMA, Attachment, as_input
from agentray.protocol.budgets import Budget
from agentray.protocol.codec import as_json, encode
from agentray.protocol.envelope import Kind
from agentray.protocol.event_runs import Durability, PromptDurability
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.sessions import (
    ACCESS,
    SESSION,
    PolicyName,
    Session,
    SessionPolicy,
    check_policy,
)
from agentray.protocol.webhooks import WebhookSpec
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.dispatching import (
    Dispatches,
    check_durability,
    check_limits,
    check_timeout,
)
from agentray.runtime.request_client import RequestClient
from agentray.runtime.schedule_client import ScheduleClient
from agentray.runtime.session_client import SessionClient
from agentray.runtime.spans import sending
from agentray.runtime.watcher import ManagerPort
from agentray.store.base import NewRun, run_input
from agentray.store.webhooks import NewWebhook


class RunClient:
    """Runs: a part of `ManagerClient`."""

    _manager: ManagerPort
    _channel: Channel
    _dispatcher: ChannelDispatcher
    _dispatches: Dispatches

    async def dispatch(  # noqa: PLR0913 - all that there is to say of a run
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
    ) -> EventRun:
        """Publish an event, and return the run that it begins: all that it sets off.

        Args:
            event: the root of the run. Its correlation id, if it has none, is the run's id.
            topic: that it is about; None: its own, if it was made with one.
            durability: `run`: it is kept before this returns, and begins again when a host dies.
                `step`: what its handlers emit is kept, too, and it goes on after the last commit.
                `none`: it is kept at its end, and a host's death fails it with `HostDied`.
            on_error: `fail`: an error in a branch fails the run. `collect`: the run succeeds, and
                `run.errors` tells them.
            timeout: seconds after which the run is ended as `timed_out`; None: never.
            events: keep the events of the run, for `run.events()`.
            budget: what the run may use; beyond it, it ends as `budget_exceeded`.
            max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
            delay_s: seconds after which it begins; it is kept before this returns.
            at: when it begins, an aware time; None: at once.

        Raises:
            StoreUnavailable: the run was not kept.
            DeploymentStopped, Overloaded: not now.
            PayloadError: the event cannot be serialised.
        """
        return await self._dispatches.dispatch(
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

    async def cancel_run(self, run_id: str) -> Run:
        """End a run, of an event or a prompt, and return it when it has ended.

        Its handlers are cancelled, on all hosts, and what waits is withdrawn. A run that has ended
        already stays as it is; one that no host works on is ended without any.

        Raises:
            UnknownRun: there is none of this id.
        """
        if (run := self._dispatches.find(run_id)) is not None:
            return await run.cancel()
        return await self._manager.call("cancel_run", run_id)

    async def answer(
        self,
        run_id: str,
        answer: Any,
        *,
        question: str | None = None,
        timeout: float | None = None,
    ) -> Run:
        """Answer what a run waits to be told, and return it when it has ended or waits again.

        Args:
            run_id: the run.
            answer: JSON values, or what has a JSON form, such as a pydantic model.
            question: id of the question; None: the one that the run asks now.
            timeout: seconds to wait; None: as long as it takes. The run goes on after it.

        Raises:
            UnknownRun: there is none of this id.
            NotWaiting: it does not wait, or not for this question; the same answer to the same
                question again is none.
            AnswerInvalid: the answer is not what the question wants.
            DeadlineExceeded: it has not ended yet.
        """
        told = as_json(answer, "answer")
        run: Run = await self._manager.call("answer_run", run_id, told, question, new_id("key"))
        try:
            async with asyncio.timeout(timeout):
                return await settle_run(self._channel, run)
        except TimeoutError:
            raise DeadlineExceeded(f"Run {run_id}", timeout) from None

    async def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all runs that this connection dispatched have ended, but for later ones.

        Args:
            timeout: seconds; None: as long as it takes.

        Returns:
            Whether they have.
        """
        return await self._dispatches.wait_idle(timeout)

    async def prompt(  # noqa: PLR0913 - all that there is to say of a run
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
        webhook: WebhookSpec | None = None,
    ) -> Run:
        """Give an agent a prompt and return the run when it has ended, or waits for an answer.

        The run is accepted before it begins: when this call is cancelled or the driver ends, the
        run goes on.

        Args:
            text: the prompt.
            agent: a type, a `type/key`, or None for the entry of the deployed app. Without a key,
                an instance of its own takes the run.
            timeout: seconds to wait for the end; None: as long as it takes.
            idempotency_key: the same key and text find the same run again, for 24 hours.
            run_timeout_s: seconds from now, or from when it is to begin, after which the run is
                ended as `timed_out`, wherever it is then; None: never.
            budget: what the run may use; beyond it, it ends as `budget_exceeded`. What it does not
                limit the agent type's own budget does.
            max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
            durability: `run`: it begins again when a host dies. `step`: it goes on after the last
                commit.
            delay_s: seconds after which the run begins. Then this returns as soon as it is kept,
                with the run as `queued` and its `not_before`.
            at: when the run begins, an aware time; the same otherwise.
            session: in which it is given: its agent takes it, after the session's earlier runs.
            policy: what happens while one of these is under way: `enqueue`: it waits; `reject`: it
                is refused; `interrupt`: that one is cancelled; `rollback`: the same, and the
                agent's state goes back to what it was before it.
            attachments: files that the agent is given with it.
            output_schema: JSON Schema of the result, or a pydantic model: the agent is told, and a
                result that does not fit it ends the run as failed with `OutputInvalid`.
            webhook: whom to tell when it has ended, by a gateway of the cluster. Its address is
                looked at when it is sent.

        Raises:
            OutputSchemaInvalid: results cannot be checked against the schema.
            ConfigurationError: one of the limits is wrong, the durability, or the policy; or a
                session is given with an agent or a time.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take it.
            UnknownSession: there is no such session.
            SessionBusy: a run is under way in it, and the policy is `reject`.
            IdempotencyConflict: the key was used with another text.
            DeadlineExceeded: it has not ended yet; it goes on.
        """
        check_timeout("run_timeout_s", run_timeout_s)
        run_id, now = new_id("run"), time_of_day()
        not_before = begin_at(delay_s, at, now)
        if session is not None and (agent is not None or not_before is not None):
            raise ConfigurationError(
                "A prompt in a session has no agent, delay_s or at of its own."
            )
        type_name, key = _prompt_target(agent)
        check_limits(budget, max_attempts)
        check_durability(durability, (Durability.RUN, Durability.STEP))
        given = run_input(
            text,
            None,
            timeout_s=run_timeout_s,
            budget=budget,
            max_attempts=max_attempts,
            durability=durability,
        ) | _extras(attachments, output_schema, durability)
        later = "" if not_before is None else f"{delay_s}|{at}|"
        if webhook is not None:
            later += f"{webhook.model_dump_json()}|"
        new = NewRun(
            run_id,
            AgentId("", ""),
            "",
            0,
            given,
            run_id,
            now,
            owner="driver",
            idempotency_key=idempotency_key,
            digest=_digest(f"{later}{type_name}/{key}", given),
            not_before=not_before,
        )
        if session is None:
            return await self._admit(new, type_name, key, timeout, webhook)
        new = replace(new, policy=check_policy(policy))
        return await self._admit_in(session, new, timeout, webhook)

    async def _admit_in(
        self,
        session: Session | str,
        new: NewRun,
        timeout: float | None,
        webhook: WebhookSpec | None,
    ) -> Run:
        """Give a session's agent a prompt."""
        session_id = session if isinstance(session, str) else session.id
        asked = {**new.input, SESSION: session_id, "policy": new.policy.value}
        new = replace(new, digest=_digest("", asked))
        while True:
            found = await self.sessions.get(session_id)
            given = {**new.input, SESSION: found.id, ACCESS: found.access_level.value}
            try:
                agent = AgentId.parse(found.agent)
                return await self._admit(replace(new, input=given), *agent, timeout, webhook)
            except SessionChanged:
                continue  # its access level was changed in this very moment

    async def _admit(
        self,
        new: NewRun,
        type_name: str | None,
        key: str | None,
        timeout: float | None,
        webhook: WebhookSpec | None,
    ) -> Run:
        """Hand a new run to the host of its agent, which admits it; return it when it has ended."""
        place = self._dispatcher.place(type_name, key, new.id)
        new = replace(new, agent=place.agent, pool=place.pool, slot=place.slot)
        with sending(place.agent, "prompt", new.id) as traceparent:
            if traceparent is not None:
                new = replace(new, input={**new.input, "traceparent": traceparent})
            asked = new if webhook is None else (new, _kept(webhook, new))
            ended = await self._channel.request(
                Kind.ADMIT, place.agent, "", encode(asked), timeout=timeout
            )
        return Run.model_validate_json(ended)

    async def prune_runs(
        self,
        older_than: timedelta,
        *,
        status: RunStatus | str | None = None,
        dry_run: bool = False,
    ) -> dict[RunStatus, int]:
        """Forget runs that ended longer ago, with their events and traces.

        Args:
            older_than: since their end; at least a day, in which idempotency keys find them.
            status: only those of this terminal status.
            dry_run: only count them.

        Returns:
            How many, by status; only statuses that occur.

        Raises:
            ConfigurationError: it is less than a day, or the status is none in which runs end.
        """
        if status is not None and status not in TERMINAL:
            known = ", ".join(sorted(TERMINAL))
            raise ConfigurationError(f"status={status!r}: write one of {known}.")
        if not timedelta(days=1) <= older_than <= timedelta(days=36_500):
            raise ConfigurationError(f"older_than={older_than!r}: write a day or more.")
        statuses = sorted(TERMINAL) if status is None else [RunStatus(status)]
        seconds = older_than.total_seconds()
        return await self._manager.call("prune_runs", seconds, statuses, dry_run)

    @property
    def sessions(self) -> SessionClient:
        """Conversations: keyed agents, and the ordered runs of their prompts."""
        return SessionClient(self._manager)

    @property
    def requests(self) -> RequestClient:
        """Typed requests, each of which is a job."""
        return RequestClient(self._manager, self._channel, _prompt_target)

    @property
    def schedules(self) -> ScheduleClient:
        """Prompts and events that are given again and again."""
        return ScheduleClient(self._manager)


def _extras(
    attachments: Sequence[Attachment],
    output_schema: Mapping[str, Any] | type[BaseModel] | None,
    durability: PromptDurability,
) -> dict[str, Any]:
    """Return what else an agent is given with a prompt.

    Raises:
        ConfigurationError: the result of such a run is not checked.
        OutputSchemaInvalid: results cannot be checked against the schema.
    """
    given: dict[str, Any] = {}
    if attachments:
        given[ATTACHMENTS] = as_input(attachments)
    if output_schema is not None:
        if durability == Durability.STEP:
            raise ConfigurationError(
                "The result of a run that is durable per step is not checked: leave out "
                "output_schema."
            )
        given[OUTPUT_SCHEMA] = schema_of(output_schema)
    return given


def _kept(webhook: WebhookSpec, new: NewRun) -> NewWebhook:
    events = None if webhook.events is None else tuple(event.value for event in webhook.events)
    return NewWebhook(
        new_id("wh"), new.id, new.owner, webhook.url, events, webhook.secret, new.created_at
    )


def _digest(target: str, given: Mapping[str, Any]) -> str:
    """Return a hash of what is asked of whom, and how."""
    asked = f"{target}:{json.dumps(given, sort_keys=True)}"
    return hashlib.sha256(asked.encode()).hexdigest()


def _prompt_target(agent: AgentId | type[Agent] | str | None) -> tuple[str | None, str | None]:
    match agent:
        case None:
            return None, None
        case AgentId(type_name, key):
            return type_name, key
        case str() if "/" in agent:
            return AgentId.parse(agent)
        case str():
            return agent, None
        case _:
            return agent.agent_type.name, None
