"""The messages of runs that are durable per step, on one host.

Each is kept in the Store from the commit of the step that emitted it until the commit of the step
that handled it. What comes through the channel is a hint: it saves the look into the Store. Each
message is brought at most once. Who leases slots anew, and who learns that another host has died,
looks into the Store for what nobody brings; so does every host from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from agentray.errors import AgentQuarantined, AgentrayError, Fenced, StoreUnavailable
from agentray.event_loop import time_of_day
from agentray.event_payloads import payload_of
from agentray.events import Event
from agentray.ids import AgentId
from agentray.protocol.budgets import Usage
from agentray.protocol.codec import error_of, text_of
from agentray.protocol.envelope import (
    Envelope,
    Failure,
    Kind,
    Outcome,
    Reply,
    ReplyKind,
    envelope_of,
)
from agentray.protocol.event_runs import RunKey
from agentray.protocol.questions import Question
from agentray.protocol.runs import RunError, RunStatus
from agentray.runtime.held_messages import HeldMessages
from agentray.runtime.scope import Scope
from agentray.runtime.step_emissions import (
    Emissions,
    Emitted,
    StepPost,
    errors_of,
    events_of,
    longer,
    read_about,
    read_kept,
    read_name,
)
from agentray.runtime.step_reports import StepReports
from agentray.runtime.step_search import StepSearch
from agentray.runtime.step_turn import Message, StepTurn
from agentray.runtime.turn import Turn
from agentray.store.base import CommitOutcome, Effects, StateWrite
from agentray.store.steps import KeptMessage, Step, StepCommitted

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.incarnation import Incarnation

logger = logging.getLogger(__name__)

MAX_DEATHS = 8
"""Hosts that may be lost while they handle one message; then its run is `dead`. A host that it had
to leave before it was done, after the grace of a move, counts as well."""

ALONE_AFTER = 2
"""Deaths after which a message is handled while no other such one is: so each host that dies from
then on counts for the message that it dies of."""

MAX_TRIES = 8
"""Times that a message is handled anew on one host because of what others' deaths do to it."""

_QUARANTINED = AgentQuarantined.__name__
_RETRY_S = 0.5
_DONE_KEPT = 20_000
_STORE_RETRY_S = 0.5
_EVENT, _VALUE, _ERROR = int(Kind.EVENT), int(ReplyKind.VALUE), int(ReplyKind.ERROR)
_INFRASTRUCTURE = frozenset({"HostDied", "ChannelClosed", "AgentMoved", "StoreUnavailable"})
_NOT_NOW = _INFRASTRUCTURE | {"Overloaded", "PoolPending"}


