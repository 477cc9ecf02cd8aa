"""One activation of an agent in a host's memory: its start, its turns, its state, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentray import context as contexts
from agentray.agent import Agent, AgentOptions, AgentType, bind
from agentray.context import Context
from agentray.core.mailbox import FairMailbox, Mailbox, Offer
from agentray.errors import AgentFailed, AgentrayError, Fenced, Overloaded
from agentray.ids import AgentId
from agentray.protocol.envelope import Kind, Outcome, ReplyKind
from agentray.runtime import state as states
from agentray.runtime.agent_stats import AgentStats
from agentray.runtime.flight_record import mark_of
from agentray.runtime.handling import handle
from agentray.runtime.savepoints import Savepoint, Savepoints
from agentray.runtime.tasks import being_cancelled, let_out_cancellation
from agentray.runtime.turn import Turn
from agentray.store.base import CommitOutcome, Effects, StateWrite
from agentray.store.steps import StepCommitted

if TYPE_CHECKING:
    from agentray.runtime.active_run import ActiveRun
    from agentray.runtime.host import Host

# Members of an enum are looked up through its class, which shows at this rate.
_TELL, _LAUNCH, _VALUE = int(Kind.TELL), int(Kind.LAUNCH), int(ReplyKind.VALUE)
_EVENT = int(Kind.EVENT)
_RUN, _REFUSED = Offer.RUN, Offer.REFUSED

_CLEAN_UP_S = 10.0
"""How long an `on_stop` may take."""

_TURNS_BEFORE_YIELD = 32
"""Turns after which a busy agent lets others run: handlers that never wait would starve them."""


class _RunsInTurn(FairMailbox[Turn]):
    """A mailbox in which a run's messages do not hold back those of other runs."""

    __slots__ = ()

    def run_of(self, message: Turn) -> str | None:
        """Return the conversation of a message; see `FairMailbox`."""
        return message.envelope.correlation_id


def _mailbox(options: AgentOptions) -> Mailbox[Turn]:
    make = _RunsInTurn if options.fair_runs else Mailbox[Turn]
    return make(options.concurrency, options.mailbox)


