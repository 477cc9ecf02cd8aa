"""The client for asyncio programs."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Self, Unpack

from agentray.client import calls
from agentray.client.access import Access
from agentray.client.calls import DeadLetterPage, LetterMatch, RunPage
from agentray.client.connection import Connection
from agentray.client.schedules import AsyncSchedules
from agentray.client.streams import follow
from agentray.core.lifecycle import is_settled
from agentray.ids import new_id
from agentray.protocol.budgets import Budget
from agentray.protocol.cursors import Cursor
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.letters import DeadLetter
from agentray.protocol.runs import Run, RunEvent, RunStatus, Span

DEFAULT_WAIT_S = 30.0
_LONGEST_WAIT_S = 30.0  # of one request; a longer wait is made of several


class AsyncAgentClient:
    """Prompts agents and follows their runs.

    Use it as a context manager, or call `close`. Requests that a gateway cannot take now (no
    connection, 503, 429, the error page of a proxy that lost it) are repeated until `timeout_s` is
    over; that is safe, since every prompt carries an idempotency key.

    ```python
    async with AsyncAgentClient() as client:
        run = await client.prompt("Hello", agent="greeter/ada")
    ```
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        """Make one; nothing is connected yet.

        Args:
            base_url: of the gateway; None: `AGENTRAY_URL`, else the cluster of this machine.
            api_key: None: `AGENTRAY_API_KEY`, else the key of this machine's cluster.
            timeout_s: how long a call may take, retries included, beyond what it waits for a run.

        Raises:
            ClusterNotRunning: no URL is given, and nothing is up on this machine.
            ConfigurationError: the URL is malformed.
        """
        self._connection = Connection(Access.find(base_url, api_key), timeout_s)

    @property
    def schedules(self) -> AsyncSchedules:
        """Prompts that are given again and again."""
        return AsyncSchedules(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; harmless when called twice."""
        await self._connection.close()

    async def prompt(  # noqa: PLR0913 - all that there is to say of a run
        self,
        text: str,
        agent: str | None = None,
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        run_timeout_s: float | None = None,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        durability: PromptDurability = "run",
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> Run:
        """Ask an agent and return the run: ended, waiting for an answer, or after `wait_s`.

        Args:
            text: what it is asked.
            agent: an agent type (a fresh instance answers) or type/key; None: the app's entry.
            wait_s: seconds to wait for the end; look at `status` afterwards. None: 30, and 0 for a
                run that begins later.
            idempotency_key: the same key finds the same run for 24 hours; None: a new one.
            run_timeout_s: seconds from now, or from when it is to begin, after which the run is
                ended as `timed_out`, wherever it is then; None: never.
            budget: what the run may use; beyond it, it ends as `budget_exceeded`.
            max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
            durability: `run`: it begins again when a host dies. `step`: it goes on after the last
                commit; it has no budget then, and cannot wait for an answer.
            delay_s: seconds after which the run begins; it is accepted at once.
            at: when it begins, an aware time.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        if wait_s is None:
            wait_s = DEFAULT_WAIT_S if delay_s is None and at is None else 0.0
        deadline = time.monotonic() + wait_s
        slice_s = min(wait_s, _LONGEST_WAIT_S)
        request = calls.prompt(
            text,
            agent=agent,
            idempotency_key=idempotency_key or new_id("key"),
            # A long wait is left to the gateway, whose limit is not known here.
            wait_s=wait_s if wait_s < _LONGEST_WAIT_S else None,
            timeout_s=run_timeout_s,
            budget=budget,
            max_attempts=max_attempts,
            durability=durability,
            delay_s=delay_s,
            at=at,
        )
        response = await self._connection.send(request, waiting_s=slice_s)
        return await self._until_settled(calls.parse_run(response), deadline)

    def stream(
        self,
        text: str,
        agent: str | None = None,
        *,
        idempotency_key: str | None = None,
        run_timeout_s: float | None = None,
        budget: Budget | None = None,
        max_attempts: int | None = None,
        durability: PromptDurability = "run",
    ) -> AsyncGenerator[RunEvent]:
        """Ask an agent and yield the run's events, from the first to the terminal one.

        Args:
            text: what it is asked.
            agent: an agent type (a fresh instance answers) or type/key; None: the app's entry.
            idempotency_key: the same key finds the same run for 24 hours; None: a new one.
            run_timeout_s: seconds from now on after which the run is ended; None: never.
            budget: what the run may use.
            max_attempts: after so many that each lost a host it is `dead`; None: as settings say.
            durability: `run`: it begins again when a host dies. `step`: it goes on after the last
                commit; it has no budget then, and cannot wait for an answer.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        request = calls.prompt(
            text,
            agent=agent,
            idempotency_key=idempotency_key or new_id("key"),
            stream=True,
            timeout_s=run_timeout_s,
            budget=budget,
            max_attempts=max_attempts,
            durability=durability,
        )
        return follow(self._connection.open, request, run_id=None)

    async def run(self, run_id: str, wait_s: float = 0) -> Run:
        """Return a run: ended, waiting for an answer, or as it is after `wait_s` seconds.

        Raises:
            NotFound: there is none of this id.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        deadline = time.monotonic() + wait_s
        slice_s = min(wait_s, _LONGEST_WAIT_S)
        response = await self._connection.send(calls.get_run(run_id, slice_s), waiting_s=slice_s)
        return await self._until_settled(calls.parse_run(response), deadline)

    async def cancel(self, run_id: str, wait_s: float = DEFAULT_WAIT_S) -> Run:
        """End a run, and return it: ended, or as it is after `wait_s`; it then ends by itself.

        Its handlers are cancelled, wherever they work, and what waits is withdrawn. A run that has
        ended already is returned as it is.

        Args:
            run_id: which run.
            wait_s: seconds to wait for its end.

        Raises:
            NotFound: there is none of this id.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        deadline = time.monotonic() + wait_s
        slice_s = min(wait_s, _LONGEST_WAIT_S)
        request = calls.cancel_run(run_id, wait_s if wait_s < _LONGEST_WAIT_S else None)
        response = await self._connection.send(request, waiting_s=slice_s)
        return await self._until_settled(calls.parse_run(response), deadline)

    async def answer(
        self,
        run_id: str,
        answer: Any,
        *,
        question: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
        idempotency_key: str | None = None,
    ) -> Run:
        """Answer what a run waits to be told, and return the run as `prompt` does.

        Args:
            run_id: which run.
            answer: JSON values.
            question: id of the question; None: the one that the run asks now.
            wait_s: seconds to wait for the end, or for the next question.
            idempotency_key: the same key and answer again change nothing; None: a new one.

        Raises:
            NotFound: there is none of this id.
            Conflict: it does not wait, or not for the answer to this question.
            InvalidRequest: the answer is not what the question wants; `errors` names the field.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        deadline = time.monotonic() + wait_s
        slice_s = min(wait_s, _LONGEST_WAIT_S)
        request = calls.answer_run(
            run_id,
            answer,
            idempotency_key=idempotency_key or new_id("key"),
            question=question,
            wait_s=wait_s if wait_s < _LONGEST_WAIT_S else None,
        )
        response = await self._connection.send(request, waiting_s=slice_s)
        return await self._until_settled(calls.parse_run(response), deadline)

    async def runs(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
    ) -> RunPage:
        """Return runs, newest first.

        Args:
            limit: most of them, 1 to 200.
            before: id of the last run already seen: the `next` of the page before.
            status: only those.
            agent: only those of this agent type, or of this agent: `type/key`.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        return calls.parse_page(
            await self._connection.send(calls.list_runs(limit, before, status, agent))
        )

    def events(self, run_id: str, after: int | RunEvent = -1) -> AsyncGenerator[RunEvent]:
        """Yield a run's events until the terminal one, also across broken connections.

        Args:
            run_id: which run.
            after: the last event already seen, or its offset; -1 for the beginning.

        Raises:
            NotFound: there is no such run.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        seen = Cursor.of(after)
        return follow(self._connection.open, calls.get_events(run_id, seen), run_id, seen)

    async def trace(self, run_id: str) -> list[Span]:
        """Return the spans of an ended run, in order of their start.

        Raises:
            NotFound: there is no such run.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        return calls.parse_trace(await self._connection.send(calls.get_trace(run_id)))

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
        return calls.parse_run(await self._connection.send(calls.retry_letter(letter_id)))

    async def forget_dead_letter(self, letter_id: str) -> None:
        """Forget a dead letter.

        Raises:
            NotFound: there is none of this id, any more.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        calls.check(await self._connection.send(calls.forget_letter(letter_id)))

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

    async def ready(self) -> list[str]:
        """Return what is missing before prompts can be served; empty when ready. Never retried.

        Raises:
            ConnectionFailed: no gateway answers.
            ClientError: what answers is no gateway.
        """
        return calls.missing_parts(await self._connection.exchange(calls.get_ready()))

    async def _until_settled(self, run: Run, deadline: float) -> Run:
        while not is_settled(run) and (left_s := deadline - time.monotonic()) > 0:
            slice_s = min(left_s, _LONGEST_WAIT_S)
            response = await self._connection.send(
                calls.get_run(run.id, slice_s), waiting_s=slice_s
            )
            run = calls.parse_run(response)
        return run
