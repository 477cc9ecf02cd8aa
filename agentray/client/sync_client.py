"""The client for programs without an event loop: the async one, driven from a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Any, Self, Unpack

from anyio.from_thread import start_blocking_portal

from agentray.client.async_client import DEFAULT_WAIT_S, AsyncAgentClient
from agentray.client.calls import DeadLetterPage, LetterMatch, RunPage
from agentray.client.schedules import Schedules
from agentray.protocol.budgets import Budget
from agentray.protocol.event_runs import PromptDurability
from agentray.protocol.letters import DeadLetter
from agentray.protocol.runs import Run, RunEvent, RunStatus, Span


class AgentClient:
    """Prompts agents and follows their runs; see `AsyncAgentClient` for what each method does.

    Use it as a context manager, or call `close`. It may be shared by threads.

    ```python
    with AgentClient() as client:
        run = client.prompt("Hello", agent="greeter/ada")
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
        self._client = AsyncAgentClient(base_url, api_key, timeout_s=timeout_s)
        self._exits = ExitStack()
        self._portal = self._exits.enter_context(start_blocking_portal())
        self._exits.callback(self._portal.call, self._client.close)

    @property
    def schedules(self) -> Schedules:
        """Prompts that are given again and again."""
        return Schedules(self._client.schedules, self._portal.call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; harmless when called twice."""
        self._exits.close()

    def prompt(  # noqa: PLR0913 - all that there is to say of a run
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
        """Ask an agent and return the run: ended, or as it is after `wait_s`."""
        ask = partial(
            self._client.prompt,
            wait_s=wait_s,
            idempotency_key=idempotency_key,
            run_timeout_s=run_timeout_s,
            budget=budget,
            max_attempts=max_attempts,
            durability=durability,
            delay_s=delay_s,
            at=at,
        )
        return self._portal.call(ask, text, agent)

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
    ) -> Generator[RunEvent]:
        """Ask an agent and yield the run's events, from the first to the terminal one."""
        return self._iterate(
            self._client.stream(
                text,
                agent,
                idempotency_key=idempotency_key,
                run_timeout_s=run_timeout_s,
                budget=budget,
                max_attempts=max_attempts,
                durability=durability,
            )
        )

    def run(self, run_id: str, wait_s: float = 0) -> Run:
        """Return a run: ended, or as it is after `wait_s` seconds."""
        return self._portal.call(self._client.run, run_id, wait_s)

    def cancel(self, run_id: str, wait_s: float = DEFAULT_WAIT_S) -> Run:
        """End a run, and return it: ended, or as it is after `wait_s`."""
        return self._portal.call(self._client.cancel, run_id, wait_s)

    def answer(
        self,
        run_id: str,
        answer: Any,
        *,
        question: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
        idempotency_key: str | None = None,
    ) -> Run:
        """Answer what a run waits to be told, and return the run as `prompt` does."""
        return self._portal.call(
            partial(
                self._client.answer,
                question=question,
                wait_s=wait_s,
                idempotency_key=idempotency_key,
            ),
            run_id,
            answer,
        )

    def runs(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
    ) -> RunPage:
        """Return runs, newest first."""
        return self._portal.call(
            partial(self._client.runs, limit=limit, before=before, status=status, agent=agent)
        )

    def events(self, run_id: str, after: int | RunEvent = -1) -> Generator[RunEvent]:
        """Yield a run's events until the terminal one, also across broken connections."""
        return self._iterate(self._client.events(run_id, after))

    def trace(self, run_id: str) -> list[Span]:
        """Return the spans of an ended run, in order of their start."""
        return self._portal.call(self._client.trace, run_id)

    def dead_letters(
        self, *, limit: int = 50, before: str | None = None, **match: Unpack[LetterMatch]
    ) -> DeadLetterPage:
        """Return what came to nothing with nobody there to hear of it, newest first."""
        ask = partial(self._client.dead_letters, limit=limit, before=before, **match)
        return self._portal.call(ask)

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter."""
        return self._portal.call(self._client.dead_letter, letter_id)

    def retry_dead_letter(self, letter_id: str) -> Run:
        """Try a dead letter once more, as a run; return that as it is now."""
        return self._portal.call(self._client.retry_dead_letter, letter_id)

    def forget_dead_letter(self, letter_id: str) -> None:
        """Forget a dead letter."""
        self._portal.call(self._client.forget_dead_letter, letter_id)

    def purge_dead_letters(
        self, *, older_than_s: float | None = None, **match: Unpack[LetterMatch]
    ) -> int:
        """Forget dead letters; return how many. Without arguments: all that there are."""
        ask = partial(self._client.purge_dead_letters, older_than_s=older_than_s, **match)
        return self._portal.call(ask)

    def ready(self) -> list[str]:
        """Return what is missing before prompts can be served; empty when ready."""
        return self._portal.call(self._client.ready)

    def _iterate(self, events: AsyncGenerator[RunEvent]) -> Generator[RunEvent]:
        async def following() -> RunEvent | None:
            return await anext(events, None)

        try:
            while (event := self._portal.call(following)) is not None:
                yield event
        finally:
            self._portal.call(events.aclose)
