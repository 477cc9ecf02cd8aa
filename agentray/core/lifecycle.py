"""The life of a run as a table.

Everything that decides whether a run may change its status is here. The Store repeats the rule
where it commits (a terminal run is never written again); this table is the reason why.
"""

from __future__ import annotations

from agentray.errors import IllegalTransition
from agentray.protocol.runs import Run
from agentray.protocol.runs import RunStatus as S

TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.TIMED_OUT, S.BUDGET_EXCEEDED, S.DEAD})
"""States that a run never leaves."""

UNFINISHED = frozenset(S) - TERMINAL

TRANSITIONS: dict[S, frozenset[S]] = {
    # A queued run can be ended without ever having run: cancelled, expired, or given up.
    S.QUEUED: frozenset({S.RUNNING, S.CANCELLED, S.TIMED_OUT, S.FAILED, S.DEAD}),
    # Back to queued: its host died and the next attempt has not begun.
    S.RUNNING: frozenset({S.QUEUED, S.WAITING}) | TERMINAL,
    S.WAITING: frozenset({S.RUNNING, S.QUEUED, S.CANCELLED, S.TIMED_OUT, S.DEAD}),
    **{status: frozenset[S]() for status in TERMINAL},
}


def is_settled(run: Run) -> bool:
    """Whether nothing more comes of a run by itself: it has ended, or waits for an answer."""
    return run.status in TERMINAL or run.status == S.WAITING


def move(run_id: str, start: S, finish: S, story: tuple[str, ...] = ()) -> S:
    """Return `finish` when a run may go there from `start`.

    Args:
        run_id: for the error's text.
        start: the status it has.
        finish: the status it shall get.
        story: what happened to it so far, oldest first.

    Raises:
        IllegalTransition: the table has no such move.
    """
    if finish not in TRANSITIONS[start]:
        raise IllegalTransition(f"Run {run_id}", start.value, finish.value, story)
    return finish
