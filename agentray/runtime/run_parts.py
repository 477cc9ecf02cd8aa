"""The parts of runs on one host: what they may still publish, and what is kept of it.

A `TerminateEvent` and a cancellation reach a run's messages as a mark on each host, not along the
tree of causes: two agents that answer each other for ever would stay ahead of that. What is under
way is then cancelled where it is, and its acknowledgements travel back along the tree as always,
so the end of a run stays exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agentray.events import Event
from agentray.protocol.budgets import Usage
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.protocol.event_runs import (
    FOREIGN_STEP,
    STEPS,
    PartsCall,
    Recording,
    RunKey,
    root_of,
)
from agentray.runtime.active_run import ActiveRun
from agentray.runtime.message import Post
from agentray.runtime.open_runs import OpenRuns
from agentray.runtime.run_log import as_recorded
from agentray.runtime.scope import Scope
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.host import Host

MAX_MARKS = 50_000
"""Runs that are remembered to be over. The host that works on a run repeats the mark as long as
something of it is under way."""

_SPREAD_S = 0.02
"""How long a run that was terminated may take to end by itself before other hosts are told."""

_REPEAT_S = 1.0
_EARLY_S = 0.001
"""Timers ring so much too early at most."""

_ANYBODY = root_of("default", "")
_EVENT = int(Kind.EVENT)
_EVENTS = Recording.EVENTS.value


class RunParts:
    """What belongs to runs of whichever host, on this one."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._marks: dict[str, bool] = {}  # by run key: it is cancelled, too
        self._stopping: dict[str, ActiveRun] = {}  # of this host: to be told to the others
        self._tell_at: dict[str, float] = {}  # when each of them is, on the event loop's clock
        self._spreading: Any = None  # the timer
        self._spread_at = 0.0
        self.undelivered = 0  # events that came after their run was over
        self.taken = OpenRuns(host)  # by agents of this host

    # What publishing asks

    def takes(self, run: str, event: Event, scope: Scope) -> bool:
        """Whether an event of a run is delivered; it is recorded then, if the run wants it."""
        if run in self._marks:
            self.undelivered += 1
            return False
        if run[0] == _EVENTS:
            self._record(run, event, scope)
        return True

    def cancelled(self, run: str) -> bool:
        """Whether what belongs to a run is not handled any more."""
        return self._marks.get(run, False)

    def _record(self, run: str, event: Event, scope: Scope) -> None:
        key = RunKey.parse(run)
        if key.host == self._host.host_id:
            active = self.find(run)
            if active is not None:
                active.log.record(event)
            return
        payload = encode((run, as_recorded(event)))
        message = Post(Kind.RECORD, _ANYBODY, "", payload, lambda _: scope.ended(message))
        scope.sent(message)  # none is missing when the run has ended
        self._host.channel.post_to(key.host, message)

    def spend(self, run: str, spent: Usage, scope: Scope) -> None:
        """Tell the host that works on a run what a handler of it has used."""
        host_id = RunKey.parse(run).host
        if host_id == self._host.host_id:
            self._spent(run, spent)
            return
        payload = encode((run, spent.model_dump()))
        name = PartsCall.SPEND.value
        message = Post(Kind.RUN_PARTS, _ANYBODY, name, payload, lambda _: scope.ended(message))
        scope.sent(message)  # all of it has arrived when the run has ended
        self._host.channel.post_to(host_id, message)

    def _spent(self, run: str, spent: Usage) -> None:
        active = self.find(run)
        if active is not None:
            active.spend(spent)

    # Ends

    def terminate(self, run: str, answer: Any, end_grace_s: float | None) -> None:
        """A `TerminateEvent` of a run was published here: it is the last one.

        Args:
            run: its key.
            answer: its result.
            end_grace_s: see `TerminateEvent`.
        """
        if self.find(run) is not None or RunKey.parse(run).host == self._host.host_id:
            self._terminated(run, answer, end_grace_s)
        else:
            self._mark(run, cancelled=False)
            host_id = RunKey.parse(run).host
            self._tell([host_id], PartsCall.TERMINATED, [(run, answer, end_grace_s)])

    def stop(self, active: ActiveRun) -> None:
        """Cancel all that belongs to a run of this host, wherever it is."""
        self._mark(active.key, cancelled=True)
        self._stopping[active.key] = active
        self._tell_at[active.key] = 0.0
        self._spread_in(0.0)

    def abandon(self, active: ActiveRun) -> None:
        """Cancel what belongs to a run that this host gives up: another one begins it anew."""
        others = [host for host in self._host.channel.snapshot.hosts if host != self._host.host_id]
        self._mark(active.key, cancelled=True)
        self._tell(others, PartsCall.CANCEL, [active.key])
        self._cancel([active.key])

    def forget(self, active: ActiveRun) -> None:
        """A run of this host has ended."""
        # Its mark stays: what a handler that would not end publishes later is not delivered.
        self._stopping.pop(active.key, None)
        self._tell_at.pop(active.key, None)
        self.taken.forget(active.key)

    def _terminated(self, run: str, answer: Any, end_grace_s: float | None) -> None:
        self._mark(run, cancelled=False)
        active = self.find(run)
        if active is not None:
            active.answered(answer, end_grace_s, _SPREAD_S)
            if self._stopping.setdefault(run, active) is active:
                self._tell_at.setdefault(run, self._host.now() + _SPREAD_S)
            self._spread_in(_SPREAD_S)

    def _mark(self, run: str, *, cancelled: bool) -> None:
        self._marks[run] = self._marks.pop(run, False) or cancelled
        if run[0] in STEPS:  # what has a correlation of its own ends with it, too
            self._marks[FOREIGN_STEP + run[1:]] = self._marks[run]
        if len(self._marks) > MAX_MARKS:
            del self._marks[next(iter(self._marks))]

    def when_ended(self, run: str, callback: Callable[[], None]) -> None:
        """Call back when an attempt of this host has ended; at once if it has."""
        active = self.find(run)
        if active is None:
            callback()
        else:
            active.on_end(lambda _: callback())

    def find(self, run: str) -> ActiveRun | None:
        """Return the attempt that is under way on this host and has this key."""
        return self._host.runs.of_key(run)

    # Other hosts

    def _spread_in(self, delay_s: float) -> None:
        at = self._host.now() + delay_s
        if self._spreading is not None:
            if self._spread_at <= at:
                return
            self._spreading.cancel()
        self._spread_at = at
        self._spreading = self._host.loop.call_later(delay_s, self._spread)

    def _spread(self) -> None:
        """Tell all hosts of the runs that are over and have not ended yet; again, until they have.

        Many of them at once: cancelling looks at all that is under way here. But each only when it
        is its turn: else many that end one after the other would all be told with each.
        """
        self._spreading = None
        if not self._stopping:
            return
        now = self._host.now()
        due = [run for run, at in self._tell_at.items() if at <= now + _EARLY_S]
        for run in due:
            self._stopping[run].keep_grace()
            self._tell_at[run] = now + _REPEAT_S
        others = [host for host in self._host.channel.snapshot.hosts if host != self._host.host_id]
        closed = [run for run in due if not self.cancelled(run)]
        cancelled = [run for run in due if self.cancelled(run)]
        for call, runs in ((PartsCall.CLOSE, closed), (PartsCall.CANCEL, cancelled)):
            for run in runs:
                self._mark(run, cancelled=call == PartsCall.CANCEL)
            if runs:
                self._tell(others, call, runs)
        self._cancel(cancelled)
        if self._tell_at:
            self._spread_in(max(0.0, min(self._tell_at.values()) - now))

    def _tell(self, hosts: Iterable[str], call: PartsCall, runs: Sequence[Any]) -> None:
        payload = encode(runs)
        for host_id in hosts:
            message = Post(Kind.RUN_PARTS, _ANYBODY, call.value, payload, _ignore)
            self._host.channel.post_to(host_id, message)

    def handle(self, turn: Turn) -> None:
        """Take in what another host tells."""
        call = turn.envelope.name
        if call == PartsCall.TELL:
            self._host.telling.take(turn)
            return
        if call == PartsCall.SPEND:
            key, spent = decode(turn.envelope.payload)
            self._spent(key, Usage(**spent))
            turn.reply(ReplyKind.VALUE)
            return
        if call == PartsCall.TERMINATED:
            for terminated in decode(turn.envelope.payload):
                self._terminated(*terminated)
            turn.reply(ReplyKind.VALUE)
            return
        runs: list[str] = decode(turn.envelope.payload)
        if call == PartsCall.OPEN:
            still_open = [run for run in runs if self.find(run) is not None]
            turn.reply(ReplyKind.VALUE, encode(still_open))
            return
        if call == PartsCall.AWAIT:
            self.when_ended(runs[0], lambda: turn.reply(ReplyKind.VALUE))
            return
        if call == PartsCall.UNTIL_QUIET:
            self._host.tasks.spawn(self._reply_when_quiet(turn, runs))
            return
        for run in runs:
            self._mark(run, cancelled=call == PartsCall.CANCEL)
        if call == PartsCall.CANCEL:
            self._cancel(runs)
        turn.reply(ReplyKind.VALUE)

    def take_record(self, turn: Turn) -> None:
        """Keep an event that was published on another host."""
        run, event = decode(turn.envelope.payload)
        active = self.find(run)
        if active is not None:
            active.log.record(event)
        turn.reply(ReplyKind.VALUE)

    def _cancel(self, runs: list[str]) -> None:
        """Cancel the events of runs that wait or are handled here, and what they have set off."""
        if not runs:
            return
        wanted = set(runs)
        wanted.update(FOREIGN_STEP + run[1:] for run in runs if run[0] in STEPS)
        for sink in self._host.sinks():
            # The newest first: what an older one has set off is cancelled before it.
            for turn in reversed(list(sink.active.values())):
                if turn.envelope.run in wanted and turn.envelope.kind == _EVENT:
                    self._host.cancel(turn)

    async def until_quiet(self, active: ActiveRun, wait_s: float) -> None:
        """Wait until nothing of a run that is durable per step is under way on any host.

        Args:
            active: the run, which was stopped.
            wait_s: the longest wait.
        """
        loop, payload = self._host.loop, encode([active.run.id])
        quiet: list[asyncio.Future[None]] = []
        for host_id in self._host.channel.snapshot.hosts:
            replied: asyncio.Future[None] = loop.create_future()
            quiet.append(replied)
            name = PartsCall.UNTIL_QUIET.value
            message = Post(Kind.RUN_PARTS, _ANYBODY, name, payload, partial(_noted, replied))
            self._host.channel.post_to(host_id, message)
        if quiet:
            await asyncio.wait(quiet, timeout=wait_s)

    async def _reply_when_quiet(self, turn: Turn, runs: list[str]) -> None:
        await self._host.steps.until_quiet(runs)
        turn.reply(ReplyKind.VALUE)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._spreading is not None:
            self._spreading.cancel()


def _noted(replied: asyncio.Future[None], reply: Reply) -> None:
    """It is quiet there, or gone."""
    del reply
    if not replied.done():
        replied.set_result(None)


def _ignore(reply: Reply) -> None:
    """What a host that is gone would have had to know is gone with it."""
    del reply