class Incarnation:
    """An agent in memory. A few hundred bytes while it is idle."""

    __slots__ = (
        "_agent",
        "_busy",
        "_committed",
        "_early",
        "_ended",
        "_mailbox",
        "_outer",
        "_quiet",
        "_savepoints",
        "failure",
        "host",
        "id",
        "keeps_nothing",
        "leaving",
        "mark",
        "refusal",
        "since",
        "stats",
        "type",
        "used",
    )

    def __init__(self, agent_id: AgentId, agent_type: AgentType, host: Host, now: float) -> None:
        self.id = agent_id
        self.type = agent_type
        # Whether what it handles has nothing to commit, to hook in and to make a span of.
        plain = agent_type.hooks is None and not agent_type.keeps_state
        self.keeps_nothing = plain and host.spans is None
        self.failure: str | None = None  # why it could not be started
        self.refusal: AgentrayError | None = None  # what every further message gets
        self.leaving = False  # it is being ended
        self.mark = mark_of(agent_id)  # in the flight record of its host
        self.since = now
        self.stats = AgentStats()
        self.used = now
        self.host = host
        self._agent: Agent | None = None
        self._mailbox = _mailbox(agent_type.options)
        self._early: list[Turn] | None = []  # what came before it was ready; None: it is
        self._busy = 0
        self._quiet: asyncio.Future[None] | None = None  # somebody waits for it to be idle
        self._committed: bytes | None = None  # its state as the Store has it
        self._ended: asyncio.Future[None] | None = None  # its clean-up
        self._outer: Turn | None = None  # where turns do not interleave: the one not committed yet
        self._savepoints: Savepoints | None = None  # of turns that came back to it

    @property
    def idle(self) -> bool:
        """Whether it does nothing and nothing waits for it; failed, it is; starting, it is not."""
        settled = self._early is None or self.refusal is not None
        return self.quiet and settled and not self._mailbox and not self.leaving

    @property
    def quiet(self) -> bool:
        """Whether it does nothing."""
        return self._busy == 0

    @property
    def leaves_at_once(self) -> bool:
        """Whether nothing has to be done before it may leave memory."""
        kind = self.type
        return not (self.cleans_up or kind.background or kind.cls.on_idle is not Agent.on_idle)

    @property
    def status(self) -> str:
        """`starting`, `running`, `idle`, `stopping`, `stopped` or `failed`."""
        if self.failure is not None:
            return "failed"
        if self.refusal is not None:
            return "stopping" if self.leaving else "stopped"
        if self._early is not None:
            return "starting"
        return "running" if self._busy else "idle"

    @property
    def queued(self) -> int:
        """How many messages wait."""
        return len(self._mailbox) + len(self._early or ())

    def counters(self) -> dict[str, Any]:
        """Return what it has counted, and what it does now, as JSON."""
        stats = self.stats
        return {
            "queued": self.queued,
            "running": self._busy,
            "completed": stats.completed,
            "failed": stats.failed,
            "restarts": stats.restarts,
            "missed_ticks": stats.missed_ticks,
            "last_error": stats.last_error,
        }

    @property
    def early(self) -> Sequence[Turn]:
        """What waits until it has been started."""
        return self._early or ()

    # Start

    def configure(self, options: AgentOptions) -> None:
        """Give it options of its own, before it begins."""
        self.type = replace(self.type, options=options)
        self._mailbox = _mailbox(options)

    def begin(self, agent: Agent, state: StateWrite | None) -> None:
        """Give it its object and its kept state."""
        bind(agent, self.id, self.host.channel)
        self._agent = agent
        if self.type.keeps_state:
            self._committed = states.take_in(agent, self.type, state)

    def begun(self) -> None:
        """Note its state after `on_start`, where only the agent itself knows what that is."""
        if self.type.saves_by_itself and self._committed is None:
            self._committed = states.dump(self.agent, self.type)

    def ready(self) -> None:
        """Let the messages in that came meanwhile."""
        early, self._early = self._early or [], None if self.refusal is None else []
        for turn in early:
            if turn.envelope.kind:
                self.offer(turn)
            else:
                self.offer_own(turn)
        if self.type.background and self.refusal is None and not self.leaving:
            self.host.background.start(self)

    def fail(self, reason: str) -> None:
        """Give up starting it; what waits for it, and what still comes, gets the reason."""
        self.failure = reason
        self._agent = None  # what has not started is not cleaned up
        self.refuse(AgentFailed(str(self.id), reason))

    def refuse(self, error: AgentrayError) -> None:
        """Take no more messages: what waits, and what still comes, gets the error."""
        self.refusal = error
        early, self._early = self._early or [], []
        for turn in (*early, *self._mailbox.clear()):
            turn.fail(error)

    def abort(self) -> None:
        """Give up a start that was cancelled: there is nothing to clean up."""
        self._agent = None

    @property
    def agent(self) -> Agent:
        """The user's object; only once it has begun."""
        if self._agent is None:
            raise AgentFailed(str(self.id), "it has not been started")
        return self._agent

    def is_of(self, agent: Agent) -> bool:
        """Whether this very object is its agent."""
        return self._agent is agent

    # Turns

    def offer(self, turn: Turn) -> None:
        """Take a message: handle it now, let it wait, or refuse it."""
        envelope = turn.envelope
        if self._early is None and envelope[1] == _EVENT and not envelope[10]:
            # Most messages: no turn waits for an event.
            offer = self._mailbox.offer(turn)
            if offer is _RUN:
                self._busy += 1
                self.host.turns.run(self, turn, reentrant=False)
                return
            if offer is not _REFUSED:
                return
        # What a turn under way calls back belongs to it, and ends with it.
        if self._early is not None and not (self._busy and self.id in turn.envelope.chain):
            self._offer_early(turn)
            return
        kind, chain = envelope.kind, envelope.chain
        if kind == _LAUNCH:
            turn.reply(_VALUE)
            return
        reentrant = bool(chain) and self.id in chain
        offer = self._mailbox.offer(turn, reentrant)
        if offer is _REFUSED and turn.run is not None:  # it was accepted, and its run is kept
            offer = self._mailbox.offer(turn, own=True)
        if offer is _REFUSED:
            turn.fail(Overloaded(str(self.id)))
            return
        if kind == _TELL and turn.letters is None:
            turn.letters = self.host.dead_letters
            turn.sink.reply(envelope.id, _VALUE, None)
        if offer is _RUN:
            self._busy += 1
            self.host.turns.run(self, turn, reentrant=reentrant)

    def offer_own(self, turn: Turn) -> None:
        """Take a turn of the agent's own; it waits as messages do, and is never refused."""
        if self.refusal is not None:
            turn.fail(self.refusal)
        elif self._early is not None:
            self._early.append(turn)
        elif self._mailbox.offer(turn, own=True) is _RUN:
            self._busy += 1
            self.host.turns.run(self, turn, reentrant=False)

    def _offer_early(self, turn: Turn) -> None:
        """Take a message while it is being started or ended, or has failed."""
        options = self.type.options
        room = options.mailbox + (options.concurrency or 0)
        if self.refusal is not None:
            turn.fail(self.refusal)
        elif self._early is None or (
            len(self._early) >= room and turn.envelope.kind and turn.run is None
        ):
            turn.fail(Overloaded(str(self.id)))
        elif not turn.envelope.chain or self.host.residents.starts.admits(self, turn):
            self._early.append(turn)

    def reconsider(self, turn: Turn) -> None:
        """Look at a message again for which more turns wait now, maybe one of its own."""
        if self._early is not None and turn in self._early:
            if not self.host.residents.starts.admits(self, turn):
                self._early.remove(turn)
        elif self.id in turn.envelope.chain and self._mailbox.withdraw(turn):
            self.offer(turn)

    def withdraw(self, turn: Turn) -> None:
        """Take out a message that waits."""
        if self._early and turn in self._early:
            self._early.remove(turn)
        else:
            self._mailbox.withdraw(turn)

    async def take(self, first: Turn, task: asyncio.Task[Any], *, reentrant: bool) -> None:
        """Handle a message, and after it those that wait, one after the other in this task."""
        turn: Turn | None = first
        handled = 0
        # Only state is committed. Without any, a turn is not held for longer than it takes.
        outermost = not reentrant and self.type.keeps_state and self.type.options.concurrency == 1
        asked = False  # by somebody else than itself
        try:
            while turn is not None:
                envelope = turn.envelope
                if envelope.kind:  # not `OWN`
                    asked = True
                if not turn.cancelled:
                    run = envelope.run
                    if run is not None:
                        self.host.parts.taken.note(run, self.id)
                    turn.task = task
                    if outermost:
                        self._outer = turn
                    await handle(self, turn, reentrant)
                    # From here on, cancelling this message must not hit the next one, nor may what
                    # is left of it: a handler may have kept its cancellation to itself.
                    turn.task = None
                    if turn.cancelled:
                        await let_out_cancellation(task)
                turn = None if reentrant else self._mailbox.finished()
                handled += 1
                if handled % _TURNS_BEFORE_YIELD == 0:
                    await asyncio.sleep(0)
        finally:
            if self._savepoints is not None:
                self._savepoints = self._savepoints.without(first)
            self.rests(asked=asked)

    def next_turn(self) -> Turn | None:
        """End a turn; return the one that waits for that, which begins."""
        return self._mailbox.finished()

    def rests(self, *, asked: bool = True) -> None:
        """Note that one task of it has no more to do.

        Args:
            asked: somebody else than itself had something for it.
        """
        self._busy -= 1
        if self._quiet is not None and not self._busy and not self._quiet.done():
            self._quiet.set_result(None)
        if asked:
            self.used = self.host.loop.time()
            self.host.residents.used(self)

    # State

    def take_savepoint(self, turn: Turn) -> None:
        """Note the state for a turn that belongs to the one that is under way.

        Raises:
            StateRefused: what that one has left so far cannot be kept.
        """
        if self._outer is not None:
            self._savepoints = self._savepoints or Savepoints()
            self._savepoints.begin(self, turn, self._outer)

    def checked_state(self) -> bytes:
        """Return the state as it would be committed now.

        Raises:
            StateRefused: it cannot be kept.
        """
        data = states.dump(self.agent, self.type)
        if data != self._committed:
            states.to_write(self.agent, self.type, data, self.host.max_state_bytes)
        return data

    def changed_state(self) -> list[StateWrite]:
        """Return the state when it differs from what the Store has.

        Raises:
            StateRefused: it cannot be kept.
            Fenced: the agent was let go: its successor may have changed the state already.
        """
        if not self.type.keeps_state:
            return []
        data = states.dump(self.agent, self.type)
        if data == self._committed:
            return []
        write = states.to_write(self.agent, self.type, data, self.host.max_state_bytes)
        if not self.host.residents.may_write(self):
            raise Fenced
        self._committed = data
        return [write]

    async def commit_state(self, turn: Turn) -> None:
        """Commit the state if a handler has changed it.

        Not yet for a turn that came back to the agent: the outermost one's commit covers it.

        Raises:
            StateRefused: it cannot be kept.
            Fenced: the agent lives elsewhere; nothing was written.
        """
        if self._savepoints is not None and (point := self._savepoints.of(turn, self._outer)):
            point.check()
            return
        if self._outer is turn:
            self._outer = None  # what comes back from here on commits by itself
        before = self._committed
        writes = self.changed_state()
        if not writes:
            return
        try:
            await self.host.commit_states(self.id, writes)
        except Exception:
            # Whether it was written is unknown; as its caller is told of an error, it was not.
            self._committed = before
            raise

    async def commit_step(
        self, turn: Turn, effects: Callable[[Sequence[StateWrite]], Effects]
    ) -> tuple[StepCommitted, bool]:
        """Commit what a handler did in a run that is durable per step; see `Steps.submit`.

        Args:
            turn: that was handled.
            effects: makes them of the changed state.

        Raises:
            StateRefused: the state cannot be kept; nothing was written.
            Fenced: the agent lives elsewhere; nothing was written.
        """
        comes_back = False
        if self._savepoints is not None and (point := self._savepoints.of(turn, self._outer)):
            point.check()  # the outermost one's commit covers the state
            comes_back = True
        elif self._outer is turn:
            self._outer = None  # what comes back from here on commits by itself
        before = self._committed
        writes = [] if comes_back else self.changed_state()
        try:
            committed, interrupted = await self.host.steps.submit(effects(writes))
        except BaseException:
            if not comes_back:
                self._committed = before
            raise
        if writes and committed.outcome is not CommitOutcome.COMMITTED:
            self._committed = before
        return committed, interrupted

    def discard(self, turn: Turn) -> None:
        """Undo what a handler did that had been done before, elsewhere."""
        if self.type.keeps_state and self.type.options.concurrency != 1:
            self.host.residents.let_go(self)  # its successor reads what is kept
        else:
            self.restore_state(turn)

    async def end_run(self, run: ActiveRun, outcome: Outcome) -> None:
        """Commit a run's end together with the state."""
        self._outer = None
        before = self._committed
        if not await run.end(outcome, self.changed_state()):
            self._committed = before  # it is tried again: as if it had not been
            self._restore(None)

    def restore_state(self, turn: Turn) -> None:
        """Undo what a failed handler did to the state, and what came back to it meanwhile.

        Only where handlers do not interleave: else it would undo another one's work.
        """
        if self._savepoints is not None and (point := self._savepoints.of(turn, self._outer)):
            self._restore(point)
            return
        if self._outer is turn:
            self._outer = None
        if self._outer is None:
            self._restore(None)

    def called_back_by(self, chain: tuple[AgentId, ...]) -> Sequence[Savepoint]:
        """Return what the turns found that came with a call that has gone this way."""
        return () if self._savepoints is None else self._savepoints.below(chain, self._outer)

    def give_up(self, point: Savepoint) -> None:
        """Undo what a turn did that has not ended; what it still does is its own affair."""
        if self._savepoints is not None and self._savepoints.of(point.turn, self._outer) is point:
            self._restore(point)
            point.overlaps = True

    def _restore(self, point: Savepoint | None) -> None:
        """Go back to a savepoint; None: to what is committed."""
        kind = self.type
        if not (kind.keeps_state and kind.options.concurrency == 1 and self._agent is not None):
            return
        try:
            if point is not None:
                point.go_back()
            else:
                states.restore(self._agent, kind, self._committed)
        except Exception as error:  # noqa: BLE001 - a load_state of the user's
            self.host.log_agent_error(self.id, "state_not_restored", error)
            self.host.residents.let_go(self)  # its successor reads what is kept

    # End

    @property
    def cleans_up(self) -> bool:
        """Whether its class has an `on_stop` of its own."""
        return self._agent is not None and self.type.cls.on_stop is not Agent.on_stop

    def hold(self) -> None:
        """Let every further message wait, and what waits already: it is about to end or leave."""
        self._early = [*(self._early or ()), *self._mailbox.clear()]
        self.leaving = True

    def pause(self) -> None:
        """Let every message wait, also those that wait already; `ready` lets them in again."""
        self._early = self._mailbox.clear()

    async def until_quiet(self) -> None:
        """Wait until it does nothing."""
        if not self._busy:
            return
        if self._quiet is None or self._quiet.done():
            self._quiet = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._quiet)

    async def until_idle(self, grace_s: float) -> None:
        """Wait until it does nothing, at most for the grace; then cancel what it does."""
        if not self._busy:
            return
        # What is cancelled before it began answers nobody; a few turns of the loop, and it has.
        while self.host.turns.waits(self):  # noqa: ASYNC110 - some turns, no event
            await asyncio.sleep(0)
        try:
            await asyncio.wait_for(self.until_quiet(), grace_s)
        except TimeoutError:
            self.host.turns.cancel(self)

    async def stop(self) -> None:
        """Run the agent's own clean-up, once; an error there is logged and ends nothing."""
        if not self.cleans_up:
            return
        if self._ended is not None:
            await asyncio.shield(self._ended)
            return
        self._ended = asyncio.get_running_loop().create_future()
        try:
            await self._clean_up()
        finally:
            self._ended.set_result(None)

    async def _clean_up(self) -> None:
        token = contexts.current.set(Context(self.id, self.host))
        try:
            async with asyncio.timeout(_CLEAN_UP_S):
                await self.agent.on_stop()
        except BaseException as error:
            if being_cancelled():
                raise
            self.host.log_agent_error(self.id, "on_stop_failed", error)
        finally:
            contexts.current.reset(token)

    def forget(self) -> None:
        """Drop the user's object; `begin` gives it a new one."""
        self._agent = None
        self._ended = None
        self.leaving = False
        # A turn that was cancelled never gave its place back.
        self._mailbox = _mailbox(self.type.options)

    def dismiss(self) -> list[Turn]:
        """Take out what waits, for another host to handle."""
        early, self._early = self._early or [], None
        return [*early, *self._mailbox.clear()]