class Steps:
    """Takes, handles and commits them. It is where the turns' replies go."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.active: dict[int, Turn] = {}
        self._known: dict[str, dict[int, StepTurn]] = {}  # by run and number
        self._turns: dict[int, StepTurn] = {}  # the same, by the ids of their envelopes
        self._held = HeldMessages(host)
        self._done: dict[Message, None] = {}  # the last ones
        self._tries: dict[Message, int] = {}
        self._next_id = 0
        self.waiting = 0  # not begun
        self._quiet: dict[str, list[asyncio.Future[None]]] = {}  # of runs
        self._suspect = asyncio.Lock()
        self.search = StepSearch(host, self)
        self.reports = StepReports(host)
        self.discarded = 0  # effects of messages that had been handled before

    # Leases

    def placed(self, same: Iterable[tuple[str, int]]) -> None:
        """Take note of new leases, and of hosts that are gone."""
        self.search.placed(same)
        self.reports.placed()

    def sweep(self, now: float) -> None:
        """Look for what nobody works on, every now and then."""
        if self.search.is_due(now):
            self._held.sweep()
            self.search.look()
            self.reports.sweep()

    # Taking

    def take(self, turn: Turn) -> None:
        """Take a message that another host, or this one, has committed just now."""
        envelope = turn.envelope
        turn.reply(_VALUE)
        if not self.search.keeps_back(envelope.target, envelope, turn.received):
            self.take_brought(envelope, turn.received)

    def take_brought(self, envelope: Envelope, received: float) -> None:
        """Take what a `StepPost` brought."""
        number, event_type, path = read_name(envelope.name)
        message = (RunKey.parse(envelope.run or "").run_id, number)
        if self._is_known(message):
            return
        event = envelope.payload
        if isinstance(event, str):
            try:
                event = Event.from_json(event)
            except AgentrayError:
                self.search.look(_RETRY_S)  # which says what is wrong with it
                return
        envelope = envelope._replace(kind=_EVENT, name=event_type, payload=event)
        self._offer(message, envelope, longer(path, event_type, envelope.target), received)

    def _take_own(self, emitted: Emitted, number: int, path: tuple[str, ...]) -> None:
        """Take a message that this host has committed for an agent of its own just now."""
        target, event, origin = emitted
        message = (RunKey.parse(origin.run or "").run_id, number)
        if self._is_known(message):
            return  # read from the Store meanwhile
        fields = (0, _EVENT, *target, event.event_type, payload_of(event), None, *origin)
        path = longer(path, event.event_type, target)
        self._offer(message, envelope_of(fields), path, self._host.now())

    def _is_known(self, message: Message) -> bool:
        of_run = self._known.get(message[0])
        if (of_run is not None and message[1] in of_run) or message in self._done:
            return True
        return message in self._held

    def _offer(
        self,
        message: Message,
        envelope: Envelope,
        path: tuple[str, ...],
        received: float,
        *,
        kept: bool = False,
    ) -> None:
        self._next_id += 1
        envelope = envelope_of((self._next_id, *envelope[1:]))
        turn = StepTurn(envelope, self, received, message, path)
        turn.kept = kept
        self._known.setdefault(message[0], {})[message[1]] = turn
        self._turns[turn.envelope.id] = turn
        self.waiting += 1
        self._host.deliver_turn(turn)

    def take_kept(self, message: KeptMessage) -> None:
        """Take a message that was read from the Store."""
        key = (message.run_id, message.number)
        if self._is_known(key) or not self._host.leases(message.agent):
            return
        about = read_about(message)
        try:
            event = read_kept(message)
        except AgentrayError as error:
            logger.error(
                "a message of run %s waits: %s",
                message.run_id,
                error,
                extra={"action": "message_unreadable", "agent": str(message.agent)},
            )
            return
        envelope = Envelope(
            0,
            _EVENT,
            *message.agent,
            event.event_type,
            event,
            correlation_id=event.correlation_id,
            cause_id=about.cause_id,
            sender=about.sender,
            root=about.root,
            trace_context=about.trace_context,
            run=about.run,
            access=about.access,
        )
        path = longer(about.path, event.event_type, message.agent)
        self._offer(key, envelope, path, self._host.now(), kept=True)

    # What becomes of a message

    def reply(
        self, message_id: int, kind: int, payload: Any = None, outcome: Outcome | None = None
    ) -> None:
        """Hear what became of a turn whose handler did not commit."""
        turn = self._turns.get(message_id)
        if turn is None:
            return  # it is committed
        if kind == _VALUE:
            self._failed(turn, outcome or Outcome())
        elif kind == _ERROR:
            error = error_of(Reply(0, kind, payload))
            if type(error).__name__ in _NOT_NOW:
                self._later(turn)
            else:
                agent = str(turn.envelope.target)
                told = Failure(type(error).__name__, text_of(error), agent, turn.path)
                self._failed(turn, Outcome(errors=(told,)))
        else:
            self._forget(turn)
            if kind == ReplyKind.MOVED and self._host.leases(turn.envelope.target):
                self.search.look(_RETRY_S)

    def _later(self, turn: StepTurn) -> None:
        """Handle a message again, after a while."""
        self._forget(turn)
        self.search.look(_RETRY_S)

    def _forget(self, turn: StepTurn) -> None:
        """A message is not in this host's hands any more."""
        run_id, number = turn.message
        self._turns.pop(turn.envelope.id, None)
        self.active.pop(turn.envelope.id, None)
        self._begun(turn)
        if turn.alone:
            turn.alone = False
            self._suspect.release()
        of_run = self._known.get(run_id)
        if of_run is None or of_run.get(number) is not turn:
            return
        del of_run[number]
        if not of_run:
            del self._known[run_id]
            for quiet in self._quiet.pop(run_id, ()):
                if not quiet.done():
                    quiet.set_result(None)

    def _begun(self, turn: StepTurn) -> None:
        if turn.begun:
            return
        turn.begun = True
        self.waiting -= 1
        self.search.has_room()

    def _is_done(self, turn: StepTurn) -> None:
        """A message was handled, and is not there any more."""
        self._done[turn.message] = None
        if len(self._done) > _DONE_KEPT:
            del self._done[next(iter(self._done))]
        if self._tries:
            self._tries.pop(turn.message, None)
        self._forget(turn)

    def _failed(self, turn: StepTurn, outcome: Outcome) -> None:
        """Let an error be one of the message's branch; not one that says nothing of it."""
        self._begun(turn)
        if outcome.errors and all(error.type in _INFRASTRUCTURE for error in outcome.errors):
            # Somebody whom its handler called has died, or could not write: it is handled again.
            tries = self._tries[turn.message] = self._tries.get(turn.message, 0) + 1
            if tries < MAX_TRIES:
                agent = self._host.find(turn.envelope.target)
                if agent is not None and turn.emissions.settles:
                    self._host.residents.let_go(agent)  # it shall gather what is held anew
                self._later(turn)
                return
        self._host.tasks.spawn(self._commit_failure(turn, outcome))

    async def _commit_failure(self, turn: StepTurn, outcome: Outcome) -> None:
        quarantined = next((e for e in outcome.errors if e.type == _QUARANTINED), None)
        if turn.kept and quarantined is not None:
            deaths = (await self._begin_kept(turn.message)).get(turn.message)
            if deaths:
                await self._give_up(turn, deaths, quarantined)
                return
        step = Step(
            turn.message[0],
            time_of_day(),
            handled=turn.message[1],
            settles=turn.emissions.settles,
            errors=errors_of(outcome, turn.path),
            events=events_of(turn.envelope.run or "", Emissions(), outcome),
            spent=_spent(turn, outcome),
        )
        try:
            committed, _ = await self.submit(self._effects(turn.envelope.target, (), step))
        except Fenced:
            self._forget(turn)
            return
        self._settle(turn)
        self._is_done(turn)
        self.reports.tell(turn.envelope, committed, outcome, handled=turn.message[1])

    # Handling

    async def begin(self, turn: StepTurn, scope: Scope) -> bool:
        """Let a message's handler begin; False: it must not."""
        scope.step = emissions = turn.emissions
        emissions.root, emissions.tell_spent = turn.envelope.root, self.reports.under_way
        self._begun(turn)
        if not turn.kept:
            return True
        attempts = (await self._begin_kept(turn.message)).get(turn.message)
        if attempts is None:
            self._is_done(turn)
            return False
        if attempts >= MAX_DEATHS:
            await self._give_up(turn, attempts)
            return False
        if attempts >= ALONE_AFTER:
            await self._suspect.acquire()
            turn.alone = True
        return True

    async def _begin_kept(self, message: Message) -> dict[Message, int]:
        while True:
            try:
                return await self._host.store.begin_messages(self._host.host_id, [message])
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "step_waits"})
                await asyncio.sleep(_STORE_RETRY_S)

    async def _give_up(self, turn: StepTurn, deaths: int, last: Failure | None = None) -> None:
        """End a run as dead because of a message that no host survives.

        Args:
            turn: the message.
            deaths: hosts that were lost with it.
            last: why it is not tried again; None: these were too many.
        """
        agent = turn.envelope.target
        what = f"{turn.envelope.name.rpartition('.')[2]} for {agent}"
        hosts = "1 host was" if deaths == 1 else f"{deaths} hosts were"
        text = f"Given up: {hosts} lost while they handled its {what}."
        if last is not None:
            text = f"{text} {last.message}"
        kind = "HostDied" if last is None else last.type
        error = RunError(type=kind, message=text, agent=str(agent), path=turn.path)
        step = Step(turn.message[0], time_of_day(), drops=RunStatus.DEAD, errors=[error])
        committed, _ = await self.submit(self._effects(agent, (), step))
        self._is_done(turn)
        self.reports.tell(turn.envelope, committed, Outcome())

    async def commit(self, agent: Incarnation, turn: StepTurn, scope: Scope) -> None:
        """Commit what a handler did, as a whole; then send what it emitted.

        Raises:
            Fenced: the agent lives elsewhere; nothing was written.
            StateRefused: its state cannot be kept; nothing was written.
        """
        if not scope.idle:
            await self._until_published(scope)
        if turn.envelope.id not in self._turns:
            return  # it was done with another message, which it has waited for
        await self._host.telling.until_kept(turn.message[0])
        outcome = scope.outcome()
        emissions = turn.emissions
        step = Step(
            turn.message[0],
            time_of_day(),
            handled=turn.message[1],
            holds=self._held.add(agent, turn.message) if emissions.holds else None,
            settles=emissions.settles,
            emitted=emissions.new,
            answer=outcome.answer,
            closes=emissions.closed,
            errors=errors_of(outcome, turn.path),
            events=events_of(turn.envelope.run or "", emissions, outcome),
            recorded=bool(emissions.events),
            spent=_spent(turn, outcome),
            asked=[Question.model_validate(each) for each in outcome.questions],
        )
        committed, interrupted = await agent.commit_step(
            turn, lambda states: self._effects(agent.id, states, step)
        )
        self._handled(agent, turn, committed)
        if committed.outcome is CommitOutcome.COMMITTED:
            self._send(emissions, committed)
            told = emissions.answered(outcome)
            self.reports.tell(turn.envelope, committed, outcome, told, turn.message[1])
        if interrupted and not turn.cancelled:
            raise asyncio.CancelledError  # the task was; the message is done

    def _handled(self, agent: Incarnation, turn: StepTurn, committed: StepCommitted) -> None:
        """Note that a message was handled, or had been before."""
        if committed.outcome is CommitOutcome.GONE:
            self.discarded += 1
            self._held.discard(turn.message)
            agent.discard(turn)
            self._is_done(turn)
            return
        self._settle(turn)
        if turn.emissions.holds:
            self._forget(turn)
            if self._held.take_incomplete():
                self.search.look()  # for what an earlier life of the agent had held
        else:
            self._is_done(turn)

    async def commit_call(self, agent: Incarnation, turn: Turn, scope: Scope) -> None:
        """Commit what an action emitted that a handler of such a run has called, and its state.

        Raises:
            Fenced, StateRefused: as `commit`.
        """
        emissions = scope.step
        if emissions is None or emissions.empty:
            await agent.commit_state(turn)
            return
        scope.step = None
        run_id = RunKey.parse(turn.envelope.run or "").run_id
        outcome = scope.outcome()
        step = Step(
            run_id,
            time_of_day(),
            emitted=emissions.new,
            answer=outcome.answer,
            closes=emissions.closed,
            events=emissions.events,
            recorded=True,
        )
        committed, interrupted = await agent.commit_step(
            turn, lambda states: self._effects(agent.id, states, step)
        )
        self._send(emissions, committed)
        self.reports.tell(turn.envelope, committed, Outcome(), emissions.answered(outcome))
        if interrupted:
            raise asyncio.CancelledError

    async def _until_published(self, scope: Scope) -> None:
        """Wait until everything is published that waits for middleware."""
        published: asyncio.Future[None] = self._host.loop.create_future()
        scope.on_done(lambda _: None if published.done() else published.set_result(None))
        await published

    def _settle(self, turn: StepTurn) -> None:
        """Messages are done with another one; what handles them still commits nothing."""
        run_id = turn.message[0]
        for number in turn.emissions.settles:
            self._held.discard((run_id, number))
            settled = self._known.get(run_id, {}).get(number)
            if settled is not None:
                self._is_done(settled)
            else:
                self._done[run_id, number] = None

    def _send(self, emissions: Emissions, committed: StepCommitted) -> None:
        """Bring what was emitted to its agents' hosts."""
        # Without a look at each: none is kept back, by a search or by slots that leave.
        at_once = self.search.takes_all and not self._host.departures.closing
        kept = zip(emissions.messages, emissions.new, committed.numbers, strict=True)
        for emitted, new, number in kept:
            if number is None:
                self._host.parts.undelivered += 1
            elif at_once and self._host.leases(emitted.target):
                self._take_own(emitted, number, emissions.path)
            else:
                event = new.event if self._reads(emitted) else payload_of(emitted.event)
                post = StepPost(emitted, number, emissions.path, event)
                self._host.channel.post(post)

    def _reads(self, emitted: Emitted) -> bool:
        """Whether each host of an agent knows the class of an event: its type handles it."""
        loaded = self._host.types.get(emitted.target.type)
        return loaded is not None and emitted.event.event_type in loaded.type.handlers

    def _effects(self, agent: AgentId, states: Sequence[StateWrite], step: Step) -> Effects:
        pool, slot = self._host.lease_of(agent)
        return Effects(pool, slot, self._host.epoch(pool, slot), states, step=step)

    async def submit(self, effects: Effects) -> tuple[StepCommitted, bool]:
        """Commit effects with a step; return what became of them, and whether this was cancelled.

        Raises:
            Fenced: this host does not lease the slot; nothing was written.
            AgentrayError: it cannot be written.
        """
        interrupted = again = False
        while True:
            answer = self._host.commits.put(effects)
            while not answer.done():
                try:
                    await _until_done(answer)
                except asyncio.CancelledError:
                    interrupted = True  # what became of it must be known first
            try:
                # Batches with steps have such results.
                committed = cast("StepCommitted", answer.result())
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "step_waits"})
                await asyncio.sleep(_STORE_RETRY_S)
                again = True
                continue
            break
        if committed.outcome is CommitOutcome.FENCED:
            raise Fenced
        if again and committed.outcome is CommitOutcome.GONE:
            # The first try may have come through: nobody was told what it emitted.
            self.search.look()
        return committed, interrupted

    # Runs

    async def begin_run(self, effects: Effects, emissions: Emissions) -> StepCommitted:
        """Commit the beginning of a run, and send what it begins with.

        Raises:
            Fenced: another host works on it.
        """
        committed, _ = await self.submit(effects)
        if committed.outcome is CommitOutcome.COMMITTED:
            self._send(emissions, committed)
        return committed

    async def until_quiet(self, run_ids: Iterable[str]) -> None:
        """Wait until nothing of some runs is under way here."""
        for run_id in run_ids:
            if run_id in self._known:
                quiet: asyncio.Future[None] = self._host.loop.create_future()
                self._quiet.setdefault(run_id, []).append(quiet)
                await quiet

    def close(self) -> None:
        """Look no more, and report nothing more."""
        self.reports.close()
        self.search.close()


def _spent(turn: StepTurn, outcome: Outcome) -> Sequence[tuple[int, Usage]]:
    """Return what a message has used, as its commit has it."""
    return () if outcome.spent is None else [(turn.message[1], outcome.spent)]


async def _until_done(answer: asyncio.Future[Any]) -> None:
    """Wait for a future, which goes on when this is cancelled; a third of what `wait` costs."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_: asyncio.Future[Any]) -> None:
        if not done.done():
            done.set_result(None)

    answer.add_done_callback(tell)
    try:
        await done
    finally:
        answer.remove_done_callback(tell)
