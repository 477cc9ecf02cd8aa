"""What steps came to, on its way to the host of their run, which tells those who wait."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from agentray.errors import StoreUnavailable
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Envelope, Kind, Outcome, Reply, ReplyKind
from agentray.protocol.event_runs import RunKey
from agentray.runtime.message import Post
from agentray.runtime.step_run import StepRun
from agentray.store.steps import StepCommitted, StepEnd

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.turn import Turn

logger = logging.getLogger(__name__)


class StepReports:
    """Tells what steps came to, and hears of it, on one host.

    A report may be lost with its host. What was reported is in the Store, where a host looks every
    now and then for the ends of the runs that it works on.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def tell(
        self,
        envelope: Envelope,
        committed: StepCommitted,
        outcome: Outcome,
        answered: tuple[Any, float | None] | None = None,
    ) -> None:
        """Report a step that is committed.

        Args:
            envelope: of the message that was handled.
            committed: what became of it.
            outcome: of its handler, which has the spans.
            answered: the result that it has told, and the seconds in which the rest may end.
        """
        root = envelope.root
        spans, end = outcome.spans, committed.end
        if root is None or not (spans or answered or end or committed.events):
            return
        run_id = RunKey.parse(envelope.run or "").run_id
        report = (run_id, committed.events, end, spans, outcome.dropped_spans, answered)
        if self._note(*report):
            return
        payload = encode(report)
        self._host.channel.post(Post(Kind.STEPS, root, "", payload, _ignore))

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
    ) -> bool:
        """Note what a step of a run of this host came to; False: it works on none of this id."""
        run = self._host.runs.get(run_id)
        if not isinstance(run, StepRun):
            return False
        if answered is not None and end is None:
            run.answered(*answered)
        run.note(events, end, spans, dropped)
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
            ended = await self._host.store.ended_runs([run.run.id for run in self._runs()])
        except StoreUnavailable as error:
            logger.warning("%s", error, extra={"action": "look_waits"})
            return
        for stored in ended:
            run = self._host.runs.get(stored.run.id)
            if isinstance(run, StepRun):
                run.has_ended(stored)

    def _runs(self) -> list[StepRun]:
        return [run for run in self._host.runs if isinstance(run, StepRun)]


def _ignore(reply: Reply) -> None:
    """What a host that is gone would have had to know, its successor finds in the Store."""
    del reply
