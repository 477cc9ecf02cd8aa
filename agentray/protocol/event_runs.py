"""Runs of events on the wire: who is their root, what is ordered, how their messages know them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from zlib import crc32

from agentray.ids import AgentId
from agentray.protocol.runs import Run

_ROOT = "agentray.root"

ROOTS = 256
"""Roots per pool. They are addresses only, nobody is activated: enough to reach every host."""

NOT_KEPT = "$not_kept"
"""In the record of an event that has no JSON form, with the reason; no field has this name."""


def root_type(pool: str) -> str:
    """Return the built-in agent type whose agents are the roots of event runs in a pool."""
    return f"{_ROOT}.{pool}"


def is_root(type_name: str) -> bool:
    """Whether an agent type is such a one."""
    return type_name.startswith(_ROOT)


def root_of(pool: str, run_id: str) -> AgentId:
    """Return the root of a run."""
    return AgentId(root_type(pool), str(crc32(run_id.encode()) % ROOTS))


RETRY = "retry"
"""In the input of a run that tries a dead letter once more: what that was."""

RETRY_OF = "retry_of"
"""In the input of a run that does the work of one that died: its id."""


class Retry(NamedTuple):
    """A dead letter that a run tries once more.

    Attributes:
        letter: its id.
        to: the agent that it is for, as type/key; None: an event, for its present subscribers.
        action: that is called; None: it is an event.
        content: pickled inside the cluster, in base64; None: an event that has JSON.
    """

    letter: str
    to: str | None
    action: str | None
    content: str | None


class Durability(StrEnum):
    """What of a run survives the death of a host."""

    RUN = "run"  # that it was accepted: it begins again
    STEP = "step"  # what each of its handlers has done: it goes on after the last commit
    NONE = "none"  # nothing: it fails


PromptDurability = Literal["run", "step"]
"""Those that a prompt may have: it is always kept."""


class OnError(StrEnum):
    """What an error in a branch means for its run."""

    FAIL = "fail"  # the run fails with the first one
    COLLECT = "collect"  # the run succeeds, and tells them


class RunOptions(NamedTuple):
    """How a run is treated.

    Attributes:
        on_error: see `OnError`.
        timeout_s: seconds from its admission after which it is ended; None: it is not.
        events: its events are recorded.
        sender: the agent that dispatched it, as type/key, which does not get the root event.
        traceparent: the W3C trace context that it continues; None: it begins a trace.
        budget: what it may use, as the JSON of a `Budget`; None: that of its agent type, if any.
        max_attempts: after so many that each lost a host it is given up; None: as settings say.
        durability: see `Durability`.
        access: what tools may touch that work on it, an `AccessLevel`; None: everything.
        trace: each handled message is one of its events, so that its trace is whole, and there
            while it runs.
    """

    on_error: str = OnError.FAIL.value
    timeout_s: float | None = None
    events: bool = False
    sender: str | None = None
    traceparent: str | None = None
    budget: Mapping[str, Any] | None = None
    max_attempts: int | None = None
    durability: str = Durability.RUN.value
    access: str | None = None
    trace: bool = False

    def as_input(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run is given, as JSON: its root event, as JSON, and how it is treated."""
        return {"event": event, **self._asdict()}

    @property
    def text(self) -> str:
        """The JSON of how a run is treated; most runs are treated as the one before."""
        return _options_text(self) if self.budget is None else _text_of(self)

    @classmethod
    def of_input(cls, given: Mapping[str, Any]) -> RunOptions:
        """Read what `as_input` wrote, or the options of a prompt."""
        if "event" not in given:
            told = {name: given[name] for name in _OF_PROMPTS if name in given}
            return PROMPT._replace(**told) if told else PROMPT
        return cls(*map(given.get, cls._fields, _DEFAULTS))


def _text_of(options: RunOptions) -> str:
    return json.dumps(options._asdict())


_options_text = lru_cache(maxsize=256)(_text_of)

PROMPT = RunOptions()
_DEFAULTS = tuple(PROMPT)

