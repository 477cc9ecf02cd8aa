"""Sessions, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agentray.ids import AgentId
from agentray.protocol.sessions import Session, SessionQuery, SessionRun
from agentray.store import rows
from agentray.store.base import Admission, NewRun, SlotLease, StoredRun, queued_run
from agentray.store.codec import check_session, decode, encode, encode_object
from agentray.store.database import Database, Row
from agentray.store.sessions import Beginning, Front, Refusal

_REFUSALS = {refusal.value for refusal in Refusal}


class PostgresSessions:
    """A `SessionStore`; a part of `PostgresStore`."""

    _database: Database

    async def create_session(self, session: Session) -> bool:
        """Keep a new session; False: its id is taken, or its agent has another session."""
        check_session(session)
        agent = AgentId.parse(session.agent)
        return await self._database.fetch_value(
            "create_session",
            *(session.id, *agent, *_changeable(session), session.owner, session.tenant),
            *(session.created_at, session.updated_at, session.expires_at, session.copied_from),
            session.version,
        )

    async def get_session(self, session_id: str, now: datetime) -> Session | None:
        """Return a session; None: there is none, or it has expired or is being deleted."""
        row = await self._database.fetch_row("get_session", session_id, now)
        return _session_of(row) if row else None

    async def session_of_agent(self, agent: AgentId) -> Session | None:
        """Return the session that an agent is of, also one that is gone and not yet forgotten."""
        row = await self._database.fetch_row("session_of_agent", agent.type, agent.key)
        return _session_of(row) if row else None

    async def list_sessions(
        self, query: SessionQuery, now: datetime, *, limit: int = 50, before: str | None = None
    ) -> list[Session]:
        """Return sessions by their ids, the last one first."""
        found = await self._database.fetch(
            "list_sessions",
            *(now, before, query.tenant, query.owner, query.agent_type, query.agent_key),
            encode(dict(query.labels)) if query.labels else None,
            limit,
        )
        return [_session_of(row) for row in found]

    async def update_session(self, session: Session, version: int) -> Session | None:
        """Write what may be changed of a session; return it as it is then."""
        check_session(session)
        about = (session.id, version, *_changeable(session), session.updated_at)
        row = await self._database.fetch_row("update_session", *about)
        return _session_of(row) if row else None

    async def delete_session(
        self, session_id: str, now: datetime, *, version: int | None = None
    ) -> bool:
        """Let a session be gone for everybody, and ask for the end of its unfinished runs."""
        return await self._database.fetch_value("delete_session", session_id, now, version)

    async def copy_session(self, source: str, copy: Session) -> bool:
        """Keep a session with the history of another, and a copy of its agent's state."""
        check_session(copy)
        agent = AgentId.parse(copy.agent)
        return await self._database.fetch_value(
            "copy_session",
            *(source, copy.id, *agent, *_changeable(copy), copy.owner, copy.tenant),
            *(copy.created_at, copy.expires_at),
        )

    async def session_runs(
        self, session_id: str, *, after: int = 0, limit: int = 50, rolled_back: bool = False
    ) -> list[SessionRun]:
        """Return a session's history, oldest first; without runs that are not kept any more."""
        found = await self._database.fetch("session_runs", session_id, after, limit, rolled_back)
        return [
            SessionRun(
                number=row["number"],
                prompt=decode(row["input"]).get("prompt", ""),
                rolled_back=row["rolled_back"],
                run=rows.run_of(row),
            )
            for row in found
        ]

    async def session_front(self, session_id: str, *, limit: int = 100) -> Front:
        """Return the runs of a session that have not ended."""
        found = await self._database.fetch("session_front", session_id, limit)
        rolling_back = bool(found) and await self._database.fetch_value("rolling_back", session_id)
        return Front([rows.stored_run_of(row) for row in found], bool(rolling_back))

    async def begin_in_session(
        self, host: str, lease: SlotLease, run_id: str, now: datetime
    ) -> Beginning:
        """Let a held run begin if it is its turn, in one transaction with what that means."""
        del now
        about = (host, lease.pool, lease.slot, lease.epoch, run_id)
        return Beginning(await self._database.fetch_value("begin_in_session", *about))

    async def due_in_sessions(self, *, limit: int = 500) -> list[StoredRun]:
        """Return held runs whose turn it is, or before which one is to be cancelled: one each."""
        found = await self._database.fetch("due_in_sessions", limit)
        return [rows.stored_run_of(row) for row in found]

    async def expire_sessions(self, now: datetime, *, limit: int) -> int:
        """Let sessions be gone that have expired and have no run under way; return how many."""
        return await self._database.fetch_value("expire_sessions", now, limit)

    async def gone_sessions(self, *, after: str = "", limit: int = 500) -> list[Session]:
        """Return sessions that are gone and whose runs have all ended, in the order of ids."""
        found = await self._database.fetch("gone_sessions", after, limit)
        return [_session_of(row) for row in found]

    async def forget_sessions(self, session_ids: Sequence[str]) -> int:
        """Forget gone sessions whose runs have ended; the runs stay. Return how many there were."""
        return await self._database.fetch_value("forget_sessions", list(session_ids))

    async def _admit_in_sessions(self, runs: Mapping[int, NewRun]) -> dict[int, Admission]:
        """Admit prompts to sessions; those whose id or key is known are left out."""
        columns = rows.columns(
            (
                (
                    *(run.id, *run.agent, run.pool, run.slot, encode_object(run.input)),
                    *(run.correlation_id, run.owner, run.idempotency_key, run.digest),
                    *(run.created_at, run.deadline, run.session, run.policy.value, run.access),
                )
                for run in runs.values()
            ),
            15,
        )
        row = await self._database.fetch_row("admit_in_sessions", *columns)
        if row is None:
            return {}
        blockers = await self._blockers([blocker for blocker in row["blockers"] if blocker])
        admissions: dict[int, Admission] = {}
        for (n, run), outcome, blocker in zip(
            runs.items(), row["outcomes"], row["blockers"], strict=True
        ):
            new = queued_run(run)
            if outcome in _REFUSALS:
                shown = blockers.get(blocker, new)
                admissions[n] = Admission(shown, created=False, refused=Refusal(outcome))
            elif outcome != "known":
                admissions[n] = Admission(new, created=True, held=outcome == "held")
        return admissions

    async def _blockers(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return runs by their ids; those that stand in somebody's way."""
        if not ids:
            return {}
        found = await self._database.fetch("find_admitted", list(ids), [], [])
        return {row["id"]: rows.run_of(row) for row in found}


def _changeable(session: Session) -> tuple[Any, ...]:
    """Return the columns that may be changed."""
    return (
        *(session.access_level.value, session.title, encode(session.labels)),
        *(encode(session.metadata), session.ttl_s),
    )


def _session_of(row: Row) -> Session:
    fields = dict(row)
    agent = AgentId(fields.pop("agent_type"), fields.pop("agent_key"))
    fields |= {"labels": decode(fields["labels"]), "metadata": decode(fields["metadata"])}
    return Session(agent=str(agent), **fields)
