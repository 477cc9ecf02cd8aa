"""What a driver without `await` does with dead letters."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from agentray.ids import AgentId
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run
from agentray.runtime.sync_part import SyncPart


class SyncLetters(SyncPart):
    """A `LetterClient` whose methods block; see there for what each one does and raises."""

    def dead_letters(
        self,
        *,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Return what came to nothing with nobody there to hear of it, newest first."""
        asked = self._manager.dead_letters(
            kind=kind, reason=reason, agent=agent, retried=retried, before=before, limit=limit
        )
        return self._wait(asked)

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter."""
        return self._wait(self._manager.dead_letter(letter_id))

    def retry_dead_letter(self, letter_id: str) -> Run:
        """Try a dead letter once more, as a run; return that as it is now."""
        return self._wait(self._manager.retry_dead_letter(letter_id))

    def purge_dead_letters(
        self,
        *,
        ids: Iterable[str] | None = None,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        older_than: timedelta | None = None,
    ) -> int:
        """Forget dead letters; return how many. Without arguments: all that there are."""
        asked = self._manager.purge_dead_letters(
            ids=ids, kind=kind, reason=reason, agent=agent, retried=retried, older_than=older_than
        )
        return self._wait(asked)
