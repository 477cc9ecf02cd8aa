"""Runs that go on with others, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentray.ids import AgentId
from agentray.store.base import Admission, NewRun, queued_run
from agentray.store.continuations import Continuation
from agentray.store.sessions import Refusal

if TYPE_CHECKING:
    from agentray.store.memory import RunRow


@dataclass(frozen=True, slots=True)
class _Noted:
    agent: AgentId
    state: tuple[str, int] | None
    dropped: bool = False

    @property
    def size(self) -> int:
        return 0 if self.state is None else len(self.state[0].encode())


class MemoryContinuations:
    """A part of `MemoryStore`."""

    _runs: dict[str, RunRow]
    _states: dict[AgentId, tuple[str, int]]

    def __init__(self) -> None:
        super().__init__()
        self._noted: dict[str, _Noted] = {}  # by the run that was gone on with

    def _go_on(self, run: NewRun, former: Continuation) -> tuple[NewRun, Admission | None]:
        """Return a run with the agent that it goes on in, and why it is not admitted."""
        before = self._runs.get(former.of)
        if before is None or before.end is None or before.new.agent != run.agent:
            return run, _refused(run, Refusal.GONE)
        noted = self._noted.get(former.of)
        if noted is None:
            self._note(former, run.agent)
        if noted is None or former.branch is None:
            return run, None
        if noted.dropped:
            return run, _refused(run, Refusal.DROPPED)
        if noted.state is not None:
            self._states[former.branch] = noted.state
        return replace(run, agent=former.branch, slot=former.branch_slot), None

    def _note(self, former: Continuation, agent: AgentId) -> None:
        self._noted[former.of] = _Noted(agent, self._states.get(agent))
        together = 0
        for run_id in sorted(self._noted, reverse=True):
            known = self._noted[run_id]
            if known.agent == agent:
                together += known.size
                if known.size and together > former.max_bytes and run_id != former.of:
                    self._noted[run_id] = replace(known, state=None, dropped=True)

    def _forget_noted(self, run_id: str) -> None:
        self._noted.pop(run_id, None)

    def _drop_noted(self, agent_types: Sequence[str]) -> None:
        """Drop what is noted of the agents of types whose states are forgotten."""
        for run_id, known in self._noted.items():
            if known.agent.type in agent_types and known.state is not None:
                self._noted[run_id] = replace(known, state=None, dropped=True)


def _refused(run: NewRun, why: Refusal) -> Admission:
    return Admission(queued_run(run), created=False, refused=why)
