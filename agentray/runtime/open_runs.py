"""Which agents of a host took part in runs that may not have ended.

What an agent has gathered of a run, in its memory, is needed until that run has ended: its slot
moves afterwards. Nobody tells a host of the ends of all runs, which would cost a message each; it
asks when it wants to know, many at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from agentray.ids import AgentId
from agentray.protocol.codec import decode, encode
from agentray.protocol.envelope import Kind, Reply, ReplyKind
from agentray.protocol.event_runs import STEPS, PartsCall, RunKey, root_of
from agentray.runtime.message import Post

if TYPE_CHECKING:
    from agentray.runtime.held_leases import Lease
    from agentray.runtime.host import Host

ASK_ABOVE = 20_000
"""Runs that are remembered before their hosts are asked which of them have ended."""

NEWS_S = 10.0
"""How long a host that is not in the snapshot may be newer than that; then it is gone."""

_ASK_AGAIN_S = 0.1
_UNHEARD_OF = 1000  # hosts that are remembered
_SEEN = 20_000
_ANYBODY = root_of("default", "")


class OpenRuns:
    """The runs in which agents of one host took part."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._agents: dict[str, set[AgentId]] = {}  # by run key
        self._places: dict[str, tuple[int, frozenset[Lease]]] = {}  # of so many of these agents
        self._followed: set[str] = set()  # whose hosts will tell of their ends
        self._ask_above = ASK_ABOVE
        self._on_end: Callable[[], None] = _nothing
        self._unheard_of: dict[str, float] = {}  # hosts, and since when
        self._seen: dict[str, None] = {}  # hosts that are, or were, in a snapshot

    def __len__(self) -> int:
        return len(self._agents)

    def note(self, run: str, agent: AgentId) -> None:
        """Note that an agent takes part in a run; called for each message of one."""
        agents = self._agents.get(run)
        if agents is not None:
            agents.add(agent)
            return
        if run[0] in STEPS:
            return  # what is gathered of it is in the Store
        self._agents[run] = {agent}
        if len(self._agents) > self._ask_above:
            self._ask_above = 2 * len(self._agents)  # not again before this is answered
            self._ask(list(self._agents), follow=False)

    def forget(self, run: str) -> None:
        """A run of this host is over, as most are that its agents take part in: nobody is asked."""
        if run not in self._followed:  # else whoever follows it hears of it
            self._agents.pop(run, None)
            if self._places:
                self._places.pop(run, None)

    def of(self, leases: Collection[Lease]) -> dict[Lease, int]:
        """Return how many runs are open that need agents of these slots, where there are any.

        Those that are worked on here for agents of the slots count as well, and those that are
        just being taken up: moved now, one attempt would be counted as two.
        """
        wanted = frozenset(leases)
        found: dict[Lease, set[str]] = {}
        for run, agents in self._agents.items():
            for lease in self._places_of(run, agents) & wanted:
                found.setdefault(lease, set()).add(run)
        for active in self._host.runs:
            lease = self._host.lease_of(active.agent)
            if lease in wanted and active.bound:
                found.setdefault(lease, set()).add(active.key)
        for run, agent in self._host.runs.taking_up.agents.items():
            lease = self._host.lease_of(agent)
            if lease in wanted:
                found.setdefault(lease, set()).add(run)
        return {lease: len(runs) for lease, runs in found.items()}

    def _places_of(self, run: str, agents: set[AgentId]) -> frozenset[Lease]:
        known = self._places.get(run)
        if known is None or known[0] != len(agents):
            places = frozenset(self._host.lease_of(agent) for agent in agents)
            known = self._places[run] = (len(agents), places)
        return known[1]

    def follow(self, leases: Collection[Lease], on_end: Callable[[], None]) -> None:
        """Hear of the ends of the runs that need agents of these slots.

        Args:
            leases: the slots.
            on_end: called whenever one has ended, until it is another one's turn to be called.
        """
        self._on_end = on_end
        wanted = frozenset(leases)
        runs = [
            run
            for run, agents in self._agents.items()
            if run not in self._followed and self._places_of(run, agents) & wanted
        ]
        for active in self._host.runs:
            new = active.key not in self._followed and active.key not in self._agents
            if new and active.bound and self._host.lease_of(active.agent) in wanted:
                runs.append(active.key)
        self._followed.update(runs)
        self._ask(runs, follow=True)

    def placed(self, hosts: Iterable[str]) -> None:
        """Take note of a snapshot: agents may live elsewhere, and there may be other hosts."""
        self._places.clear()
        for host_id in hosts:
            self._seen.pop(host_id, None)
            self._seen[host_id] = None
        while len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]

    # Asking

    def _ask(self, runs: Iterable[str], *, follow: bool) -> None:
        by_host: dict[str, list[str]] = {}
        for run in runs:
            by_host.setdefault(RunKey.parse(run).host, []).append(run)
        for host_id, of_host in by_host.items():
            if host_id == self._host.host_id:
                for run in of_host:
                    self._own(run, follow=follow)
            else:
                self._ask_host(host_id, of_host, follow=follow)

    def _own(self, run: str, *, follow: bool) -> None:
        parts = self._host.parts
        if parts.find(run) is None:
            self._ended([run])
        elif follow:
            parts.when_ended(run, lambda: self._ended([run]))

    def _ask_host(self, host_id: str, runs: list[str], *, follow: bool) -> None:
        if self.is_news(host_id):
            self._host.tasks.spawn(self._ask_later(host_id, runs, follow), name="ask a new host")
            return

        def told(reply: Reply) -> None:
            # A host that is gone works on no run any more.
            failed = reply.kind != ReplyKind.VALUE
            still_open = set[str]() if failed else set(decode(reply.payload))
            self._ended([run for run in runs if run not in still_open])
            if follow:
                for run in still_open:
                    self._await(host_id, run)
            else:
                self._ask_above = max(ASK_ABOVE, 2 * len(self._agents))

        self._host.channel.post_to(host_id, _about(PartsCall.OPEN, runs, told))

    def is_news(self, host_id: str) -> bool:
        """Whether a host may have come up a moment ago, so that this one has not heard of it.

        What its runs send may be here before the snapshot that has it.
        """
        snapshot = self._host.channel.snapshot
        known = host_id in snapshot.hosts or host_id in snapshot.deaths
        if known or host_id in self._seen:  # it is there, or has been
            self._unheard_of.pop(host_id, None)
            return False
        now = self._host.now()
        since = self._unheard_of.setdefault(host_id, now)
        if len(self._unheard_of) > _UNHEARD_OF:
            del self._unheard_of[next(iter(self._unheard_of))]
        return now - since < NEWS_S

    async def _ask_later(self, host_id: str, runs: list[str], follow: bool) -> None:
        await asyncio.sleep(_ASK_AGAIN_S)
        self._ask_host(host_id, runs, follow=follow)

    def _await(self, host_id: str, run: str) -> None:
        def ended(reply: Reply) -> None:
            del reply  # whatever it is, that host does not work on the run any more
            self._ended([run])

        self._host.channel.post_to(host_id, _about(PartsCall.AWAIT, [run], ended))

    def _ended(self, runs: Iterable[str]) -> None:
        for run in runs:
            self._agents.pop(run, None)
            self._places.pop(run, None)
            self._followed.discard(run)
        self._on_end()


def _about(call: PartsCall, runs: list[str], callback: Callable[[Reply], None]) -> Post:
    return Post(Kind.RUN_PARTS, _ANYBODY, call.value, encode(runs), callback)


def _nothing() -> None:
    """Nobody waits for ends."""
