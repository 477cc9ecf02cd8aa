"""The watchdog: names the agent whose handler blocks the event loop, and shows where.

The loop beats by a timer; a thread looks on. Messages cost nothing: who is to blame is read from
the stack of the loop's thread, and only when it is blocked. Some blocks shorter than the limit plus
one period go unnoticed; none that was shorter than the limit is told.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from agentray.agent import Agent
from agentray.core.blocking import Blocking, Observation, Verdict
from agentray.ids import AgentId
from agentray.runtime.incarnation import Incarnation

logger = logging.getLogger(__name__)

BLOCKED_S = 0.1
"""A handler that blocks the loop for longer is told."""

_PERIOD_S = 0.05
_TOLD_AT_S = 1.0
"""An episode is told when it is over, or when it has taken this long."""

_MAX_FRAMES = 40


class Watchdog:
    """Watches the running event loop."""

    def __init__(self, limit_s: float = BLOCKED_S) -> None:
        """Start to watch; needs a running event loop.

        Args:
            limit_s: seconds that a handler may block the loop.
        """
        self.blocked = 0  # episodes that were told
        self._blocking = Blocking(limit_s + _PERIOD_S)
        self._beats = 0
        self._found: tuple[AgentId, str] | None = None  # who is to blame, and the stack
        self._told = False
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        self._stop = threading.Event()
        self._beat()
        threading.Thread(target=self._watch, name="agentray-watchdog", daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._timer.cancel()
        self._stop.set()

    def _beat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(_PERIOD_S, self._beat)

    # In the thread

    def _watch(self) -> None:
        then, cpu_then = time.monotonic(), self._cpu_s()
        while not self._stop.wait(_PERIOD_S):
            now, cpu = time.monotonic(), self._cpu_s()
            self._look(now - then, cpu - cpu_then)
            then, cpu_then = now, cpu

    def _look(self, elapsed_s: float, cpu_s: float) -> None:
        late = elapsed_s > 2 * _PERIOD_S
        beat = self._beats
        runnable = beat == self._blocking.beat and self._is_runnable()
        verdict = self._blocking.observe(Observation(beat, elapsed_s, late, runnable, cpu_s))
        if verdict is Verdict.BEGAN:
            self._found, self._told = self._who(), False
        if verdict is Verdict.ENDED:
            self._tell(over=True)
            self._found = None
        elif verdict is not Verdict.FINE and self._blocking.blocked_s >= _TOLD_AT_S:
            self._tell(over=False)

    def _tell(self, *, over: bool) -> None:
        # What blocks without being an agent's, such as importing an app, nobody can mend.
        if self._told or self._found is None:
            return
        self._told = True
        self.blocked += 1
        agent, stack = self._found
        milliseconds = round(self._blocking.blocked_s * 1000)
        logger.warning(
            "%s blocked the event loop for %d ms%s; move blocking code into self.run_sync()\n%s",
            agent,
            milliseconds,
            "" if over else " and still does",
            stack,
            extra={
                "action": "loop_blocked",
                "agent": str(agent),
                "milliseconds": milliseconds,
                "stack": stack,
            },
        )

    def _who(self) -> tuple[AgentId, str] | None:
        """Find the agent on the stack of the loop's thread, and what it is doing."""
        # Python offers no other way to another thread's stack.
        frames_now = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        innermost = frames_now.get(self._loop_thread)
        if innermost is None:
            return None
        frames: list[tuple[FrameType, int]] = []
        agent: AgentId | None = None
        of_agent = 0  # how many of the frames are below its own outermost one
        for frame, line in _outwards(innermost):
            frames.append((frame, line))
            owner = _owner(frame)
            if owner is not None:
                agent = agent or owner
                of_agent = len(frames)
        if agent is None:
            return None
        shown = traceback.StackSummary.extract(iter(frames[: min(of_agent, _MAX_FRAMES)]))
        return agent, "".join(traceback.format_list(list(reversed(shown))))

    def _cpu_s(self) -> float:
        """CPU time that the loop's thread has used; 0 where the system does not tell."""
        try:
            return time.clock_gettime(time.pthread_getcpuclockid(self._loop_thread))
        except (AttributeError, OSError):
            return 0.0

    def _is_runnable(self) -> bool:
        """Whether the loop's thread runs or waits for a CPU; False where nobody can tell."""
        try:
            # The name in parentheses may hold anything; the state follows the last one.
            return self._stat.read_text().rpartition(")")[2].split()[0] == "R"
        except (OSError, IndexError):
            return False


def _outwards(frame: FrameType) -> Iterator[tuple[FrameType, int]]:
    return traceback.walk_stack(frame)


def _owner(frame: FrameType) -> AgentId | None:
    """Return the agent that a frame works for."""
    owner = frame.f_locals.get("self")
    if isinstance(owner, Incarnation):
        return owner.id
    if isinstance(owner, Agent):
        try:
            return owner.id
        except AttributeError:  # in its constructor
            return None
    return None
