"""Whether a database server answers at all.

A statement may take long: it waits for a lock, or the disk is slow. A server that was stopped, or
whose machine is cut off, looks the same to who waits for its statement. So when one takes long the
server is asked for a new connection: one that is slow still greets. One that does not is silent:
what waits for it is given up, what comes fails at once, and it is greeted until it answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agentray.errors import StoreUnavailable

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often somebody looks whether a statement has taken long."""


class Pulse:
    """Watches what is under way at a server, and tells whether that answers."""

    def __init__(self, greet: Callable[[], Awaitable[None]], silence_s: float) -> None:
        """Make one; `start` lets it look.

        Args:
            greet: returns when the server has answered, whatever it said.
            silence_s: after so long without any answer the server counts as silent.
        """
        self._greet = greet
        self._silence_s = silence_s
        self._under_way: dict[object, tuple[float, Callable[[], None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self.silent = False

    def start(self) -> None:
        """Begin to look."""
        self._looking = asyncio.create_task(self._look(), name="pulse of the database")

    async def close(self) -> None:
        """Look no longer."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait((looking,))

    @property
    def unanswered(self) -> StoreUnavailable:
        """What to tell callers while the server is silent."""
        return StoreUnavailable(
            f"The database cannot be reached: its server has answered nothing for "
            f"{self._silence_s:g} s."
        )

    def began(self, what: object, give_up: Callable[[], None]) -> None:
        """Note that something waits for the server from now on.

        Args:
            what: names it.
            give_up: ends it, should the server be silent.
        """
        self._under_way[what] = asyncio.get_running_loop().time(), give_up

    def ended(self, what: object) -> None:
        """Note that it does not wait any more."""
        self._under_way.pop(what, None)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_LOOK_S, self._silence_s / 4))
            oldest = next(iter(self._under_way.values()), None)  # in the order in which they began
            if oldest is None or loop.time() - oldest[0] < self._silence_s / 2:
                continue
            if await self._answers():
                continue
            # A process that was itself held up finds old answers only now: let them be read.
            if oldest in self._under_way.values():
                await self._until_it_answers()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._silence_s / 2):
                await self._greet()
        except TimeoutError:
            return False
        except (OSError, EOFError) as error:  # refused: so are statements, and tell so themselves
            logger.debug("the database refuses to be greeted: %s", error)
        return True

    async def _until_it_answers(self) -> None:
        self.silent = True
        extra = {"action": "database_silent", "given_up": len(self._under_way)}
        logger.error("%s", self.unanswered, extra=extra)
        try:
            for _, give_up in list(self._under_way.values()):
                give_up()
            while not await self._answers():
                # Each greeting waits by itself for as long as the server may take.
                logger.debug("the database is still silent")
        finally:
            self.silent = False
        logger.warning("the database answers again", extra={"action": "database_answers"})
