"""Sessions in the asynchronous client: `client.sessions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Unpack

from agentray.client.calls import sessions as calls
from agentray.client.calls.http import check
from agentray.client.calls.sessions import HistoryPage, SessionOptions, SessionPage
from agentray.client.resource import AsyncResource
from agentray.ids import new_id
from agentray.protocol.sessions import Session, SessionRun

_PAGE = 200


class AsyncSessions(AsyncResource):
    """Makes sessions and looks after them. Every method raises `ClientError`.

    ```python
    session = await client.sessions.create(agent="assistant", access_level="read")
    run = await client.prompt("Hello", session=session.id)
    ```
    """

    async def create(
        self,
        session_id: str | None = None,
        *,
        agent: str | None = None,
        **options: Unpack[SessionOptions],
    ) -> Session:
        """Make a session; one of the same id that says the same is found.

        Args:
            session_id: its id, such as `ada-7`; None: a new one.
            agent: an agent type, which gets an agent of its own for it, or type/key; None: the
                app's entry.
            options: see `SessionOptions`.

        Raises:
            Conflict: another session has the id, or the agent.
            InvalidRequest: a field is wrong.
        """
        request = calls.create(session_id or new_id("ses"), agent, options)
        return calls.parse_session(await self._connection.send(request))

    async def get(self, session_id: str) -> Session:
        """Return a session.

        Raises:
            NotFound: there is none of this id.
        """
        return calls.parse_session(await self._connection.send(calls.get(session_id)))

    async def list(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        owner: str | None = None,
        agent: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> SessionPage:
        """Return sessions by their ids, the last one first: of generated ids, the newest.

        Args:
            labels: that they have, all of these.
            owner: id of the API key that made them.
            agent: their agent's type, or their agent: type/key.
            limit: most of them, 1 to 200.
            before: id of the last one already seen: the `next` of the page before.
        """
        request = calls.list_sessions(limit, before, labels or {}, owner, agent)
        return calls.parse_sessions(await self._connection.send(request))

    async def update(
        self,
        session: Session | str,
        *,
        version: int | None = None,
        **options: Unpack[SessionOptions],
    ) -> Session:
        """Change fields of a session; those that are not named stay.

        Args:
            session: as it was read: if somebody else has changed it since, nothing is written. Or
                its id.
            version: that was read, where `session` is an id; None: whatever it says by now.
            options: see `SessionOptions`; `labels` and `metadata` as a whole.

        Raises:
            NotFound: there is none of this id.
            Conflict: somebody else has changed it.
            InvalidRequest: a field is wrong.
        """
        session_id, known = _named(session)
        request = calls.update(session_id, version or known, options)
        return calls.parse_session(await self._connection.send(request))

    async def delete(self, session: Session | str) -> None:
        """Delete a session. What it has under way is cancelled; its runs stay.

        The state of an agent that was made for it is forgotten behind that.

        Args:
            session: as it was read, or its id; see `update`.

        Raises:
            NotFound: there is none of this id, or an earlier try has deleted it.
            Conflict: somebody else has changed it.
        """
        check(await self._connection.send(calls.delete(*_named(session))))

    async def copy(
        self, session_id: str, copy_id: str | None = None, **options: Unpack[SessionOptions]
    ) -> Session:
        """Make a session that goes on where another one stands, with its history and state.

        Args:
            session_id: the other one's id.
            copy_id: the new one's; None: a new one.
            options: what differs.

        Raises:
            NotFound: there is none of this id.
            Conflict: the new id is in use.
        """
        request = calls.copy(session_id, copy_id or new_id("ses"), options)
        return calls.parse_session(await self._connection.send(request))

    async def runs(
        self, session_id: str, *, after: int = 0, limit: int = 50, rolled_back: bool = False
    ) -> HistoryPage:
        """Return runs of a session in their order, the oldest first.

        Args:
            session_id: its id.
            after: number of the last one already seen: the `next` of the page before.
            limit: most of them, 1 to 200.
            rolled_back: also those that were rolled back.

        Raises:
            NotFound: there is none of this id.
        """
        request = calls.runs(session_id, after, limit, rolled_back=rolled_back)
        return calls.parse_runs(await self._connection.send(request))

    async def history(
        self, session_id: str, *, rolled_back: bool = False
    ) -> AsyncGenerator[SessionRun]:
        """Go through all runs of a session in their order, page by page.

        Args:
            session_id: its id.
            rolled_back: also those that were rolled back.

        Raises:
            NotFound: there is none of this id.
        """
        after: int | None = 0
        while after is not None:
            page = await self.runs(session_id, after=after, limit=_PAGE, rolled_back=rolled_back)
            for each in page.runs:
                yield each
            after = page.next


def _named(session: Session | str) -> tuple[str, int | None]:
    return (session, None) if isinstance(session, str) else (session.id, session.version)
