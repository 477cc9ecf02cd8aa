"""What the Store keeps of dead letters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from agentray.protocol.letters import ALL_LETTERS, DeadLetter, LetterQuery

if TYPE_CHECKING:
    from agentray.store.base import NewRun


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter with what only the cluster reads."""

    letter: DeadLetter
    pool: str  # whose hosts can read it
    content: bytes = b""  # pickled, where it has no JSON: the arguments of an action, or an event
    owner: str = ""  # whose run it was; "": of nobody in particular


def letter_id_of_run(run_id: str, finished_at: datetime) -> str:
    """Return the id of the dead letter of a run: always the same, in order of the time it died."""
    digits = hashlib.md5(run_id.encode(), usedforsecurity=False).hexdigest()[:16]
    return f"dead_{int(finished_at.timestamp() * 1000):012x}{digits}"


class LetterStore(Protocol):
    """Dead letters. Those of runs are written by the transaction that ends a run as `dead`."""

    async def add_dead_letters(self, letters: Sequence[StoredLetter]) -> None:
        """Keep dead letters; one that is kept already is left alone.

        Raises:
            PayloadError: one cannot be kept; none is.
        """
        ...

    async def get_dead_letter(self, letter_id: str) -> StoredLetter | None:
        """Return a dead letter with its content, or None."""
        ...

    async def list_dead_letters(
        self, query: LetterQuery = ALL_LETTERS, *, limit: int = 100, before: str | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; `before` is the id of the last one already seen."""
        ...

    async def retry_dead_letter(
        self, letter_id: str, run: NewRun, instead_of: str | None
    ) -> str | None:
        """Admit the run that tries a letter once more, and note it with the letter, at once.

        Args:
            letter_id: of the letter.
            run: the run.
            instead_of: the run that has tried it before; None: none has. Where the letter says
                otherwise, somebody was quicker, and nothing is written.

        Returns:
            The run that tries it now; None: there is no such letter.
        """
        ...

    async def purge_dead_letters(self, query: LetterQuery, *, limit: int = 1000) -> int:
        """Forget dead letters, at most `limit`; return how many."""
        ...

    async def prune_dead_letters(self, *, keep: int, limit: int = 1000) -> int:
        """Forget the oldest beyond the newest `keep`, at most `limit`; return how many."""
        ...
