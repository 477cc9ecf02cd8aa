"""Runs that go on where another one has ended, as `previous_response_id` asks for.

The first that goes on with a run does so in the run's own agent: that is the main line of a
conversation. By the transaction that admits it, the state that the agent has then is noted for the
run that it goes on with. Whoever comes later gets an agent of its own, with a copy of that state:
a branch. So no two go on in the same agent, and none sees what the others have done.

What was noted is forgotten with the run that it was noted for.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentray.ids import AgentId


@dataclass(frozen=True, slots=True)
class Continuation:
    """With which run another one goes on. The agent and slot of a `NewRun` are those of the former.

    Attributes:
        of: the former run's id; it has ended.
        branch: the agent that takes a branch; None: nobody, who asked has named the agent.
        branch_slot: its slot, in the same pool.
        max_bytes: of JSON that is noted of one agent. The oldest states beyond it are dropped; the
            newest one stays.
    """

    of: str
    branch: AgentId | None
    branch_slot: int
    max_bytes: int
