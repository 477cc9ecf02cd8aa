"""Commands that clean up behind themselves however they are asked to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LIKE_CTRL_C = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """The command was asked to end by a signal other than Ctrl-C's.

    Attributes:
        signum: which.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def run_to_its_end(main: Coroutine[Any, Any, T]) -> T:
    """Run a command; SIGTERM and SIGHUP cancel it as Ctrl-C does, so that it cleans up.

    A signal that the caller has told the system to ignore, as `nohup` does, stays ignored.

    Raises:
        Ended: such a signal came.
        KeyboardInterrupt: Ctrl-C.
    """
    caught: list[int] = []

    async def guarded() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def end(signum: int) -> None:
            caught.append(signum)
            if task is not None and not task.cancelling():  # it may be cleaning up already
                task.cancel()

        for signum in _LIKE_CTRL_C:
            if signal.getsignal(signum) == signal.SIG_DFL:
                loop.add_signal_handler(signum, end, signum)
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not caught:
            raise
        raise Ended(caught[0]) from None
    except SystemExit:  # by Ray's handler: it has one of its own for as long as it connects
        raise Ended(signal.SIGTERM) from None
