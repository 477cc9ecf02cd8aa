"""Sessions for programs that do not await."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Unpack

from agentray.agent import Agent
from agentray.blocking import wait_for
from agentray.ids import AgentId
from agentray.protocol.sessions import Session, SessionRun
from agentray.runtime.session_client import SessionClient, SessionOptions


class SyncSessions:
    """A `SessionClient` whose methods block; see there for what each one does and raises."""

    def __init__(self, sessions: SessionClient, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `SyncManager`.

        Args:
            sessions: what does the work.
            loop: its event loop, which runs in another thread.
        """
        self._sessions = sessions
        self._loop = loop

    def create(
        self,
        session_id: str | None = None,
        *,
        agent: AgentId | type[Agent] | str | None = None,
        **options: Unpack[SessionOptions],
    ) -> Session:
        """Make a session: a keyed agent and the ordered runs of its prompts."""
        return wait_for(self._sessions.create(session_id, agent=agent, **options), self._loop)

    def get(self, session_id: str) -> Session:
        """Return a session."""
        return wait_for(self._sessions.get(session_id), self._loop)

    def list(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        owner: str | None = None,
        agent: AgentId | type[Agent] | str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Session]:
        """Return sessions by their ids, the last one first."""
        found = self._sessions.list(
            labels=labels, owner=owner, agent=agent, before=before, limit=limit
        )
        return wait_for(found, self._loop)

    def update(
        self, session_id: str, *, version: int | None = None, **options: Unpack[SessionOptions]
    ) -> Session:
        """Change fields of a session; those that are not named stay."""
        return wait_for(self._sessions.update(session_id, version=version, **options), self._loop)

    def delete(self, session_id: str, *, version: int | None = None) -> None:
        """Delete a session: nobody finds it any more, and what it has under way is cancelled."""
        wait_for(self._sessions.delete(session_id, version=version), self._loop)

    def copy(
        self, session_id: str, copy_id: str | None = None, **options: Unpack[SessionOptions]
    ) -> Session:
        """Make a session that goes on where another one stands, with its history and its state."""
        return wait_for(self._sessions.copy(session_id, copy_id, **options), self._loop)

    def runs(
        self, session_id: str, *, after: int = 0, limit: int = 50, rolled_back: bool = False
    ) -> Sequence[SessionRun]:
        """Return the history of a session: its runs in their order, the oldest first."""
        found = self._sessions.runs(session_id, after=after, limit=limit, rolled_back=rolled_back)
        return wait_for(found, self._loop)
