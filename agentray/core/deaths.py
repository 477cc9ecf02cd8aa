"""How a host ended: told from what is left of it.

Ray tells a crash, an exit and a SIGKILL apart from nothing: of each it says that the connection to
the process was lost. What does tell is what the process noted itself (`runtime/host_notes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeathCause(StrEnum):
    """Why a host's process ended."""

    STOPPED = "stopped"  # on purpose, by the manager
    KILLED = "killed"  # on purpose, through Ray
    SIGKILL = "sigkill"  # by somebody, or by a kernel that told nobody
    OUT_OF_MEMORY = "out of memory"  # by Ray's memory monitor, or by the kernel
    CRASHED = "crashed"  # by a signal of its own, such as a segmentation fault
    EXITED = "exited"  # by a call of `os._exit` or of what it stands for
    HUNG = "hung"  # its event loop answered no heartbeats, and it was killed
    NODE_LOST = "node lost"
    UNKNOWN = "unknown"


OWN_DOING = frozenset({DeathCause.CRASHED, DeathCause.EXITED, DeathCause.HUNG})
"""What runs in the process has brought it about, and nothing else."""

INNOCENT = frozenset({DeathCause.STOPPED, DeathCause.KILLED, DeathCause.NODE_LOST})
"""What runs in the process has nothing to do with it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left of a host.

    Attributes:
        words: what Ray says of its end.
        noted: what it noted itself could be read; if not, what follows is empty.
        exit_code: that it noted before it left by itself; None: it did not.
        fatal: first line of what Python wrote when a signal ended it; "": nothing.
        oom_kills: by the kernel of its machine, since it last looked.
    """

    words: str
    noted: bool = False
    exit_code: int | None = None
    fatal: str = ""
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Death:
    """How a host ended.

    Attributes:
        cause: why.
        reason: in one sentence, for people.
        detail: the signal or the exit code; "": there is none.
    """

    cause: DeathCause
    reason: str
    detail: str = ""


HUNG = Death(
    DeathCause.HUNG,
    "its event loop did not answer three heartbeats (the stacks of its threads are in its log)",
)

NODE_LOST = Death(DeathCause.NODE_LOST, "its node was lost")


class NodeSign(StrEnum):
    """What can be seen of a machine whose host cannot be reached."""

    THERE = "there"  # its own process answers, or nobody can tell
    SILENT = "silent"  # nothing there answers
    GONE = "gone"  # its own process has ended, and all others there with it


def death_of_silent(node: NodeSign, *, missed_all: bool) -> Death | None:
    """Tell how a host ended that does not answer.

    Args:
        node: what can be seen of its machine.
        missed_all: it has missed as many heartbeats as a living one may not.

    Returns:
        None: it may still be alive.
    """
    if node is NodeSign.GONE or (missed_all and node is NodeSign.SILENT):
        return NODE_LOST
    return HUNG if missed_all else None


HANG_NOTE = "Hung"
"""What whoever kills a hanging host notes for it, as its first line."""

_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}
_NODE = ("node has died", "its node died", "node was terminated", "NODE_DIED")
_MEMORY = ("NODE_OUT_OF_MEMORY", "running low on memory", "OutOfMemory", "memory monitor")
_ON_PURPOSE = ("killed by `ray.kill`", "ray.kill")
_BY_ITSELF = ("INTENDED_USER_EXIT", "INTENDED_SYSTEM_EXIT", "exit_actor")
_MAX_WORDS = 300


def death_of(evidence: Evidence) -> Death:  # noqa: PLR0911 - one for each cause
    """Tell how a host ended."""
    words = evidence.words
    # What an outside observer is sure of comes first, then what the process says itself.
    if any(sign in words for sign in _NODE):
        return NODE_LOST
    if any(sign in words for sign in _MEMORY) and "Some common causes" not in words:
        return Death(DeathCause.OUT_OF_MEMORY, "killed by Ray: its machine ran out of memory")
    if evidence.exit_code is not None:
        code = str(evidence.exit_code)
        return Death(DeathCause.EXITED, f"its process ended itself with exit code {code}", code)
    if evidence.fatal:
        return HUNG if evidence.fatal == HANG_NOTE else _crash(evidence.fatal)
    if any(sign in words for sign in _ON_PURPOSE):
        return Death(DeathCause.KILLED, "killed on purpose, by ray.kill")
    if any(sign in words for sign in _BY_ITSELF):
        return Death(DeathCause.EXITED, "its process ended itself")
    if evidence.oom_kills > 0:
        return Death(DeathCause.OUT_OF_MEMORY, "killed by the kernel: out of memory", "SIGKILL")
    if evidence.noted:
        return Death(
            DeathCause.SIGKILL,
            "killed by SIGKILL, by somebody or by the kernel of its machine",
            "SIGKILL",
        )
    return Death(DeathCause.UNKNOWN, words[:_MAX_WORDS] or "nobody knows why")


def _crash(fatal: str) -> Death:
    told = fatal.removeprefix("Fatal Python error: ").strip()
    signal = _SIGNALS.get(told, "")
    name = f"{told} ({signal})" if signal else told
    return Death(DeathCause.CRASHED, f"crashed: {name}", signal)
