"""Taking up runs of the Store: another attempt, the first one of a delayed run, or an end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agentray.core.lifecycle import TERMINAL, is_settled
from agentray.errors import AgentQuarantined, StoreUnavailable, UnknownRun
from agentray.ids import AgentId
from agentray.protocol.envelope import Failure
from agentray.protocol.event_runs import RunOptions
from agentray.protocol.runs import Run, RunStatus
from agentray.runtime.active_run import ActiveRun
from agentray.runtime.step_run import StepRun, make_active, per_step
from agentray.store.base import StoredRun

if TYPE_CHECKING:
    from agentray.runtime.run_book import RunBook

logger = logging.getLogger(__name__)

_STORE_RETRY_S = 0.5


class TakingUp:
    """Takes up runs for one host's book.

    Attributes:
        agents: of the runs that are being taken up, by these: their slots stay here meanwhile.
    """

    def __init__(self, book: RunBook) -> None:
        self._book = book
        self._taking: dict[str, asyncio.Task[ActiveRun | Run]] = {}
        self.agents: dict[str, AgentId] = {}

    async def take_up(
        self,
        run_id: str,
        *,
        unbegun: bool = False,
        answered: bool = False,
        agent: AgentId | None = None,
        lost: str = "",
    ) -> ActiveRun | Run:
        """Begin another attempt at a run of the Store; one that has ended is returned as it is.

        Args:
            run_id: the run.
            unbegun: it was given to no host yet, as far as its sender knows: if the Store knows of
                none either, this is its first attempt.
            answered: it was told what it asked a moment ago: the attempt that asked goes on.
            agent: that it is given to; its slot stays here meanwhile. None: not known yet.
            lost: why the attempt before came to nothing; "": the Store knows what became of it.

        Raises:
            UnknownRun: the Store does not know it.
        """
        known = self._book.get(run_id)
        if known is not None and not (answered and isinstance(known, StepRun)):
            return known
        taking = self._taking.get(run_id)
        if taking is None:
            # Manager and gateway may ask at once: that is one attempt, not two.
            taking_up = self._once_admitted(run_id, unbegun, answered, lost)
            taking = self._book.spawn(taking_up, name=f"take up {run_id}")
            self._taking[run_id] = taking
            if agent is not None:
                self.agents[run_id] = agent
            taking.add_done_callback(lambda _: self._taken(run_id))
        return await asyncio.shield(taking)

    def _taken(self, run_id: str) -> None:
        self._taking.pop(run_id, None)
        self.agents.pop(run_id, None)

    async def _once_admitted(
        self, run_id: str, unbegun: bool, answered: bool, lost: str
    ) -> ActiveRun | Run:
        if (admitted := self._book.being_admitted(run_id)) is not None:
            # The manager sees it before this host hears that it is kept: it is about to begin.
            await asyncio.wait((admitted,))
            if (known := self._book.get(run_id)) is not None:
                return known
        return await self._take_up(run_id, unbegun, answered, lost)

    async def _take_up(
        self, run_id: str, unbegun: bool, answered: bool, lost: str
    ) -> ActiveRun | Run:
        last = await self._book.store.get_run(run_id)
        if last is None:
            raise UnknownRun(run_id)
        if is_settled(last.run):
            return last.run
        if (known := self._book.get(run_id)) is not None:
            if len(known.stored.answers) >= len(last.answers):
                return known
            known.lose()  # nobody has told it that the run has waited meanwhile
        if last.cancelled:
            return self.end_cancelled(last)  # its last host did not get to it
        if last.delayed:
            return await self._begin_delayed(last)
        if _goes_on(last, unbegun=unbegun, answered=answered):
            return self._book.begin(last)
        lost = lost or await self._why_lost(run_id)
        if (why := self._why_no_more(last, lost)) is not None:
            return await self._give_up(last, lost, why)
        stored = await self._book.store.retry_run(run_id)
        if stored is None:
            raise UnknownRun(run_id)
        return stored.run if is_settled(stored.run) else self._book.begin(stored, lost=lost)

    async def _begin_delayed(self, stored: StoredRun) -> ActiveRun | Run:
        """Begin the first attempt of a run that was to begin later, if it is its turn."""
        if stored.run.session is not None:
            return await self._book.host.sessions.take_up(stored)
        run_id = stored.run.id
        begun = await self._book.store.retry_run(run_id)
        if begun is None:
            raise UnknownRun(run_id)
        return begun.run if begun.run.status in TERMINAL else self._book.begin(begun)

    async def _why_lost(self, run_id: str) -> str:
        """Return what became of the attempt before, as far as the Store knows."""
        host = await self._book.store.host_of_run(run_id)
        if host is None:
            return "no host had kept that it worked on it"
        # The manager tells of a death before it keeps it.
        if (death := self._book.host.channel.snapshot.deaths.get(host.id)) is not None:
            return f"the host {host.id} was lost: {death.rstrip('.')}"
        if host.status == "dead":
            return f"the host {host.id} was lost: {host.reason.rstrip('.') or 'it ended'}"
        return f"its agent left the host {host.id}"

    def _why_no_more(self, last: StoredRun, lost: str) -> Failure | None:
        """Return why a run that was lost gets no other attempt; None: it does."""
        agent = last.agent
        if (why := self._book.host.channel.snapshot.quarantined.get(agent)) is not None:
            error = AgentQuarantined(str(agent), why)
            return Failure(type(error).__name__, str(error), str(agent), ())
        most = RunOptions.of_input(last.input).max_attempts or self._book.max_attempts
        if last.run.attempt < most:
            return None
        many = f"{last.run.attempt} attempts" if last.run.attempt > 1 else "1 attempt"
        told = f"Given up after {many}, each of which was lost. The last: {lost}."
        return Failure("HostDied", told, "", ())

    async def _give_up(self, stored: StoredRun, lost: str, why: Failure) -> ActiveRun:
        """End a run without another attempt: that one might cost this host too."""
        active = self._book.note(make_active(stored, self._book, to_end=True, lost=lost))
        await active.give_up(why)
        return active

    def end_cancelled(self, stored: StoredRun) -> ActiveRun:
        """End a run that somebody wanted to end, and its last host did not get to it."""
        active = self._book.get(stored.run.id)
        if active is None:
            active = self._book.note(make_active(stored, self._book, to_end=True))
        active.stop(RunStatus.CANCELLED)
        return active

    async def again(self, active: ActiveRun, reason: str) -> None:
        """Try a run again after a part of it was lost, with a host or for want of the Store."""
        logger.warning(
            "run is tried again: %s",
            reason,
            extra={"action": "run_retried", "run": active.run.id},
        )
        await self._book.progress.save_usage([active])
        self._book.forget(active)
        retried = await self._take_up_again(active.run.id, reason)
        if isinstance(retried, ActiveRun):
            retried.on_end(active.hand_over)
        else:
            active.hand_over(retried)

    async def _take_up_again(self, run_id: str, reason: str) -> ActiveRun | Run:
        while True:
            try:
                return await self.take_up(run_id, lost=reason)
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "retry_waits"})
                await asyncio.sleep(_STORE_RETRY_S)


def _goes_on(last: StoredRun, *, unbegun: bool, answered: bool) -> bool:
    """Whether a run is worked on in the attempt that it has."""
    if per_step(last.input):
        return True  # its work goes on, whoever looks after it; its messages count their attempts
    queued = last.run.status is RunStatus.QUEUED
    return queued and (answered or (unbegun and last.run.attempt == 1))
