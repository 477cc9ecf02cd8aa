"""Messages that the host handles itself: runs, launches, pings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from agentray.errors import AgentMoved, ConfigurationError, IdempotencyConflict, NoHandler
from agentray.protocol.codec import decode, encode, encode_error
from agentray.protocol.cursors import Cursor
from agentray.protocol.envelope import Kind, ReplyKind, RunMode
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.webhooks import PREVIOUS_SECRET_H
from agentray.runtime.active_run import ActiveRun
from agentray.runtime.agent_stats import NO_COUNTERS
from agentray.runtime.failures import told_of
from agentray.runtime.outbox import Outbox
from agentray.runtime.requests import asked_type
from agentray.runtime.session_book import refusal
from agentray.runtime.state_changes import StateChanges
from agentray.runtime.turn import Turn
from agentray.schema import describe_agent_type
from agentray.store.base import NewRun, StoredRun
from agentray.store.webhooks import NewWebhook

if TYPE_CHECKING:
    from agentray.runtime.host import Host


class Control:
    """Handles control messages of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._handlers: dict[int, Callable[[Turn], Awaitable[None]]] = {
            Kind.RUN: self._run,
            Kind.ADMIT: self._admit,
            Kind.JOIN: self._join,
            Kind.WATCH: self._watch,
            Kind.INSPECT: self._inspect,
            Kind.LAUNCH: host.launching.handle,
            Kind.STATE: StateChanges(host).handle,
            Kind.DISPATCH: host.roots.admit,
            Kind.CANCEL_RUN: self._cancel_run,
        }
        self._at_once: dict[int, Callable[[Turn], None]] = {
            Kind.DISPATCH_ONCE: host.roots.begin,
            Kind.RUN_PARTS: host.parts.handle,
            Kind.RECORD: host.parts.take_record,
            Kind.STEP: host.steps.take,
            Kind.STEPS: host.steps.reports.handle,
        }

    def handle(self, turn: Turn) -> None:
        """Handle a message in a task of its own; what needs no waiting is done at once."""
        envelope = turn.envelope
        if envelope.kind == Kind.PING:
            turn.reply(ReplyKind.VALUE)
        elif envelope.kind == Kind.PROGRESS:
            self._host.telling.take(turn)
        elif envelope.kind == Kind.RUN and envelope.name == RunMode.FRESH:
            id_, agent, pool, slot, given, correlation_id, created_at, owner = decode(
                envelope.payload
            )
            new = NewRun(id_, agent, pool, slot, given, correlation_id, created_at, owner)
            self._begin(turn, StoredRun.fresh(new))
        elif (at_once := self._at_once.get(envelope.kind)) is not None:
            try:
                at_once(turn)
            except Exception as error:  # noqa: BLE001 - it may be unreadable here
                turn.fail(error)
        else:
            self._host.tasks.spawn(self._guarded(turn))

    async def _guarded(self, turn: Turn) -> None:
        if turn.cancelled:
            return  # before this task has begun; it is answered
        turn.task = asyncio.current_task()
        try:
            await self._handlers[turn.envelope.kind](turn)
        except asyncio.CancelledError:
            if not turn.cancelled:
                raise
            turn.reply(ReplyKind.CANCELLED)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender gets to know it
            turn.reply(ReplyKind.ERROR, encode_error(error))
        finally:
            turn.task = None  # what is answered later is cancelled without it

    # Runs

    def _begin(self, turn: Turn, stored: StoredRun) -> None:
        self.answer_at_end(turn, self._host.runs.begin(stored))

    async def _run(self, turn: Turn) -> None:
        run_id: str = decode(turn.envelope.payload)[0]
        mode = turn.envelope.name
        unbegun, answered = mode == RunMode.UNBEGUN, mode == RunMode.ANSWERED
        found = await self._host.runs.taking_up.take_up(
            run_id, unbegun=unbegun, answered=answered, agent=turn.envelope.target
        )
        if mode == RunMode.ENSURE or answered:
            turn.reply(ReplyKind.VALUE)
        else:
            self._answer_in_turn(turn, found)

    def _answer_in_turn(self, turn: Turn, found: ActiveRun | Run) -> None:
        """Answer with a run when it has ended, and before that its turn in its session has come."""
        if isinstance(found, Run) and found.session and found.status == RunStatus.QUEUED:
            self._host.sessions.wait(turn, found)
        else:
            self.answer_at_end(turn, found)

    def answer_at_end(
        self, turn: Turn, found: ActiveRun | Run, kind: ReplyKind = ReplyKind.VALUE
    ) -> None:
        """Answer with a run when it has ended."""

        def answer(run: Run | None) -> None:
            if run is None and turn.envelope.kind == Kind.DISPATCH_ONCE:
                reason = "the host that worked on the run had to give it up"
                turn.fail(AgentMoved(str(turn.envelope.target), reason, self._host.host_id))
            elif run is None:
                turn.reply(ReplyKind.MOVED)  # the sender asks the agent's next host
            else:
                turn.reply(kind, Run.__pydantic_serializer__.to_json(run))

        if isinstance(found, ActiveRun):
            found.on_end(answer)
        else:
            answer(found)

    async def _admit(self, turn: Turn) -> None:
        new, webhook = self._asked(decode(turn.envelope.payload))
        loaded, wanted = self._host.types.get(new.agent.type), asked_type(new.input)
        if loaded is None or wanted not in loaded.type.handlers:
            raise NoHandler(str(new.agent), wanted)
        if webhook is not None:
            await self._check_secret(webhook)
        admission = await self._host.runs.admit(new)
        if admission.conflict:
            raise IdempotencyConflict(new.idempotency_key or "", admission.run.id)
        if admission.refused is not None:
            raise refusal(new.session or "", admission)
        if webhook is not None:
            await self._host.store.put_webhook(replace(webhook, run_id=admission.run.id))
        if admission.held:
            self._host.sessions.wait(turn, admission.run)
        elif new.not_before is not None:
            # The manager gives it to a host when it is to begin.
            turn.reply(ReplyKind.VALUE, admission.run.model_dump_json().encode())
        elif admission.created:
            self._begin(turn, StoredRun.admitted(new, admission.run))
        else:
            self._answer_in_turn(turn, await self._host.runs.taking_up.take_up(admission.run.id))

    def _asked(self, told: NewRun | tuple[NewRun, NewWebhook]) -> tuple[NewRun, NewWebhook | None]:
        """Return the run that a driver wants, and whom it wants to be told of its end."""
        return (told, None) if isinstance(told, NewRun) else told

    async def _check_secret(self, webhook: NewWebhook) -> None:
        """Refuse a webhook that could not be signed, before its run is accepted.

        Raises:
            ConfigurationError: there is no such secret.
        """
        since = datetime.now(UTC) - timedelta(hours=PREVIOUS_SECRET_H)
        if await self._host.store.webhook_secrets_of("", webhook.secret, since) is None:
            raise ConfigurationError(
                f"There is no secret {webhook.secret!r} that signs webhooks: make it with "
                "`agentray webhooks secrets create`."
            )

    async def _join(self, turn: Turn) -> None:
        self._answer_in_turn(turn, await self._host.runs.find(decode(turn.envelope.payload)))

    async def _cancel_run(self, turn: Turn) -> None:
        self.answer_at_end(turn, await self._host.runs.cancel(decode(turn.envelope.payload)))

    async def _watch(self, turn: Turn) -> None:
        run_id, after, wait_s, *attempt = decode(turn.envelope.payload)
        runs = self._host.runs
        if attempt:  # who sends one sees also what is not kept yet
            events = await runs.live_events(run_id, Cursor(after, *attempt), wait_s)
        else:
            events = await runs.events(run_id, after, wait_s)
        turn.reply(ReplyKind.VALUE, encode(events))
        if isinstance(turn.sink, Outbox):
            turn.sink.hurry()

    # Agents

    async def _inspect(self, turn: Turn) -> None:
        host, agent_id = self._host, turn.envelope.target
        agent = host.find(agent_id)
        match turn.envelope.name:
            case "describe":
                told = describe_agent_type(host.types[agent_id.type].type)
            case "stats":
                told = NO_COUNTERS if agent is None else agent.counters()
            case _:
                told = host.residents.status_of(agent_id)
                if agent is None and (status := await host.launching.status_of(agent_id)):
                    told["status"] = status
                if agent_id in host.channel.snapshot.quarantined:
                    told |= await host.failures.told(agent_id)
                elif agent is None or agent.failure is not None:
                    failure = await host.failures.of(agent_id)
                    told |= {} if failure is None else told_of(failure)
        turn.reply(ReplyKind.VALUE, encode(told))
