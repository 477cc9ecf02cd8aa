"""What travels when agents are registered, launched, waited for and shut down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agentray.ids import AgentId


class AgentStatus(StrEnum):
    """Where a launched agent is in its life."""

    REGISTERED = "registered"  # known, and started by the next launch or message
    RUNNING = "running"  # launched; it may have left memory while it is idle
    STOPPED = "stopped"  # shut down: it takes no messages until it is launched again
    FAILED = "failed"  # its start was given up


ENDED = frozenset({AgentStatus.STOPPED, AgentStatus.FAILED})


class LifeCall(StrEnum):
    """The `name` of a `LAUNCH` envelope: what its host shall do with the agent."""

    LAUNCH = "launch"  # keep it, start it, reply when it has started
    REGISTER = "register"  # keep it
    RESTORE = "restore"  # take a registration back, unless something else was made of it
    SHUTDOWN = "shutdown"  # stop it, reply when it has stopped
    WAIT = "wait"  # reply when it has ended
    RESET = "reset"  # forget its failure and its counters: it may start again


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """How an agent shall be made. None: as it was kept before, else nothing special.

    Attributes:
        arguments: pickled (args, kwargs), or the pickled agent itself.
        labels: of this agent.
        options: JSON of the options that differ from its type's.
        max_retries: of its start.
        driver: the connection with which it ends; "": none.
        owner: the agent with which it ends.
    """

    arguments: bytes | None = None
    labels: Mapping[str, str] | None = None
    options: Mapping[str, Any] | None = None
    max_retries: int | None = None
    driver: str | None = None
    owner: AgentId | None = None


@dataclass(frozen=True, slots=True)
class ShutdownOrder:
    """How an agent shall be stopped.

    Attributes:
        grace_s: how long it may take to finish what it does.
        terminate: forget it, too.
        delete_state: delete its state, too.
        path: the agents whose end this one's is a part of.
        blocking: reply when it has stopped, not when it has begun to.
    """

    grace_s: float
    terminate: bool = False
    delete_state: bool = False
    path: tuple[AgentId, ...] = ()
    blocking: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """How an agent has ended."""

    status: AgentStatus
    last_error: str = ""
