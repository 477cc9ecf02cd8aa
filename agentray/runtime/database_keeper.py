"""Keeps the embedded database server alive: whoever kills it, it is started again."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentray.errors import StartFailed
from agentray.runtime.tasks import TaskSet
from agentray.store.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often the server is looked at: that costs a tenth of a millisecond."""

_RETRY_S = 5.0
"""Pause after a start that failed, as on a full disk."""


_OOM_SCORE = Path("/proc/self/oom_score_adj")
_starting = threading.Lock()


def _start_as_a_service(server: EmbeddedPostgres) -> None:
    """Start a server that does not take over what its starter puts up with.

    Ray's workers are the first to go when memory is short, and get less of the CPU than others.
    """
    with _starting, _as_service():
        server.start()


@contextmanager
def _as_service() -> Generator[None]:
    """Let what is started have the score and the priority of a service, where that is allowed."""
    score = _OOM_SCORE.read_text() if _OOM_SCORE.exists() else None
    nice = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread
    try:
        if score is not None and int(score) > 0:
            with suppress(PermissionError):
                _OOM_SCORE.write_text("0")
        if nice > 0:
            with suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, 0)
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        if score is not None and int(score) > 0:
            _OOM_SCORE.write_text(score)


class DatabaseKeeper:
    """Watches the server of a data directory, and starts it when its main process is gone.

    What was committed is in its log: a start recovers it. Meanwhile nobody is told of an end that
    could not be written: hosts keep what they have done and try again, gateways refuse prompts with
    503, and clients come back.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._tasks = TaskSet("database keeper")

    async def start(self) -> None:
        """Start the server unless it runs, and watch it from then on.

        Raises:
            StartFailed: it cannot be started.
        """
        await asyncio.to_thread(_start_as_a_service, self._server)
        if not self._tasks:
            self._tasks.spawn(self._watch(), name="watch the database")

    async def close(self) -> None:
        """Watch it no longer. A start that is under way goes on; stopping the server waits for it.

        Nothing is started after this.
        """
        await self._tasks.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if not await asyncio.to_thread(self._server.is_running):
                    await self._start_again()
            except StartFailed as error:
                logger.error("%s", error, extra={"action": "database_start_failed"})
                await asyncio.sleep(_RETRY_S)
            except Exception:
                # As when its directory cannot be read for a moment: nobody else looks after it.
                logger.exception("the look failed", extra={"action": "look_failed"})
                await asyncio.sleep(_RETRY_S)

    async def _start_again(self) -> None:
        logger.error("the database server is gone", extra={"action": "database_lost"})
        begun = asyncio.get_running_loop().time()
        await asyncio.to_thread(_start_as_a_service, self._server)
        took_s = asyncio.get_running_loop().time() - begun
        logger.warning(
            "the database server runs again, after %.1f s",
            took_s,
            extra={"action": "database_started"},
        )
