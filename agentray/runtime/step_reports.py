"""What steps came to, on its way to the host of their run, which tells those who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentray.errors import StoreUnavailable
from agentray.ids import AgentId
from agentray.protocol.budgets import Usage
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Envelope, Kind, Outcome, Reply, ReplyKind
from agentray.protocol.event_runs import RunKey
from agentray.runtime.message import Post
from agentray.runtime.scope import MAX_SPANS
from agentray.runtime.step_run import StepRun
from agentray.store.base import CommitOutcome
from agentray.store.steps import StepCommitted, StepEnd

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.step_emissions import Emissions
    from agentray.runtime.turn import Turn

logger = logging.getLogger(__name__)

GATHER_S = 0.01
"""How long reports of one run gather on their way to another host, unless one says its end."""


class _Report:
    """What steps of one run came to; its host has to hear of it."""

    __slots__ = (
        "answered",
        "dropped_spans",
        "end",
        "events",
        "root",
        "spans",
        "spending",
        "usage",
    )

    def __init__(self, root: AgentId) -> None:
        self.root = root
        self.events: int | None = None
        self.end: StepEnd | None = None
        self.spans: list[tuple[Any, ...]] = []
        self.dropped_spans = 0
        self.answered: tuple[Any, float | None] | None = None
        self.usage: Usage | None = None  # of the run
        self.spending: dict[int, Usage | None] = {}  # by messages; None: it is committed


class StepReports:
    """Tells what steps came to, and hears of it, on one host.

    A report may be lost with its host. What was reported is in the Store, where a host looks every
    now and then for the ends of the runs that it works on.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: dict[str, _Report] = {}  # for other hosts, by run
        self._timer: asyncio.TimerHandle | None = None

    def tell(
        self,
        envelope: Envelope,
        committed: StepCommitted,
        outcome: Outcome,
        answered: tuple[Any, float | None] | None = None,
        handled: int | None = None,
    ) -> None:
        """Report a step that is committed.

        Args:
            envelope: of the message that was handled.
            committed: what became of it.
            outcome: of its handler, which has the spans.
            answered: the result that it has told, and the seconds in which the rest may end.
            handled: number of the message that was handled; None: it was none.
        """
        root = envelope.root
        spans, end, spent = outcome.spans, committed.end, outcome.spent
        if root is None or not (spans or answered or end or committed.events or spent):
            return
        run_id = RunKey.parse(envelope.run or "").run_id
        done: dict[int, Usage | None]
        done = {} if spent is None or handled is None else {handled: None}
        told = (committed.events, end, spans, outcome.dropped_spans, answered)
        if self._note(run_id, *told, committed.usage, done):
            return
        report = self._report(run_id, root)
        report.spending |= done
        report.usage = committed.usage or report.usage
        if committed.events is not None:
            report.events = max(committed.events, report.events or 0)
        room = MAX_SPANS - len(report.spans)
        report.spans += spans[:room]
        report.dropped_spans += outcome.dropped_spans + max(0, len(spans) - room)
        report.answered = report.answered or answered
        report.end = end
        if end or answered:
            del self._waiting[run_id]
            self._post(run_id, report)

    def _report(self, run_id: str, root: AgentId) -> _Report:
        """Return what is to be told of a run, in a moment at the latest."""
        report = self._waiting.get(run_id)
        if report is None:
            report = self._waiting[run_id] = _Report(root)
        if self._timer is None:
            self._timer = self._host.loop.call_later(GATHER_S, self.tell_all)
        return report

    def under_way(self, emissions: Emissions, spent: Usage) -> None:
        """Tell what a message has used that is being handled."""
        if emissions.root is None or emissions.message is None:
            return
        run_id, number = emissions.message
        if not self._note(run_id, None, None, (), 0, None, None, {number: spent}):
            self._report(run_id, emissions.root).spending[number] = spent

    def tell_all(self) -> None:
        """Tell what has gathered, now."""
        self.close()
        waiting, self._waiting = self._waiting, {}
        for run_id, report in waiting.items():
            self._post(run_id, report)

    def _post(self, run_id: str, of: _Report) -> None:
        report = (run_id, of.events, of.end, tuple(of.spans), of.dropped_spans, of.answered)
        payload = encode((*report, of.usage, of.spending))
        self._host.channel.post(Post(Kind.STEPS, of.root, "", payload, _ignore))

    def close(self) -> None:
        """Tell nothing any more of what has gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle(self, turn: Turn) -> None:
        """Take a report from another host."""
        self._note(*decode(turn.envelope.payload))
        turn.reply(ReplyKind.VALUE)

    def _note(
        self,
        run_id: str,
        events: int | None,
        end: StepEnd | None,
        spans: tuple[tuple[Any, ...], ...],
        dropped: int,
        answered: tuple[Any, float | None] | None,
        usage: Usage | None,
        spending: Mapping[int, Usage | None],
    ) -> bool:
        """Note what a step of a run of this host came to; False: it works on none of this id."""
        run = self._host.runs.get(run_id)
        if not isinstance(run, StepRun):
            return False
        if answered is not None and end is None:
            run.answered(*answered)
        committed = StepCommitted(CommitOutcome.COMMITTED, events=events, end=end, usage=usage)
        run.note(committed, spans, dropped, spending)
        return True

    def placed(self) -> None:
        """Let go of the runs that another host works on now."""
        for run in self._runs():
            if not self._host.leases(run.agent):
                run.lose()

    def sweep(self) -> None:
        """Look for ends that nobody has told."""
        if self._runs():
            self._host.tasks.spawn(self._look_for_ends(), name="look for ends of runs")

    async def _look_for_ends(self) -> None:
        try:
            settled = await self._host.store.settled_runs([run.run.id for run in self._runs()])
        except StoreUnavailable as error:
            logger.warning("%s", error, extra={"action": "look_waits"})
            return
        for stored in settled:
            run = self._host.runs.get(stored.run.id)
            if isinstance(run, StepRun):
                run.catch_up(stored)

    def _runs(self) -> list[StepRun]:
        return [run for run in self._host.runs if isinstance(run, StepRun)]


def _ignore(reply: Reply) -> None:
    """What a host that is gone would have had to know, its successor finds in the Store."""
    del reply
