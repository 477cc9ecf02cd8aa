"""Runs of sessions on one host: of each session one at a time, in their order.

All that decides is in the Store: which run is the first that has not ended, which ones are to be
cancelled, whether the agent's state goes back first. A host looks when a run of a session ends
here, when somebody asks for one that waits for its turn, and when the manager sees that one is due.
Looking twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentray.core.lifecycle import TERMINAL
from agentray.errors import Fenced, StoreUnavailable
from agentray.event_loop import time_of_day
from agentray.ids import slot_of
from agentray.protocol.envelope import ReplyKind
from agentray.protocol.runs import Run
from agentray.runtime.active_run import ActiveRun
from agentray.runtime.state_changes import StateChanges
from agentray.runtime.tasks import TaskSet
from agentray.runtime.turn import Turn
from agentray.store.base import SlotLease, StoredRun
from agentray.store.sessions import Beginning

if TYPE_CHECKING:
    from agentray.runtime.host import Host

logger = logging.getLogger(__name__)

_SWEEP_S = 2.0
"""Between two looks at sessions with runs that somebody waits for: one may have ended elsewhere."""


class SessionTurns:
    """Lets the runs of sessions begin when it is their turn."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._changes = StateChanges(host)
        self._tasks = TaskSet("turns of sessions")
        self._looking: dict[str, asyncio.Task[None]] = {}  # by session
        self._again: set[str] = set()  # sessions where another look must follow
        self._closed = False
        self._waiting: dict[str, dict[str, list[Turn]]] = {}  # by session and run
        self._later: set[str] = set()  # sessions that could not be looked at
        self._swept_at = 0.0

    def __len__(self) -> int:
        """How many looks are under way, and messages wait."""
        waiting = sum(len(turns) for runs in self._waiting.values() for turns in runs.values())
        return len(self._looking) + waiting

    # Who waits

    def wait(self, turn: Turn, run: Run) -> None:
        """Answer a message with a run when its turn has come and it has ended."""
        if (active := self._host.runs.get(run.id)) is not None:
            self._host.control.answer_at_end(turn, active)
            return
        session = run.session or ""
        self._waiting.setdefault(session, {}).setdefault(run.id, []).append(turn)
        self.look(session)

    def begun(self, active: ActiveRun) -> None:
        """Note that a run of a session has begun here: who waits for it hears of its end."""
        waiting = self._waiting.get(active.run.session or "")
        if not waiting:
            return
        for turn in waiting.pop(active.run.id, ()):
            if not turn.cancelled:
                self._host.control.answer_at_end(turn, active)
        self._tidy(active.run.session or "")

    def _tidy(self, session: str) -> None:
        if not self._waiting.get(session, True):
            del self._waiting[session]

    async def take_up(self, stored: StoredRun) -> ActiveRun | Run:
        """Begin a run that waits for its turn, if it has come; else return it as it is."""
        looking = self.look(stored.run.session or "")
        if looking is not None:
            await asyncio.wait((looking,))
        found = await self._host.store.get_run(stored.run.id)
        now = stored.run if found is None else found.run
        return self._host.runs.get(stored.run.id) or now

    # Looking

    def look(self, session: str) -> asyncio.Task[None] | None:
        """See whose turn it is, soon; return what ends when that is seen. None: not any more."""
        if self._closed:
            return None
        looking = self._looking.get(session)
        if looking is None:
            seeing = self._look_until_seen(session)
            looking = self._looking[session] = self._tasks.spawn(seeing, f"turns of {session}")
        else:
            self._again.add(session)
        return looking

    async def _look_until_seen(self, session: str) -> None:
        try:
            while True:
                self._again.discard(session)
                await self._look(session)
                if session not in self._again:
                    return
        except StoreUnavailable as error:
            self._later.add(session)
            logger.warning("%s", error, extra={"action": "session_waits", "session": session})
        except Fenced:
            self.leases_changed()
        finally:
            del self._looking[session]
            self._again.discard(session)

    async def _look(self, session: str) -> None:
        """See whose turn it is now, and end what is to be cancelled.

        Raises:
            StoreUnavailable: it cannot be seen.
            Fenced: the agent lives elsewhere.
        """
        front = await self._host.store.session_front(session)
        first = front.runs[0] if front.runs else None
        if first is not None and not self._host.leases(first.agent):
            raise Fenced  # its next host looks after it
        for stored in front.runs:
            if stored.cancelled:
                await self._host.runs.cancel(stored.run.id)
        if first is not None and first.delayed and not first.cancelled:
            await self._begin(first, rolling_back=front.rolling_back)
        await self._tell_ended(session, front.runs)

    async def _begin(self, stored: StoredRun, *, rolling_back: bool) -> None:
        host, agent = self._host, stored.agent
        if host.departures.closes(agent):
            return  # its next host begins it
        loaded = host.types.get(agent.type)
        begin = partial(self._begin_in_store, stored)
        if rolling_back and loaded is not None and loaded.type.keeps_state:
            # What it has in memory is not what it goes on with.
            begun = await self._changes.between_handlers(agent, loaded.type, begin)
        else:
            begun = await begin()
        if begun is Beginning.BEGUN:
            found = await host.store.get_run(stored.run.id)
            if found is not None and found.run.status not in TERMINAL:
                host.runs.begin(found)

    async def _begin_in_store(self, stored: StoredRun) -> Beginning:
        """Let it begin if it is its turn.

        Raises:
            Fenced: the agent lives elsewhere.
        """
        host, agent = self._host, stored.agent
        pool, slot = host.pool_of(agent) or stored.pool, slot_of(agent)
        lease = SlotLease(pool, slot, host.host_id, host.epoch(pool, slot))
        begun = await host.store.begin_in_session(host.host_id, lease, stored.run.id, time_of_day())
        if begun is Beginning.FENCED:
            raise Fenced
        return begun

    async def _tell_ended(self, session: str, unfinished: Sequence[StoredRun]) -> None:
        """Answer those who wait for runs that have ended without having begun here."""
        left = {stored.run.id for stored in unfinished}
        for run_id in [known for known in self._waiting.get(session, {}) if known not in left]:
            stored = await self._host.store.get_run(run_id)
            if stored is not None and stored.run.status not in TERMINAL:
                continue
            answer = b"" if stored is None else stored.run.model_dump_json().encode()
            for turn in self._waiting.get(session, {}).pop(run_id, ()):
                if turn.cancelled:
                    continue
                if answer:
                    turn.reply(ReplyKind.VALUE, answer)
                else:
                    turn.reply(ReplyKind.MOVED)  # it is asked for again, and told to be unknown
        self._tidy(session)

    # What the host tells

    def sweep(self, now: float) -> None:
        """Look again where a look failed, and every now and then where somebody waits."""
        later, self._later = self._later, set()
        if now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            later.update(self._waiting)
        for session in later:
            self.look(session)
        self.leases_changed()

    def leases_changed(self) -> None:
        """Send those on who wait for runs of agents that live elsewhere by now."""
        for session, runs in list(self._waiting.items()):
            for run_id, turns in list(runs.items()):
                if self._host.leases(turns[0].envelope.target):
                    continue
                for turn in runs.pop(run_id):
                    if not turn.cancelled:
                        turn.reply(ReplyKind.MOVED)
            self._tidy(session)

    async def close(self) -> None:
        """Look no more; what waits stays in the Store, for another host."""
        self._closed = True
        await self._tasks.close()
        waiting, self._waiting = self._waiting, {}
        for runs in waiting.values():
            for turns in runs.values():
                for turn in turns:
                    if not turn.cancelled:
                        turn.reply(ReplyKind.MOVED)
