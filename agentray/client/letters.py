"""Dead letters in the asynchronous client."""

from __future__ import annotations

from typing import Unpack

from agentray.client.calls import letters as calls
from agentray.client.calls.http import check
from agentray.client.calls.letters import DeadLetterPage, LetterMatch
from agentray.client.calls.runs import parse_run
from agentray.client.resource import AsyncResource
from agentray.protocol.letters import DeadLetter
from agentray.protocol.runs import Run


class AsyncLetters(AsyncResource):
    """A part of `AsyncAgentClient`."""

    async def dead_letters(
        self, *, limit: int = 50, before: str | None = None, **match: Unpack[LetterMatch]
    ) -> DeadLetterPage:
        """Return what came to nothing with nobody there to hear of it, newest first.

        Args:
            limit: most of them, 1 to 200.
            before: id of the last one already seen: the `next` of the page before.
            match: only those of this `kind`, `reason` or `agent`, or that were `retried` or not.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        request = calls.list_letters(limit, before, match)
        return calls.parse_letter_page(await self._connection.send(request))

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter.

        Raises:
            NotFound: there is none of this id.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        return calls.parse_letter(await self._connection.send(calls.get_letter(letter_id)))

    async def retry_dead_letter(self, letter_id: str) -> Run:
        """Try a dead letter once more, as a run; return that as it is now.

        However often it is asked for, there is one run until that has ended without success.

        Raises:
            NotFound: there is none of this id.
            Conflict: its content was not kept.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        return parse_run(await self._connection.send(calls.retry_letter(letter_id)))

    async def forget_dead_letter(self, letter_id: str) -> None:
        """Forget a dead letter.

        Raises:
            NotFound: there is none of this id, any more.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        check(await self._connection.send(calls.forget_letter(letter_id)))

    async def purge_dead_letters(
        self, *, older_than_s: float | None = None, **match: Unpack[LetterMatch]
    ) -> int:
        """Forget dead letters; return how many. Without arguments: all that there are.

        Args:
            older_than_s: only those that are older, in seconds.
            match: see `dead_letters`.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        request = calls.purge_letters(older_than_s, match)
        return calls.parse_purged(await self._connection.send(request))
