"""Whether an event loop is blocked: told apart from a process that stood still or had no CPU.

The loop beats. A thread looks on at regular times and tells what it saw; a time in which the beat
did not change counts as blocked only as far as there is evidence that the loop's thread was kept
from beating by what it runs:

- The observer itself woke late: the whole process may have been stopped, or starved. Only CPU time
  that the loop's thread used meanwhile is evidence.
- The loop's thread is ready to run, and did not: it waits for a CPU. Again, only its CPU time is.
- Otherwise it runs, or waits within what it runs: all of the time is evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Verdict(Enum):
    """What became of an observation."""

    FINE = auto()
    BEGAN = auto()  # blocked for longer than the limit, for the first time in this episode
    GOES_ON = auto()
    ENDED = auto()  # an episode that was longer than the limit is over


@dataclass(frozen=True, slots=True)
class Observation:
    """What the observer saw.

    Attributes:
        beat: the loop's count.
        elapsed_s: since the last observation.
        late: the observer woke much later than it wanted to.
        runnable: the loop's thread runs, or waits for a CPU.
        cpu_s: CPU time that the loop's thread used since the last observation.
    """

    beat: int
    elapsed_s: float
    late: bool
    runnable: bool
    cpu_s: float


@dataclass(slots=True)
class Blocking:
    """Follows one loop.

    Attributes:
        limit_s: more than this without a beat is an episode.
        beat: the last one seen.
        blocked_s: evidence since then; after `ENDED`, what the episode came to.
    """

    limit_s: float
    beat: int = -1
    blocked_s: float = 0.0
    over: bool = False  # what `blocked_s` tells is past

    def observe(self, seen: Observation) -> Verdict:
        """Take an observation."""
        if self.over:
            self.blocked_s, self.over = 0.0, False
        was = self.blocked_s > self.limit_s
        if seen.beat != self.beat:
            self.beat, self.over = seen.beat, True
            return Verdict.ENDED if was else Verdict.FINE
        if seen.late or seen.runnable:
            self.blocked_s += min(seen.elapsed_s, seen.cpu_s)
        else:
            self.blocked_s += seen.elapsed_s
        if self.blocked_s <= self.limit_s:
            return Verdict.FINE
        return Verdict.GOES_ON if was else Verdict.BEGAN
