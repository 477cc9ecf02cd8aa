"""What a driver does with dead letters: list, show, retry, purge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agentray.ids import AgentId
from agentray.protocol.letters import DeadLetter, LetterKind, LetterQuery, LetterReason
from agentray.protocol.runs import Run
from agentray.runtime.watcher import ManagerPort


class LetterClient:
    """Dead letters: a part of `ManagerClient`."""

    _manager: ManagerPort

    async def dead_letters(
        self,
        *,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Return what came to nothing with nobody there to hear of it, newest first.

        `status()["dead_letters_by_reason"]` counts it.

        Args:
            kind: only events, told messages or runs.
            reason: only those that are dead for this reason.
            agent: only those that were for this agent, or for agents of this type; or events of
                this type that nobody subscribes to.
            retried: only those that were tried once more, or that were not; None: both.
            before: id of the last one already seen, for the next page.
            limit: most of them.
        """
        query = _letters(kind, reason, agent, retried)
        return await self._manager.call("dead_letters", query, limit, before)

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        return await self._manager.call("dead_letter", letter_id)

    async def retry_dead_letter(self, letter_id: str) -> Run:
        """Try a dead letter once more, as a run; return that as it is now.

        An event without subscribers goes to those that it has now, every other one, and what was
        told, to the agent that it was for. A run that died is run anew as another one. However
        often it is asked for, also at once, there is one run, until that has ended without success.

        Raises:
            UnknownDeadLetter: there is none of this id.
            NotRetryable: its content was not kept.
        """
        return await self._manager.call("retry_dead_letter", letter_id)

    async def purge_dead_letters(
        self,
        *,
        ids: Iterable[str] | None = None,
        kind: LetterKind | None = None,
        reason: LetterReason | None = None,
        agent: AgentId | str | None = None,
        retried: bool | None = None,
        older_than: timedelta | None = None,
    ) -> int:
        """Forget dead letters; return how many. Without arguments: all that there are.

        Args:
            ids: only these.
            kind: see `dead_letters`, as for `reason`, `agent` and `retried`.
            reason: see there.
            agent: see there.
            retried: see there.
            older_than: only those that are at least as old.
        """
        until = None if older_than is None else datetime.now(UTC) - older_than
        wanted = None if ids is None else list(ids)
        query = replace(_letters(kind, reason, agent, retried), until=until, ids=wanted)
        return await self._manager.call("purge_dead_letters", query)


def _letters(
    kind: LetterKind | None,
    reason: LetterReason | None,
    agent: AgentId | str | None,
    retried: bool | None,
) -> LetterQuery:
    return LetterQuery(
        None if kind is None else LetterKind(kind),
        None if reason is None else LetterReason(reason),
        None if agent is None else str(agent),
        retried,
    )
