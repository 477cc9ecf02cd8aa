"""Dead letters in PostgreSQL. The trigger `bury_run` writes those of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agentray.protocol.letters import ALL_LETTERS, DeadLetter, LetterQuery
from agentray.protocol.runs import RunError
from agentray.store.base import NewRun
from agentray.store.codec import check_letter, check_run, decode, encode, encode_object
from agentray.store.database import Database, Row
from agentray.store.letters import StoredLetter
from agentray.store.rows import columns


class PostgresLetters:
    """The part of `PostgresStore` that keeps dead letters."""

    _database: Database

    async def add_dead_letters(self, letters: Sequence[StoredLetter]) -> None:
        """Keep dead letters; one that is kept already is left alone."""
        for letter in letters:
            check_letter(letter)
        await self._database.execute("add_dead_letters", *_letter_columns(letters))

    async def get_dead_letter(self, letter_id: str) -> StoredLetter | None:
        """Return a dead letter with its content, or None."""
        row = await self._database.fetch_row("get_dead_letter", letter_id)
        if row is None:
            return None
        fields = dict(row)
        pool, content, owner = (fields.pop(name) for name in ("pool", "content", "owner"))
        return StoredLetter(_letter_of(fields), pool, content, owner)

    async def list_dead_letters(
        self, query: LetterQuery = ALL_LETTERS, *, limit: int = 100, before: str | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; `before` is the id of the last one already seen."""
        found = await self._database.fetch("list_dead_letters", *_wanted(query), before, limit)
        return [_letter_of(row) for row in found]

    async def retry_dead_letter(
        self, letter_id: str, run: NewRun, instead_of: str | None
    ) -> str | None:
        """Admit the run that tries a letter once more, and note it with the letter, at once."""
        check_run(run)
        about = (run.id, *run.agent, run.pool, run.slot, encode_object(run.input))
        more = (run.correlation_id, run.owner, run.digest, run.created_at, run.deadline)
        row = await self._database.fetch_row(
            "retry_dead_letter", letter_id, instead_of, *about, *more
        )
        if row is not None:
            return row["id"]
        return await self._database.fetch_value("retried_as", letter_id)

    async def purge_dead_letters(self, query: LetterQuery, *, limit: int = 1000) -> int:
        """Forget dead letters, at most `limit`; return how many."""
        return await self._database.fetch_value("purge_dead_letters", *_wanted(query), limit)

    async def prune_dead_letters(self, *, keep: int, limit: int = 1000) -> int:
        """Forget the oldest beyond the newest `keep`, at most `limit`; return how many."""
        return await self._database.fetch_value("prune_dead_letters", keep, limit)


def _wanted(query: LetterQuery) -> tuple[Any, ...]:
    ids = None if query.ids is None else list(query.ids)
    return (query.kind, query.reason, query.agent, query.retried, query.until, ids, query.tenant)


def _letter_columns(letters: Iterable[StoredLetter]) -> list[list[Any]]:
    return columns(
        (
            (
                *(letter.id, letter.kind.value, letter.reason.value, letter.target, letter.name),
                *(encode(letter.payload), letter.sender, letter.correlation_id, letter.run_id),
                letter.attempts,
                encode(letter.error.model_dump(mode="json")) if letter.error else None,
                *(letter.created_at, letter.retryable, stored.pool, stored.content),
            )
            for letter, stored in ((stored.letter, stored) for stored in letters)
        ),
        15,
    )


def _letter_of(row: Row) -> DeadLetter:
    error = decode(row["error"])
    if error is not None:
        error.pop("others", None)  # a run keeps all of its errors; a letter, the first
    return DeadLetter.model_validate(
        {
            **row,
            "payload": decode(row["payload"]),
            "error": None if error is None else RunError.model_validate(error),
        }
    )
