"""Dead letters in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from agentray.core.owners import tenant_of
from agentray.events import Prompt
from agentray.protocol.letters import (
    ALL_LETTERS,
    DeadLetter,
    LetterKind,
    LetterQuery,
    LetterReason,
)
from agentray.store.codec import check_letter, check_run, decode, encode, encode_object
from agentray.store.letters import StoredLetter, letter_id_of_run

if TYPE_CHECKING:
    from agentray.store.base import Admission, NewRun, StoredRun


class MemoryLetters:
    """The part of `MemoryStore` that keeps dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self._letters: dict[str, StoredLetter] = {}

    def _admit(self, run: NewRun, text: str) -> Admission:
        """Keep a new run; its input is given as JSON."""
        raise NotImplementedError

    async def add_dead_letters(self, letters: Sequence[StoredLetter]) -> None:
        """Keep dead letters; one that is kept already is left alone."""
        for stored in letters:
            check_letter(stored)
        payloads = [decode(encode(stored.letter.payload)) for stored in letters]
        for stored, payload in zip(letters, payloads, strict=True):
            letter = stored.letter.model_copy(update={"payload": payload})
            self._letters.setdefault(letter.id, replace(stored, letter=letter))

    def _bury(self, stored: StoredRun) -> None:
        """Keep the letter of a run that has died."""
        run = stored.run
        finished_at: datetime = run.finished_at or run.created_at
        letter = DeadLetter(
            id=letter_id_of_run(run.id, finished_at),
            kind=LetterKind.RUN,
            reason=LetterReason.RUN_DEAD,
            target=run.agent,
            name=stored.input.get("event", {}).get("event_type", Prompt.event_type),
            correlation_id=run.correlation_id,
            run_id=run.id,
            attempts=run.attempt,
            error=run.error,
            created_at=finished_at,
        )
        self._letters.setdefault(letter.id, StoredLetter(letter, stored.pool, owner=stored.owner))

    async def get_dead_letter(self, letter_id: str) -> StoredLetter | None:
        """Return a dead letter with its content, or None."""
        return self._letters.get(letter_id)

    async def list_dead_letters(
        self, query: LetterQuery = ALL_LETTERS, *, limit: int = 100, before: str | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; `before` is the id of the last one already seen."""
        found = [
            stored.letter
            for _, stored in sorted(self._letters.items(), reverse=True)
            if (before is None or stored.letter.id < before) and _matches(stored, query)
        ]
        return found[:limit]

    async def retry_dead_letter(
        self, letter_id: str, run: NewRun, instead_of: str | None
    ) -> str | None:
        """Admit the run that tries a letter once more, and note it with the letter, at once."""
        check_run(run)
        text = encode_object(run.input)
        stored = self._letters.get(letter_id)
        if stored is None:
            return None
        if stored.letter.retried_as != instead_of:
            return stored.letter.retried_as
        letter = stored.letter.model_copy(update={"retried_as": run.id})
        self._letters[letter_id] = replace(stored, letter=letter)
        self._admit(run, text)
        return run.id

    async def purge_dead_letters(self, query: LetterQuery, *, limit: int = 1000) -> int:
        """Forget dead letters, at most `limit`; return how many."""
        matching = (i for i, d in sorted(self._letters.items()) if _matches(d, query))
        return self._forget(list(matching)[:limit])

    async def prune_dead_letters(self, *, keep: int, limit: int = 1000) -> int:
        """Forget the oldest beyond the newest `keep`, at most `limit`; return how many."""
        beyond = max(0, len(self._letters) - keep)
        return self._forget(sorted(self._letters)[: min(beyond, limit)])

    def _forget(self, ids: Iterable[str]) -> int:
        return sum(self._letters.pop(letter_id, None) is not None for letter_id in ids)


def _matches(stored: StoredLetter, query: LetterQuery) -> bool:
    letter = stored.letter
    return (
        query.kind in {None, letter.kind}
        and query.reason in {None, letter.reason}
        and query.agent in {None, letter.target, letter.target.partition("/")[0]}
        and query.retried in {None, letter.retried_as is not None}
        and (query.until is None or letter.created_at < query.until)
        and (query.ids is None or letter.id in query.ids)
        and query.tenant in {None, tenant_of(stored.owner)}
    )
