"""Departures: the slots that leave a host, each as soon as nothing needs it here any more.

A slot whose agents take part in no run leaves at once: what its agents do ends, what waits goes to
their next host. One that runs still need stays, as if nothing was, until a moment without any comes
by itself. When half of the grace is over it lets no new work in, so that what is older ends and the
moment comes. Runs that are older than that go on in all of its agents: the oldest of them waits for
nobody, so they all end. Only at the end of the grace runs are given up that have not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentray.ids import AgentId
from agentray.protocol.codec import decode
from agentray.protocol.envelope import Kind, RunMode
from agentray.protocol.event_runs import STEPS, RunKey
from agentray.runtime.held_leases import Lease
from agentray.runtime.incarnation import Incarnation
from agentray.runtime.turn import Turn

if TYPE_CHECKING:
    from agentray.runtime.host import Host

ANSWER_S = 1.0
"""A request is answered by then, also when no slot has left."""

FORGET_S = 5.0
"""A slot that nobody has asked for during this time stays after all: its manager is gone."""

_GATHER_S = 0.01
"""Slots that leave together are told together."""

LOOK_AGAIN_S = 0.05
"""When to look again although no run has ended: one that is being admitted may have been refused,
and a manager may have gone."""

_LOOK_S = 0.005
"""Least time between two looks at what is under way."""

_NEW_WORK = frozenset(map(int, (Kind.RUN, Kind.ADMIT, Kind.DISPATCH, Kind.DISPATCH_ONCE)))
_BEGINS = _NEW_WORK | {int(Kind.LAUNCH), int(Kind.STATE)}
_FOR_AGENTS = frozenset(map(int, (Kind.CALL, Kind.TELL, Kind.EVENT, Kind.STREAM)))


@dataclass(slots=True, eq=False)
class _Departure:
    """A slot that leaves.

    Attributes:
        lease: which.
        since: when it was first asked for, in seconds of the event loop's clock.
        until: when its grace ends.
        asked: when it was last asked for.
        patient: it waits for a moment without runs before it refuses new work.
        together: nobody takes it over before all that leave so have left: until then what these
            wait for may begin in it.
        going: it is given up, and its agents end.
        done: they have ended.
        left: nothing is written for it any more.
    """

    lease: Lease
    since: float
    until: float
    asked: float
    patient: bool
    together: bool
    going: bool = False
    done: bool = False
    left: bool = False

    @property
    def closes_at(self) -> float:
        """When it lets no new work in any more."""
        return self.since + (self.until - self.since) / 2 if self.patient else self.since


class Departures:
    """The slots that leave one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._departures: dict[Lease, _Departure] = {}
        self._closing: dict[Lease, int] = {}  # and since when, in microseconds since 1970
        self._changed = asyncio.Event()  # a run has ended, or a slot has come
        self._left = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    # What the host asks

    async def release(
        self, pool: str, slots: Iterable[int], grace_s: float, *, together: bool = False
    ) -> list[int]:
        """Let slots leave; return those that have. There may be more: ask again for the others.

        Args:
            pool: theirs.
            slots: those that shall leave, and have not been told to have left.
            grace_s: for what is under way, from the first time on that a slot is asked for.
            together: they leave all at once, because nobody takes them over before.
        """
        asked = [
            self._depart((pool, slot), grace_s, patient=not together, together=together)
            for slot in dict.fromkeys(slots)
        ]
        self._look()
        end = self._host.now() + ANSWER_S
        while not any(each.left for each in asked) and (left_s := end - self._host.now()) > 0:
            await self._next_to_leave(left_s)
        if not all(each.left for each in asked):
            await asyncio.sleep(_GATHER_S)
        return [self._told(each).lease[1] for each in asked if each.left]

    async def leave_all(self, grace_s: float) -> None:
        """Let all slots leave; return when they have, at the latest after the grace."""
        leases = {*self._host.held.held, *self._departures}
        departures = [
            self._depart(lease, grace_s, patient=False, together=True) for lease in leases
        ]
        self._look()
        while not all(each.left for each in departures):
            for each in departures:
                each.asked = self._host.now()
            await self._next_to_leave(ANSWER_S)
        for each in departures:
            self._told(each)

    def holds_back(self, turn: Turn) -> bool:
        """Whether a message is new work for a slot that lets none in any more.

        What older runs send is let in, and what a turn waits for.
        """
        envelope = turn.envelope
        since = self._closing.get(self._host.lease_of(envelope.target))
        if since is None:
            return False
        if envelope.kind in _FOR_AGENTS:
            if envelope.chain:
                return False
            return envelope.run is None or RunKey.parse(envelope.run).begun >= since
        return envelope.kind in _BEGINS and not self._is_known(turn)

    def _is_known(self, turn: Turn) -> bool:
        """Whether a message asks for a run that is under way here."""
        if turn.envelope.kind != Kind.RUN or turn.envelope.name == RunMode.FRESH:
            return False
        return self._host.runs.get(decode(turn.envelope.payload)[0]) is not None

    def closes(self, agent: AgentId) -> bool:
        """Whether an agent's slot lets no new work in."""
        return self._host.lease_of(agent) in self._closing

    @property
    def closing(self) -> bool:
        """Whether some slots let no new work in."""
        return bool(self._closing)

    def grace_of(self, lease: Lease) -> float | None:
        """Return the seconds that agents of a slot have left that leaves; None: it does not."""
        departure = self._departures.get(lease)
        return None if departure is None else max(0.0, departure.until - self._host.now())

    def forget(self, leases: Collection[Lease]) -> None:
        """Note that slots are somebody else's."""
        for lease in leases:
            self._closing.pop(lease, None)
            departure = self._departures.get(lease)
            if departure is not None and not departure.going:
                departure.left = departure.going = True
        self._tell()

    # How slots leave

    def _depart(self, lease: Lease, grace_s: float, *, patient: bool, together: bool) -> _Departure:
        now = self._host.now()
        departure = self._departures.get(lease)
        if departure is None:
            departure = _Departure(lease, now, now + grace_s, now, patient, together)
            departure.going = departure.left = lease not in self._host.held
            self._departures[lease] = departure
        departure.asked = now
        if not patient and not departure.going:
            departure.patient, departure.together = False, together
            departure.until = min(departure.until, now + grace_s)
        return departure

    def _told(self, departure: _Departure) -> _Departure:
        self._departures.pop(departure.lease, None)
        return departure

    async def _next_to_leave(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._left.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._left.set()
        self._left = asyncio.Event()

    def _look(self) -> None:
        """Let those leave that can; as long as others stay, look again when something changes."""
        staying = self._staying()
        now = self._host.now()
        leases = {each.lease for each in staying}
        needed = {*self._host.parts.taken.of(leases), *self._taking_up(leases)}
        closing = [e.lease for e in staying if e.lease in needed and e.closes_at <= now]
        self._close(closing)
        self._go([e for e in staying if e.lease not in needed or now >= e.until])
        waiting = [each for each in staying if not each.going]
        if waiting:
            self._host.parts.taken.follow([e.lease for e in waiting], self._changed.set)
            if self._worker is None or self._worker.done():
                self._worker = self._host.tasks.spawn(self._work(), name="departures")

    def _taking_up(self, leases: Collection[Lease]) -> set[Lease]:
        """Return the slots in which runs may begin, or wait to be taken part in.

        They are being admitted or taken up; or their messages wait for agents that are busy, or are
        only just starting.
        """
        return {
            lease
            for sink in self._host.sinks()
            for turn in sink.active.values()
            if (turn.envelope.kind in _NEW_WORK or _takes_part(turn))
            and (lease := self._host.lease_of(turn.envelope.target)) in leases
        }

    async def _work(self) -> None:
        while waiting := [each for each in self._departures.values() if not each.going]:
            now = self._host.now()
            await asyncio.sleep(_LOOK_S)
            await self._until_changed(min(_next_look(each, now) for each in waiting))
            self._changed.clear()
            self._look()

    async def _until_changed(self, at: float) -> None:
        try:
            async with asyncio.timeout_at(at):
                await self._changed.wait()
        except TimeoutError:
            return

    def _staying(self) -> list[_Departure]:
        """Return those that have not been given up; forget those that nobody asks for any more."""
        before = self._host.now() - FORGET_S
        for lease, each in list(self._departures.items()):
            if each.asked < before and (each.left or not each.going):
                del self._departures[lease]
                self._closing.pop(lease, None)
        return [each for each in self._departures.values() if not each.going]

    def _close(self, leases: Iterable[Lease]) -> None:
        """Let no new work in for these slots from now on."""
        since = time.time_ns() // 1000
        for lease in leases:
            self._closing.setdefault(lease, since)
        self._host.watch_doors(self.closing)

    def _go(self, ready: Sequence[_Departure]) -> None:
        """Give slots up: their agents end what they do."""
        if not ready:
            return
        leases = {each.lease for each in ready}
        for lease in leases:
            self._closing.pop(lease, None)
        self._host.watch_doors(self.closing)
        self._host.held.give_up(leases)
        self._host.leases_changed()
        agents: dict[Lease, list[Incarnation]] = {}
        for agent in self._host.residents:
            lease = self._host.lease_of(agent.id)
            if lease in leases:
                agents.setdefault(lease, []).append(agent)
        idle: list[_Departure] = []
        now = self._host.now()
        for each in ready:
            each.going = True
            of_slot = agents.get(each.lease, [])
            busy = self._leave(of_slot, each.until - now)
            if busy or self._host.residents.finishing(each.lease):
                self._end_later([each])
            else:
                idle.append(each)
        if idle:
            self._end_later(idle)

    def _leave(self, agents: Sequence[Incarnation], grace_s: float) -> bool:
        """Let agents end; return whether some do not at once."""
        # Not in a task: who leaves is marked before anything else is let in, such as a snapshot
        # without the leases, which would cut off what may still end.
        busy = False
        for agent in agents:
            if agent.idle and agent.leaves_at_once:
                self._host.residents.let_go(agent)
            else:
                busy = True
                self._host.residents.leave(agent, max(grace_s, 0.0))
        return busy

    def _end_later(self, departures: Sequence[_Departure]) -> None:
        self._host.tasks.spawn(self._end(departures), name="slots leave")

    async def _end(self, departures: Sequence[_Departure]) -> None:
        """Wait until the agents of slots have ended, and what is left of their runs is given up."""
        host = self._host
        leases = {each.lease for each in departures}
        try:
            await host.runs.drain(0.0, lambda agent: host.lease_of(agent) in leases)
            await host.residents.until_left(lambda agent: host.lease_of(agent.id) in leases)
            for each in departures:
                each.done = True
            if any(each.together for each in departures):
                await self._end_together()
        finally:
            self._ended([each for each in departures if not each.together or not each.done])

    async def _end_together(self) -> None:
        """Let those leave that leave together, if these were the last of them."""
        group = [each for each in self._departures.values() if each.together and not each.left]
        if not all(each.done for each in group):
            return
        leases = {each.lease for each in group}
        host = self._host
        await host.residents.until_left(lambda agent: host.lease_of(agent.id) in leases)
        self._ended(group)

    def _ended(self, departures: Sequence[_Departure]) -> None:
        self._host.held.end({each.lease for each in departures})
        for each in departures:
            each.left = True
        self._tell()


def _takes_part(turn: Turn) -> bool:
    """Whether an agent that handles a message takes part in a run, of which it may keep a part."""
    run = turn.envelope.run
    return run is not None and turn.envelope.kind in _FOR_AGENTS and run[0] not in STEPS


def _next_look(departure: _Departure, now: float) -> float:
    """Return when to look at a slot again although no run has ended."""
    change = departure.closes_at if now < departure.closes_at else departure.until
    return min(change, now + LOOK_AGAIN_S)
