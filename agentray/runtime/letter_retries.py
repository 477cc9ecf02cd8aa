"""Trying a dead letter once more: as a run, so that it is known what becomes of it.

The run is admitted by the transaction that notes it with the letter. So two who try the same letter
at once find one run, and one whose answer was lost finds its own: there is one effect. A run that
has died stays dead, since a run ends once: it is tried again as a run of its own, which names it.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from agentray.core.lifecycle import TERMINAL
from agentray.errors import NotRetryable, UnknownDeadLetter
from agentray.ids import AgentId, new_id, slot_of
from agentray.protocol.event_runs import RETRY, RETRY_OF, RunOptions, is_root, root_of
from agentray.protocol.letters import LetterKind, LetterReason
from agentray.protocol.runs import Run, RunStatus
from agentray.protocol.sessions import SESSION
from agentray.runtime.handing_over import hand_over
from agentray.runtime.ports import RunDispatcher
from agentray.runtime.tasks import TaskSet
from agentray.store.base import NewRun, Store
from agentray.store.letters import StoredLetter

_DONE = frozenset({RunStatus.SUCCEEDED})


class LetterRetries:
    """Tries dead letters once more."""

    def __init__(self, store: Store, dispatcher: RunDispatcher) -> None:
        """Make it.

        Args:
            store: where the letters are.
            dispatcher: hands runs to their hosts.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._tasks = TaskSet("retries of dead letters")

    async def retry(self, letter_id: str) -> Run:
        """Try a letter once more; return the run that does, as it is now.

        One that is tried already, or has been with success, is not tried again.

        Raises:
            UnknownDeadLetter: there is none of this id.
            NotRetryable: its content was not kept.
        """
        while True:
            stored = await self._find(letter_id)
            before = stored.letter.retried_as
            if before is not None:
                run = await self._store.get_run(before)
                if run is None:
                    raise NotRetryable(
                        letter_id, f"the run {before} has tried it, and is not kept any more"
                    )
                if run.run.status not in TERMINAL - _DONE:
                    return run.run
            new = await self._new_run(stored)
            winner = await self._store.retry_dead_letter(letter_id, new, before)
            if winner == new.id:
                self._tasks.spawn(hand_over(self._dispatcher, new), name=f"retry {letter_id}")
                found = await self._store.get_run(new.id)
                if found is not None:
                    return found.run

    async def _find(self, letter_id: str) -> StoredLetter:
        stored = await self._store.get_dead_letter(letter_id) if "\0" not in letter_id else None
        if stored is None:
            raise UnknownDeadLetter(letter_id)
        if not stored.letter.retryable:
            raise NotRetryable(letter_id, "its content was too large to be kept, or unreadable")
        return stored

    async def _new_run(self, stored: StoredLetter) -> NewRun:
        letter = stored.letter
        if letter.kind is LetterKind.RUN:
            return await self._run_again(stored)
        to = None if letter.reason is LetterReason.NO_SUBSCRIBER else letter.target
        content = b64encode(stored.content).decode() if stored.content else None
        retry = {
            "letter": letter.id,
            "to": to,
            "action": letter.name if letter.kind is LetterKind.MESSAGE else None,
            "content": content,
        }
        options = RunOptions(events=True, sender=letter.sender if to is None else None)
        given = options.as_input(letter.payload or {"event_type": letter.name}) | {RETRY: retry}
        return self._of_root(stored, new_id("run"), given)

    async def _run_again(self, stored: StoredLetter) -> NewRun:
        letter = stored.letter
        dead = await self._store.get_run(letter.run_id or "")
        if dead is None:
            raise NotRetryable(letter.id, f"the run {letter.run_id} is not kept any more")
        given = {name: value for name, value in dead.input.items() if name != SESSION}
        run_id, given = new_id("run"), {**given, RETRY_OF: dead.run.id}
        if is_root(dead.agent.type):
            return self._of_root(stored, run_id, given, owner=dead.owner)
        return self._made(run_id, dead.agent, stored.pool, given, dead.owner)

    def _of_root(
        self, stored: StoredLetter, run_id: str, given: dict[str, Any], owner: str = ""
    ) -> NewRun:
        return self._made(run_id, root_of(stored.pool, run_id), stored.pool, given, owner)

    def _made(
        self, run_id: str, agent: AgentId, pool: str, given: dict[str, Any], owner: str
    ) -> NewRun:
        now = datetime.now(UTC)
        return NewRun(run_id, agent, pool, slot_of(agent), given, run_id, now, owner)

    async def close(self) -> None:
        """Let go of what is under way: its hosts go on."""
        await self._tasks.close()
