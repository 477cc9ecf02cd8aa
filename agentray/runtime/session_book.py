"""The sessions of a cluster: made, looked at, changed, copied, deleted.

Gateways and the manager each have one. All of it is in the Store. What happens to a prompt in a
session is decided by its admission, and done by the agent's host (`runtime/session_turns.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agentray.errors import (
    AgentNotVisible,
    AgentrayError,
    SessionBusy,
    SessionChanged,
    SessionConflict,
    UnknownSession,
)
from agentray.event_loop import time_of_day
from agentray.ids import AgentId, new_id
from agentray.protocol.sessions import (
    Session,
    SessionFields,
    SessionQuery,
    SessionRun,
    check_session_id,
)
from agentray.runtime.newest import up_to_date
from agentray.runtime.ports import RunDispatcher
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Admission, Store, StoredRun
from agentray.store.sessions import Refusal

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
"""Of a change that names no version, and that others are quicker with."""


class SessionBook:
    """Looks after sessions."""

    def __init__(self, store: Store, dispatcher: RunDispatcher) -> None:
        """Make one.

        Args:
            store: where they are.
            dispatcher: knows who can be prompted.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._tasks = TaskSet("sessions")

    async def close(self) -> None:
        """End what is under way; the manager does what is left of it."""
        await self._tasks.close()

    async def create(
        self,
        session_id: str | None,
        agent: str | None,
        fields: SessionFields,
        owner: str = "",
        tenant: str | None = None,
    ) -> tuple[Session, bool]:
        """Make a session; one of the same id that says the same is returned instead.

        Args:
            session_id: its id; None: a new one.
            agent: an agent type, which gets an agent of its own for it, or type/key; None: the
                entry of the deployed app.
            fields: what else is said of it.
            owner: id of the API key that makes it.
            tenant: whose it is.

        Returns:
            The session, and whether it is new.

        Raises:
            ConfigurationError: the id is malformed.
            SessionConflict: another session has the id, or the agent.
            UnknownAgentType, NoHandler, DeploymentStopped: there is nobody to take its prompts.
            PayloadError: a text cannot be stored.
        """
        its_id = new_id("ses") if session_id is None else check_session_id(session_id)
        type_name, key = _parts(agent)
        place = await up_to_date(
            self._dispatcher, lambda: self._dispatcher.place(type_name, key, fresh_key=its_id)
        )
        now = time_of_day()
        session = Session(
            **_shallow(fields),
            id=its_id,
            agent=str(place.agent),
            owner=owner,
            tenant=tenant,
            created_at=now,
            updated_at=now,
            expires_at=_expiry(fields.ttl_s, now),
        )
        if await self._store.create_session(session):
            return session, True
        known = await self._store.get_session(its_id, now)
        if known is None or not _says_the_same(known, session):
            raise SessionConflict(its_id, session.agent)
        return known, False

    async def get(self, session_id: str, tenant: str | None = None) -> Session:
        """Return a session.

        Args:
            session_id: its id.
            tenant: who asks; None: who sees everything.

        Raises:
            UnknownSession: there is none of this id that the tenant may see.
        """
        found = None
        if _is_storable(session_id):
            found = await self._store.get_session(session_id, time_of_day())
        if found is None or tenant not in {None, found.tenant}:
            raise UnknownSession(session_id)
        return found

    async def check_agent(self, agent: AgentId, tenant: str) -> None:
        """Let a tenant address an agent unless it is that of another tenant's session.

        Raises:
            AgentNotVisible: it is.
        """
        found = await self._store.session_of_agent(agent)
        if found is not None and found.tenant != tenant:
            raise AgentNotVisible(str(agent))

    async def list(
        self, query: SessionQuery, before: str | None = None, limit: int = 50
    ) -> list[Session]:
        """Return sessions by their ids, the last one first."""
        return await self._store.list_sessions(query, time_of_day(), limit=limit, before=before)

    async def update(
        self,
        session_id: str,
        changes: Mapping[str, Any],
        version: int | None = None,
        tenant: str | None = None,
    ) -> Session:
        """Change fields of a session; those that are not named stay.

        Args:
            session_id: its id.
            changes: fields of `SessionFields`.
            version: that was read; None: whatever it is.
            tenant: who asks; None: who sees everything.

        Raises:
            UnknownSession: there is none of this id that the tenant may see.
            SessionChanged: it is in another version.
            PayloadError: a text cannot be stored.
        """
        for _ in range(_ATTEMPTS):
            known = await self.get(session_id, tenant)
            if version not in {None, known.version}:
                break
            changed = known.model_copy(update={**changes, "updated_at": time_of_day()})
            written = await self._store.update_session(changed, known.version)
            if written is not None:
                return written
        raise SessionChanged(session_id)

    async def delete(
        self, session_id: str, version: int | None = None, tenant: str | None = None
    ) -> None:
        """Delete a session: nobody finds it any more, and what it has under way is cancelled.

        Its agent's state is forgotten behind that, if the agent was made for it. Its runs stay.

        Args:
            session_id: its id.
            version: that was read; None: whatever it is.
            tenant: who asks; None: who sees everything.

        Raises:
            UnknownSession: there is none of this id that the tenant may see.
            SessionChanged: it is in another version.
        """
        await self.get(session_id, tenant)
        if not await self._store.delete_session(session_id, time_of_day(), version=version):
            await self.get(session_id, tenant)  # or somebody else has deleted it meanwhile
            raise SessionChanged(session_id)
        front = await self._store.session_front(session_id)
        for stored in front.runs:
            self._tasks.spawn(self._cancel(stored), name=f"cancel {stored.run.id}")

    async def _cancel(self, stored: StoredRun) -> None:
        """Have a run's host end it; where that fails the manager sees to it."""
        try:
            await self._dispatcher.cancel(stored.agent, stored.run.id)
        except AgentrayError as error:
            extra = {"action": "cancel_waits", "run": stored.run.id}
            logger.warning("run is cancelled later: %s", error, extra=extra)

    async def copy(
        self,
        session_id: str,
        copy_id: str | None,
        changes: Mapping[str, Any],
        owner: str = "",
        tenant: str | None = None,
    ) -> Session:
        """Make a session that goes on where another one stands.

        It has the same history, and an agent of its own with a copy of the state. What the other
        one has under way is no part of it.

        Args:
            session_id: the other one's id.
            copy_id: the new id; None: a new one.
            changes: fields of `SessionFields` that differ.
            owner: id of the API key that makes it.
            tenant: who asks; None: who sees everything.

        Raises:
            UnknownSession: there is none of this id that the tenant may see.
            ConfigurationError: the new id is malformed.
            SessionConflict: the new id is in use.
        """
        known = await self.get(session_id, tenant)
        its_id = new_id("ses") if copy_id is None else check_session_id(copy_id)
        agent, now = AgentId(AgentId.parse(known.agent).type, its_id), time_of_day()
        copy = known.model_copy(
            update={
                **changes,
                "id": its_id,
                "agent": str(agent),
                "owner": owner,
                "copied_from": session_id,
                "created_at": now,
                "updated_at": now,
                "version": 1,
                "expires_at": _expiry(changes.get("ttl_s", known.ttl_s), now),
            }
        )
        if not await self._store.copy_session(session_id, copy):
            await self.get(session_id, tenant)
            raise SessionConflict(its_id, copy.agent)
        return copy

    async def runs(
        self,
        session_id: str,
        after: int = 0,
        limit: int = 50,
        rolled_back: bool = False,
        tenant: str | None = None,
    ) -> Sequence[SessionRun]:
        """Return the history of a session, oldest first.

        Args:
            session_id: its id.
            after: number of the last run already seen.
            limit: most of them.
            rolled_back: also those that were rolled back.
            tenant: who asks; None: who sees everything.

        Raises:
            UnknownSession: there is none of this id that the tenant may see.
        """
        await self.get(session_id, tenant)
        return await self._store.session_runs(
            session_id, after=after, limit=limit, rolled_back=rolled_back
        )


def refusal(session_id: str, admission: Admission) -> AgentrayError:
    """Return the error of a prompt that its session has refused."""
    match admission.refused:
        case Refusal.BUSY:
            return SessionBusy(session_id, admission.run.id)
        case Refusal.CHANGED:
            return SessionChanged(session_id)
        case _:
            return UnknownSession(session_id)


def _parts(agent: str | None) -> tuple[str | None, str | None]:
    if agent is None or "/" not in agent:
        return agent, None
    wanted = AgentId.parse(agent)
    return wanted.type, wanted.key


def _shallow(fields: SessionFields) -> dict[str, Any]:
    return {name: getattr(fields, name) for name in SessionFields.model_fields}


def _says_the_same(known: Session, wanted: Session) -> bool:
    about = (known.agent, known.tenant, _shallow(known))
    return about == (wanted.agent, wanted.tenant, _shallow(wanted))


def _expiry(ttl_s: float | None, now: datetime) -> datetime | None:
    return None if ttl_s is None else now + timedelta(seconds=ttl_s)


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
