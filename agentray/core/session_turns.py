"""Which prompt of a session begins, and what becomes of those before it. Pure.

Runs of a session have one order, and only the first unfinished one is worked on. What is decided
here the Store decides in the transaction that admits a prompt; PostgreSQL repeats the rule in the
function `admit_in_sessions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentray.protocol.sessions import SessionPolicy


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a prompt.

    Attributes:
        refused: the run that is in its way; None: it is admitted.
        held: it begins when the earlier ones have ended.
        cancels: runs that are to be cancelled.
        rolls_back: the agent's state goes back to what it was before the first of these.
    """

    refused: str | None = None
    held: bool = False
    cancels: tuple[str, ...] = ()
    rolls_back: bool = False


_BEGINS = Verdict()


def judge(policy: SessionPolicy, unfinished: Sequence[tuple[str, bool]]) -> Verdict:
    """Judge a prompt for a session.

    Args:
        policy: of the prompt.
        unfinished: the runs of the session that have not ended, in their order: id, and whether
            it waits for its turn.
    """
    if not unfinished:
        return _BEGINS
    first, waits = unfinished[0]
    match policy:
        case SessionPolicy.ENQUEUE:
            return Verdict(held=True)
        case SessionPolicy.REJECT:
            return Verdict(refused=first)
        case SessionPolicy.INTERRUPT | SessionPolicy.ROLLBACK:
            ids = tuple(run_id for run_id, _ in unfinished)
            # What waits for its turn has changed nothing.
            back = policy is SessionPolicy.ROLLBACK and not waits
            return Verdict(held=True, cancels=ids, rolls_back=back)
