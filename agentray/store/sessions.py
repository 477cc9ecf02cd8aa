"""What the Store keeps of sessions, and what it decides about the prompts in them.

The runs of a session have one order. At most one of them is worked on: the first that has not
ended. One that comes while another is under way is admitted as *held*: no host begins it before
`begin_in_session` says that it is its turn. Whether a prompt begins, waits, is refused, or has
those before it cancelled is decided by the transaction that admits it, with the session locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from agentray.ids import AgentId
from agentray.protocol.sessions import Session, SessionQuery, SessionRun

if TYPE_CHECKING:
    from agentray.store.base import SlotLease, StoredRun


class Refusal(StrEnum):
    """Why a prompt was not admitted: by its session, or as it cannot go on with another run."""

    UNKNOWN = "unknown"  # there is no such session, or not any more
    BUSY = "busy"  # a run is under way, and the prompt does not want to wait
    CHANGED = "changed"  # its agent or access level is another one: read it again
    GONE = "gone"  # the run that it goes on with has not ended, or is not kept any more
    DROPPED = "dropped"  # the state in which that run has left its agent is not kept any more


@dataclass(frozen=True, slots=True)
class Front:
    """The runs of a session that have not ended, in their order; the first one's turn it is.

    Attributes:
        runs: the first ones.
        rolling_back: the state of the agent goes back before the next one begins.
    """

    runs: Sequence[StoredRun] = ()
    rolling_back: bool = False


class Beginning(StrEnum):
    """What became of the wish to begin a held run."""

    BEGUN = "begun"  # it is its turn: the host works on it
    NOT_YET = "not_yet"  # an earlier one has not ended; or it is not held, or has ended
    FENCED = "fenced"  # the host does not lease the agent


class SessionStore(Protocol):
    """Sessions, and the order of the runs in them."""

    async def create_session(self, session: Session) -> bool:
        """Keep a new session; False: its id is taken, or its agent has another session.

        Raises:
            PayloadError: a text cannot be stored.
        """
        ...

    async def get_session(self, session_id: str, now: datetime) -> Session | None:
        """Return a session; None: there is none, or it has expired or is being deleted."""
        ...

    async def session_of_agent(self, agent: AgentId) -> Session | None:
        """Return the session that an agent is of, also one that is gone and not yet forgotten."""
        ...

    async def list_sessions(
        self, query: SessionQuery, now: datetime, *, limit: int = 50, before: str | None = None
    ) -> list[Session]:
        """Return sessions by their ids, the last one first: for those made here, the newest.

        Args:
            query: which ones.
            now: those that have expired by then are left out.
            limit: most of them.
            before: the id of the last one already seen.
        """
        ...

    async def update_session(self, session: Session, version: int) -> Session | None:
        """Write what may be changed of a session; return it as it is then.

        Args:
            session: with the new fields, and `updated_at`.
            version: that was read; None is returned where it is another one by now, or the
                session is gone.
        """
        ...

    async def delete_session(
        self, session_id: str, now: datetime, *, version: int | None = None
    ) -> bool:
        """Let a session be gone for everybody, and ask for the end of its unfinished runs.

        What is kept of it is forgotten by `forget_sessions`.

        Args:
            session_id: which.
            now: when.
            version: that was read; None: whatever it is.

        Returns:
            False: there is none of this id, or its version is another one.
        """
        ...

    async def copy_session(self, source: str, copy: Session) -> bool:
        """Keep a session with the history of another, and a copy of its agent's state.

        While a run of the other is under way the copy is of what was before that run.

        Args:
            source: the other one's id.
            copy: the new session; its agent is of the same type.

        Returns:
            False: the new id or its agent is taken, or the other one is gone.
        """
        ...

    async def session_runs(
        self, session_id: str, *, after: int = 0, limit: int = 50, rolled_back: bool = False
    ) -> list[SessionRun]:
        """Return a session's history, oldest first; without runs that are not kept any more.

        Args:
            session_id: whose.
            after: the number of the last one already seen.
            limit: most of them.
            rolled_back: also those that were rolled back.
        """
        ...

    async def session_front(self, session_id: str, *, limit: int = 100) -> Front:
        """Return the runs of a session that have not ended."""
        ...

    async def begin_in_session(
        self, host: str, lease: SlotLease, run_id: str, now: datetime
    ) -> Beginning:
        """Let a held run begin if it is its turn, in one transaction with what that means.

        Where a roll back was asked for, the agent's state becomes what it was before the run that
        was rolled back; else what it is now is noted, for a later one.

        Args:
            host: that asks.
            lease: the slot and epoch that it believes to hold.
            run_id: the run.
            now: when.
        """
        ...

    async def due_in_sessions(self, *, limit: int = 500) -> list[StoredRun]:
        """Return held runs whose turn it is, or before which one is to be cancelled: one each."""
        ...

    async def expire_sessions(self, now: datetime, *, limit: int) -> int:
        """Let sessions be gone that have expired and have no run under way; return how many."""
        ...

    async def gone_sessions(self, *, after: str = "", limit: int = 500) -> list[Session]:
        """Return sessions that are gone and whose runs have all ended, in the order of ids."""
        ...

    async def forget_sessions(self, session_ids: Sequence[str]) -> int:
        """Forget gone sessions whose runs have ended; the runs stay. Return how many there were."""
        ...
