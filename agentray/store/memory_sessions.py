"""Sessions, in memory: what the functions of the PostgreSQL store do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agentray.core.session_turns import judge
from agentray.ids import AgentId
from agentray.protocol.sessions import Session, SessionPolicy, SessionQuery, SessionRun
from agentray.store.base import Admission, NewRun, SlotLease, StoredRun, queued_run
from agentray.store.codec import check_session, decode
from agentray.store.sessions import Beginning, Front, Refusal

if TYPE_CHECKING:
    from agentray.store.memory import RunRow


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as it is kept here."""

    text: str  # its JSON, so that nothing is shared
    gone: bool = False
    turns: int = 0
    rolling_back: bool = False
    kept: tuple[str, int] | None = None  # the agent's state before the last run that began

    @property
    def session(self) -> Session:
        """It as others see it."""
        return Session.model_validate_json(self.text)

    def having(self, **fields: object) -> SessionRow:
        """Return it with other fields of the session."""
        changed = self.session.model_copy(update=fields)
        return replace(self, text=changed.model_dump_json())


@dataclass(frozen=True, slots=True)
class _Entry:
    run_id: str
    rolled_back: bool = False


class MemorySessions:
    """A `SessionStore`; a part of `MemoryStore`."""

    _runs: dict[str, RunRow]
    _states: dict[AgentId, tuple[str, int]]

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[str, SessionRow] = {}
        self._session_of: dict[str, str] = {}  # by agent
        self._histories: dict[str, dict[int, _Entry]] = {}  # by session and number

    @abstractmethod
    def _holds(self, host: str, pool: str, slot: int, epoch: int) -> bool: ...

    async def create_session(self, session: Session) -> bool:
        """Keep a new session; False: its id is taken, or its agent has another session."""
        check_session(session)
        return self._make(session, SessionRow(session.model_dump_json()))

    def _make(self, session: Session, row: SessionRow) -> bool:
        if session.id in self._sessions or session.agent in self._session_of:
            return False
        self._sessions[session.id] = row
        self._session_of[session.agent] = session.id
        self._histories[session.id] = {}
        return True

    async def get_session(self, session_id: str, now: datetime) -> Session | None:
        """Return a session; None: there is none, or it has expired or is being deleted."""
        row = self._living(session_id, now)
        return row.session if row else None

    async def session_of_agent(self, agent: AgentId) -> Session | None:
        """Return the session that an agent is of, also one that is gone and not yet forgotten."""
        found = (row.session for row in self._sessions.values() if row.session.agent == str(agent))
        return next(found, None)

    def _living(self, session_id: str, now: datetime) -> SessionRow | None:
        row = self._sessions.get(session_id)
        return row if row is not None and self._lives(row, now) else None

    def _lives(self, row: SessionRow, now: datetime) -> bool:
        session = row.session
        if row.gone or session.expires_at is None or session.ttl_s is None:
            return not row.gone
        if session.expires_at > now or self._unfinished_of(session.id):
            return True
        last = self._histories[session.id].get(row.turns)
        run = self._runs.get(last.run_id) if last else None
        end = run.end if run else None
        return end is not None and end.finished_at + timedelta(seconds=session.ttl_s) > now

    def _unfinished_of(self, session_id: str) -> list[RunRow]:
        """Return the runs of a session that have not ended, in their order."""
        entries = self._histories.get(session_id, {})
        found = (self._runs.get(entries[number].run_id) for number in sorted(entries))
        return [
            row
            for row in found
            if row is not None and row.end is None and row.new.session == session_id
        ]

    async def list_sessions(
        self, query: SessionQuery, now: datetime, *, limit: int = 50, before: str | None = None
    ) -> list[Session]:
        """Return sessions by their ids, the last one first."""
        ids = sorted((i for i in self._sessions if before is None or i < before), reverse=True)
        rows = (self._sessions[session_id] for session_id in ids)
        living = (row.session for row in rows if self._lives(row, now))
        return [session for session in living if _matches(session, query)][:limit]

    async def update_session(self, session: Session, version: int) -> Session | None:
        """Write what may be changed of a session; return it as it is then."""
        check_session(session)
        row = self._living(session.id, session.updated_at)
        if row is None or row.session.version != version:
            return None
        names = ("access_level", "title", "labels", "metadata", "ttl_s", "updated_at")
        changed = {name: getattr(session, name) for name in names}
        changed["expires_at"] = _expiry(session.ttl_s, session.updated_at)
        changed["version"] = version + 1
        row = self._sessions[session.id] = row.having(**changed)
        return row.session

    async def delete_session(
        self, session_id: str, now: datetime, *, version: int | None = None
    ) -> bool:
        """Let a session be gone for everybody, and ask for the end of its unfinished runs."""
        row = self._living(session_id, now)
        if row is None or version not in {None, row.session.version}:
            return False
        self._sessions[session_id] = replace(row, gone=True)
        self._ask_to_end(self._unfinished_of(session_id), now)
        return True

    def _ask_to_end(self, rows: Sequence[RunRow], at: datetime) -> None:
        for row in rows:
            if row.cancel_requested is None:
                self._runs[row.new.id] = replace(row, cancel_requested=at)

    async def copy_session(self, source: str, copy: Session) -> bool:
        """Keep a session with the history of another, and a copy of its agent's state."""
        check_session(copy)
        row = self._living(source, copy.created_at)
        target = AgentId.parse(copy.agent)
        if row is None or target in self._states:
            return False
        made = SessionRow(copy.model_copy(update={"version": 1}).model_dump_json(), turns=row.turns)
        if not self._make(copy, made):
            return False
        self._histories[copy.id] = {
            number: entry
            for number, entry in self._histories[source].items()
            if (run := self._runs.get(entry.run_id)) is not None and run.end is not None
        }
        under_way = any(not run.delayed for run in self._unfinished_of(source))
        now = self._states.get(AgentId.parse(row.session.agent))
        state = row.kept if under_way or row.rolling_back else now
        if state is not None:
            self._states[target] = state
        return True

    async def session_runs(
        self, session_id: str, *, after: int = 0, limit: int = 50, rolled_back: bool = False
    ) -> list[SessionRun]:
        """Return a session's history, oldest first; without runs that are not kept any more."""
        entries = self._histories.get(session_id, {})
        found = [
            SessionRun(
                number=number,
                prompt=decode(run.input).get("prompt", ""),
                rolled_back=entry.rolled_back,
                run=run.run,
            )
            for number, entry in sorted(entries.items())
            if number > after
            and (rolled_back or not entry.rolled_back)
            and (run := self._runs.get(entry.run_id)) is not None
        ]
        return found[:limit]

    async def session_front(self, session_id: str, *, limit: int = 100) -> Front:
        """Return the runs of a session that have not ended."""
        found = [row.stored_run for row in self._unfinished_of(session_id)[:limit]]
        row = self._sessions.get(session_id)
        return Front(found, bool(found) and row is not None and row.rolling_back)

    async def begin_in_session(
        self, host: str, lease: SlotLease, run_id: str, now: datetime
    ) -> Beginning:
        """Let a held run begin if it is its turn, in one transaction with what that means."""
        del now
        if not self._holds(host, lease.pool, lease.slot, lease.epoch):
            return Beginning.FENCED
        run = self._runs.get(run_id)
        if run is None or not run.held or run.cancel_requested or run.new.session is None:
            return Beginning.NOT_YET
        if self._unfinished_of(run.new.session)[0].new.id != run_id:
            return Beginning.NOT_YET
        row = self._sessions[run.new.session]
        if row.rolling_back and row.kept is None:
            self._states.pop(run.new.agent, None)
        elif row.rolling_back and row.kept is not None:
            self._states[run.new.agent] = row.kept
        self._sessions[run.new.session] = replace(
            row, rolling_back=False, kept=self._states.get(run.new.agent)
        )
        self._runs[run_id] = replace(run, delayed=False)
        return Beginning.BEGUN

    async def due_in_sessions(self, *, limit: int = 500) -> list[StoredRun]:
        """Return held runs whose turn it is, or before which one is to be cancelled: one each."""
        found: list[StoredRun] = []
        for session_id in sorted(self._sessions):
            for row in self._unfinished_of(session_id):
                if row.held:
                    found.append(row.stored_run)
                    break
                if row.cancel_requested is None:
                    break
        return found[:limit]

    async def expire_sessions(self, now: datetime, *, limit: int) -> int:
        """Let sessions be gone that have expired and have no run under way; return how many."""
        expired = [
            i for i, row in self._sessions.items() if not row.gone and not self._lives(row, now)
        ][:limit]
        for session_id in expired:
            self._sessions[session_id] = replace(self._sessions[session_id], gone=True)
        return len(expired)

    async def gone_sessions(self, *, after: str = "", limit: int = 500) -> list[Session]:
        """Return sessions that are gone and whose runs have all ended, in the order of ids."""
        return [
            row.session
            for session_id, row in sorted(self._sessions.items())
            if session_id > after and row.gone and not self._unfinished_of(session_id)
        ][:limit]

    async def forget_sessions(self, session_ids: Sequence[str]) -> int:
        """Forget gone sessions whose runs have ended; the runs stay. Return how many there were."""
        forgotten = 0
        for session_id in session_ids:
            row = self._sessions.get(session_id)
            if row is not None and row.gone and not self._unfinished_of(session_id):
                del self._sessions[session_id], self._histories[session_id]
                del self._session_of[row.session.agent]
                forgotten += 1
        return forgotten

    def _turn_in_session(self, run: NewRun, session_id: str) -> tuple[bool, Admission | None]:
        """Give a prompt its place; return whether it is held, and why it is not admitted."""
        row = self._living(session_id, run.created_at)
        if row is None:
            return False, _refused(run, Refusal.UNKNOWN)
        session = row.session
        if (session.agent, session.access_level) != (str(run.agent), run.access):
            return False, _refused(run, Refusal.CHANGED)
        unfinished = self._unfinished_of(session_id)
        verdict = judge(run.policy, [(each.new.id, each.delayed) for each in unfinished])
        if verdict.refused is not None:
            blocker = unfinished[0].run
            return False, Admission(blocker, created=False, refused=Refusal.BUSY)
        held = verdict.held or row.rolling_back
        history = self._histories[session_id]
        if run.policy is SessionPolicy.ROLLBACK and verdict.cancels:
            for number, entry in list(history.items()):
                if entry.run_id in verdict.cancels:
                    history[number] = replace(entry, rolled_back=True)
        if verdict.cancels:
            self._ask_to_end(unfinished, run.created_at)
        turns = row.turns + 1
        history[turns] = _Entry(run.id)
        if session.ttl_s is not None:
            row = row.having(expires_at=_expiry(session.ttl_s, run.created_at))
        kept = row.kept if held else self._states.get(run.agent)
        rolling_back = row.rolling_back or verdict.rolls_back
        self._sessions[session_id] = replace(row, turns=turns, kept=kept, rolling_back=rolling_back)
        return held, None

    def _forget_history(self, run_ids: Sequence[str]) -> None:
        """Take runs that are forgotten out of all histories."""
        gone = set(run_ids)
        for session_id, entries in self._histories.items():
            self._histories[session_id] = {
                number: entry for number, entry in entries.items() if entry.run_id not in gone
            }


def _refused(run: NewRun, why: Refusal) -> Admission:
    return Admission(queued_run(run), created=False, refused=why)


def _expiry(ttl_s: float | None, at: datetime) -> datetime | None:
    return None if ttl_s is None else at + timedelta(seconds=ttl_s)


def _matches(session: Session, query: SessionQuery) -> bool:
    agent = AgentId.parse(session.agent)
    return (
        query.tenant in {None, session.tenant}
        and query.owner in {None, session.owner}
        and query.agent_type in {None, agent.type}
        and query.agent_key in {None, agent.key}
        and query.labels.items() <= session.labels.items()
    )
