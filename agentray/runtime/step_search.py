"""Looking into the Store for messages of steps that nobody brings to their agents, on one host.

Who leases slots anew, and who learns that another host has died, looks; so does every host from
time to time, and when it has room again for what it could not take.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentray.errors import StoreUnavailable
from agentray.ids import AgentId
from agentray.protocol.envelope import Envelope
from agentray.runtime.seats import pool_of

if TYPE_CHECKING:
    from agentray.runtime.host import Host
    from agentray.runtime.steps import Steps

logger = logging.getLogger(__name__)

MAX_WAITING = 5_000
"""Messages that wait in one host's memory for their agents; the others wait in the Store."""

_PAGE = 500
_SWEEP_S = 10.0
_STORE_RETRY_S = 0.5


class StepSearch:
    """Finds messages, and lets its `Steps` take them."""

    def __init__(self, host: Host, steps: Steps) -> None:
        self._host = host
        self._steps = steps
        self._new_leases: set[tuple[str, int]] = set()  # not looked through yet
        self._aside: deque[tuple[Envelope, float]] = deque()  # of these
        self._again = False
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = host.now() if host.loop.is_running() else 0.0
        self._hosts: frozenset[str] = frozenset()
        self._room: asyncio.Future[None] | None = None

    def placed(self, same: Iterable[tuple[str, int]]) -> None:
        """Take note of new leases, and of hosts that are gone."""
        held = self._host.held.held
        gained = held.keys() - set(same)
        hosts = frozenset(self._host.channel.snapshot.hosts)
        gone, self._hosts = self._hosts - hosts, hosts
        self._new_leases = {lease for lease in self._new_leases if lease in held} | gained
        if gained or gone:
            self.look()

    def is_due(self, now: float) -> bool:
        """Whether the last look was long ago."""
        return now - self._looked_at >= _SWEEP_S

    # What is brought meanwhile

    @property
    def takes_all(self) -> bool:
        """Whether there is room, and nothing that has to be read before what is brought."""
        return self._steps.waiting < MAX_WAITING and not self._new_leases

    def keeps_back(self, agent: AgentId, envelope: Envelope, received: float) -> bool:
        """Whether a message that is brought is to be taken later: here, or from the Store."""
        if self._steps.waiting >= MAX_WAITING:
            self._again = True  # when there is room
            return True
        if not self._new_leases or self._host.lease_of(agent) not in self._new_leases:
            return False
        # What was sent to its agent before may have to be read first.
        self._aside.append((envelope, received))
        if len(self._aside) > MAX_WAITING:
            self._aside.popleft()
            self._again = True
        return True

    def has_room(self) -> None:
        """Go on where there was none: some of what waited has begun."""
        if self._steps.waiting >= MAX_WAITING // 2:
            return
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._again:
            self.look()

    # Looking

    def look(self, delay_s: float = 0.0) -> None:
        """Look for messages that nobody works on."""
        if delay_s:
            # Nor does a look that is under way go on before: who had no room has none yet.
            if self._timer is None:
                self._timer = self._host.loop.call_later(delay_s, self._timed)
            return
        self._again = True
        if self._looking is None or self._looking.done():
            self._looking = self._host.tasks.spawn(self._look(), name="look for messages")

    def _timed(self) -> None:
        self._timer = None
        self.look()

    async def _look(self) -> None:
        while self._again:
            self._again = False
            self._looked_at = self._host.now()
            fresh = set(self._new_leases)
            try:
                await self._look_through()
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "look_waits"})
                await asyncio.sleep(_STORE_RETRY_S)
                self._again = True
                continue
            self._new_leases -= fresh
            aside, self._aside = self._aside, deque()
            for envelope, received in aside:
                if self._host.lease_of(envelope.target) in self._new_leases:
                    self._aside.append((envelope, received))
                elif self._host.leases(envelope.target):
                    self._steps.take_brought(envelope, received)

    async def _look_through(self) -> None:
        """Read all messages for agents of this host, in pages, as long as there is room."""
        for types, slots in self._served():
            after = ("", 0)
            while True:
                await self._until_room()
                page = await self._host.store.load_messages(types, slots, after=after, limit=_PAGE)
                for message in page:
                    self._steps.take_kept(message)
                if len(page) < _PAGE:
                    break
                after = (page[-1].run_id, page[-1].number)

    def _served(self) -> list[tuple[list[str], list[int]]]:
        """Return the agent types and slots of each pool of which this host leases some."""
        slots: dict[str, list[int]] = {}
        for pool, slot in self._host.held.held:
            slots.setdefault(pool, []).append(slot)
        views = self._host.channel.snapshot.types.items()
        return [
            (types, of_pool)
            for pool, of_pool in slots.items()
            # A seat is a pool of its own, named after that of its agent's type.
            if (types := [name for name, v in views if pool_of(pool) == v.pool])
        ]

    async def _until_room(self) -> None:
        while self._steps.waiting >= MAX_WAITING // 2:
            self._room = self._host.loop.create_future()
            await self._room

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
