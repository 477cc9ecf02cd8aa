"""Calls and prompts all the time, to see whether something is lost or done twice meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from agentray import Handle, ManagerClient, RunStatus
from tests.support.cluster import Cluster

_PAIRS = 4
_PAUSE_S = 0.01
"""Of each of them: hundreds in a second see as much as thousands, and leave others some time."""


class Work:
    """Calls and prompts all the time; what goes wrong is noted.

    Attributes:
        done: how many.
        problems: what was lost, repeated, or needed more than one attempt.
    """

    def __init__(
        self, manager: ManagerClient, name: str, ledger: str, prompt: str, agent: str | None = None
    ) -> None:
        """Begin nothing yet.

        Args:
            manager: through which it goes.
            name: part of the agents' keys.
            ledger: agent type with an action `add` that returns the total.
            prompt: the text of each prompt.
            agent: who is prompted; None: the entry of the first app.
        """
        self.done = 0
        self.problems: list[str] = []
        self._manager = manager
        self._name = name
        self._ledger = ledger
        self._prompt = (prompt, agent)
        self._repeated: list[str] = []  # runs; their events tell why
        self._ended = False

    @asynccontextmanager
    async def during(self) -> AsyncGenerator[None]:
        """Work as long as the block goes on; what was begun is finished."""
        async with asyncio.TaskGroup() as group:
            for number in range(_PAIRS):
                group.create_task(self._count(number))
                group.create_task(self._ask())
            try:
                yield
            finally:
                self._ended = True

    async def _count(self, number: int) -> None:
        """Add to an account, each time one: it must never miss one, nor count one twice."""
        ledger: Handle[Any] = self._manager.handle(self._ledger, f"{self._name}-{number}")
        total = 0
        while not self._ended:
            total += 1
            if (told := await ledger.add(1)) != total:
                self.problems.append(f"{number}: {told} instead of {total}")
            self.done += 1
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self) -> None:
        text, agent = self._prompt
        while not self._ended:
            run = await self._manager.prompt(text, agent=agent, timeout=120)
            if run.status is not RunStatus.SUCCEEDED or run.attempt != 1:
                self.problems.append(f"{run.id}: {run.status}, attempt {run.attempt}, {run.error}")
                self._repeated.append(run.id)
            self.done += 1
            await asyncio.sleep(_PAUSE_S)

    async def why(self, cluster: Cluster) -> list[list[str]]:
        """Return the events of the runs that were tried again: they tell the reason."""
        async with cluster.client() as client:
            return [[str(e) async for e in client.events(run)] for run in self._repeated]
