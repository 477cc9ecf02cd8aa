"""Prompts and runs in the asynchronous client."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Unpack

from agentray.client.calls import runs as calls
from agentray.client.calls.runs import PromptOptions, RunPage
from agentray.client.resource import AsyncResource
from agentray.client.streams import follow
from agentray.core.lifecycle import is_settled
from agentray.ids import new_id
from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import Run, RunEvent, RunStatus, Span

DEFAULT_WAIT_S = 30.0
_LONGEST_WAIT_S = 30.0  # of one request; a longer wait is made of several


class AsyncRuns(AsyncResource):
    """A part of `AsyncAgentClient`."""

    async def prompt(
        self,
        text: str,
        agent: str | None = None,
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> Run:
        """Ask an agent and return the run: ended, waiting for an answer, or after `wait_s`.

        Args:
            text: what it is asked.
            agent: an agent type (a fresh instance answers) or type/key; None: the app's entry.
            wait_s: seconds to wait for the end; look at `status` afterwards. None: 30, and 0 for a
                run that begins later.
            idempotency_key: the same key finds the same run for 24 hours; None: a new one.
            options: see `PromptOptions`.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
            TypeError: there is no such option.
        """
        if wait_s is None:
            wait_s = 0.0 if calls.begins_later(options) else DEFAULT_WAIT_S
        deadline = time.monotonic() + wait_s
        slice_s = min(wait_s, _LONGEST_WAIT_S)
        request = calls.prompt(
            text,
            agent,
            options,
            idempotency_key=idempotency_key or new_id("key"),
            # A long wait is left to the gateway, whose limit is not known here.
            wait_s=wait_s if wait_s < _LONGEST_WAIT_S else None,
        )
        response = await self._connection.send(request, waiting_s=slice_s)
        return await self._until_settled(calls.parse_run(response), deadline)

    def stream(
        self,
        text: str,
        agent: str | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> AsyncGenerator[RunEvent]:
        """Ask an agent and yield the run's events, from the first to the terminal one.

        Args:
            text: what it is asked.
            agent: an agent type (a fresh instance answers) or type/key; None: the app's entry.
            idempotency_key: the same key finds the same run for 24 hours; None: a new one.
            options: see `PromptOptions`.

        Raises:
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
            TypeError: there is no such option.
        """
        again = idempotency_key or new_id("key")
        request = calls.prompt(text, agent, options, idempotency_key=again, stream=True)
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

    async def trace(self, run_id: str, *, newer_than: datetime | None = None) -> list[Span]:
        """Return a run's spans: of one with `enable_trace` as it goes, of others at their end.

        Args:
            run_id: which run.
            newer_than: only what was told after this time.

        Raises:
            NotFound: there is no such run.
            ClientError: the gateway refuses, or cannot be reached within the client's timeout.
        """
        spans: list[Span] = []
        while True:
            request = calls.get_trace(run_id, newer_than)
            page = calls.parse_trace(await self._connection.send(request))
            spans += page.spans
            if not page.more:
                return spans
            newer_than = page.next

    async def _until_settled(self, run: Run, deadline: float) -> Run:
        while not is_settled(run) and (left_s := deadline - time.monotonic()) > 0:
            slice_s = min(left_s, _LONGEST_WAIT_S)
            response = await self._connection.send(
                calls.get_run(run.id, slice_s), waiting_s=slice_s
            )
            run = calls.parse_run(response)
        return run