_OF_PROMPTS = (
    "on_error",
    "timeout_s",
    "budget",
    "max_attempts",
    "durability",
    "access",
    "trace",
)
"""Options that a prompt may have, too."""


def conversation(run: Run) -> str:
    """Return the correlation of an attempt: it must not meet what an earlier one left behind."""
    return run.correlation_id if run.attempt == 1 else f"{run.correlation_id}#{run.attempt}"


class DispatchOrder(NamedTuple):
    """An event that is the root of a run.

    Attributes:
        id: of the run.
        correlation_id: of the conversation.
        created_at: when it was dispatched.
        pool: of its root.
        options: how it is treated.
        event: its root event, an `Event`.
        not_before: when it begins; None: at once.
    """

    id: str
    correlation_id: str
    created_at: datetime
    pool: str
    options: RunOptions
    event: Any
    not_before: datetime | None = None

    def plain(self) -> tuple[Any, ...]:
        """Return it as it travels: without its classes, each of which takes longer than a field."""
        return tuple(self._replace(options=tuple(self.options)))

    @classmethod
    def of(cls, fields: tuple[Any, ...]) -> DispatchOrder:
        """Return what `plain` was called on."""
        order = cls(*fields)
        return order._replace(options=RunOptions(*order.options))


class Recording(StrEnum):
    """What is kept of a run beside its end; the first letter of its key."""

    TRACE = "t"  # which message led to which
    EVENTS = "e"  # the same, and the events themselves
    LIVE = "l"  # the same as of a trace, and told to those who follow the run, as it comes
    NOTHING = "n"


STEP_TRACE, STEP_EVENTS, STEP_LIVE, FOREIGN_STEP = "T", "E", "L", "F"
"""First letters of the keys of runs that are durable per step: `Recording.TRACE`, `EVENTS`, `LIVE`,
and what has a correlation of its own. They name neither host nor attempt: work outlives both."""

STEPS = frozenset((STEP_TRACE, STEP_EVENTS, STEP_LIVE, FOREIGN_STEP))

_OF_STEPS = {Recording.EVENTS: STEP_EVENTS, Recording.LIVE: STEP_LIVE}


def step_key(recording: Recording, run_id: str) -> str:
    """Return the key of a run that is durable per step."""
    return str(RunKey(_OF_STEPS.get(recording, STEP_TRACE), "", run_id))


class PartsCall(StrEnum):
    """The `name` of a `RUN_PARTS` envelope: what its host shall do with its parts of runs."""

    TERMINATED = "terminated"  # a `TerminateEvent` was published: the run takes no more events
    SPEND = "spend"  # something was used that counts against a run's budget
    TELL = "tell"  # something happened in a run, that those shall see who follow it
    CLOSE = "close"  # deliver no more events of these
    CANCEL = "cancel"  # the same, and cancel what is under way and waits
    OPEN = "open"  # reply with those of these that have not ended
    AWAIT = "await"  # reply when this one has ended
    UNTIL_QUIET = "until_quiet"  # reply when nothing of these, durable per step, is under way


class RunKey(NamedTuple):
    """What a message knows of the run that it belongs to; travels as a text.

    Attributes:
        recording: what is kept of it.
        host: that works on the run: where what happens in it is told.
        attempt: `id#number`: each attempt is a run of its own to its messages.
        begun: when the attempt began, in microseconds since 1970, by the clock of its host.
    """

    recording: str
    host: str
    attempt: str
    begun: int = 0

    def __str__(self) -> str:
        return f"{self.recording}{self.host}|{self.attempt}|{self.begun}"

    @staticmethod
    def parse(text: str) -> RunKey:
        """Read the text."""
        return _parse_key(text)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.attempt.partition("#")[0]


@lru_cache(maxsize=1024)
def _parse_key(text: str) -> RunKey:
    """Read a `RunKey`; each message of a run, and each word of a stream, brings the same one."""
    host, attempt, begun = text[1:].split("|")
    return RunKey(text[0], host, attempt, int(begun))
