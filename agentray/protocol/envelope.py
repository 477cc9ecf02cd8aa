"""Envelopes: one message, one reply, as they travel between processes.

Both are named tuples of plain values. A batch is a list of them, pickled once; their payloads are
bytes that were pickled before, one by one, so that a value that cannot be pickled or unpickled
fails its own message and not the 511 others of its batch.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, cast

from agentray.ids import AgentId
from agentray.protocol.budgets import Usage


class Kind(IntEnum):
    """What an envelope asks for."""

    CALL = 1  # run an action, reply with its value
    TELL = 2  # run an action, reply when it was queued
    EVENT = 3  # handle an event, reply when it and all that it emitted are done
    LAUNCH = 4  # keep constructor arguments, activate, reply when on_start is done
    CANCEL = 5  # cancel the message whose id is in `name`; that one is replied to
    RUN = 6  # work on an admitted run, reply with the ended run
    ADMIT = 7  # admit a run on behalf of a process without a Store, then as RUN
    JOIN = 8  # reply with a run when it has ended
    WATCH = 9  # reply with a run's next events
    PROGRESS = 10  # add an event to a run, durable per step, that is looked after here
    PING = 11  # reply at once, without the agent
    STREAM = 12  # run an action that yields, reply with its chunks
    CREDIT = 13  # `name` is "id:n": of the stream `id`, all batches up to n are read; no reply
    INSPECT = 14  # reply with what `name` asks about the agent, without activating it
    AWAITED = 15  # the turns in `payload` wait for the message whose id is in `name`; no reply
    STATE = 16  # load or delete the agent's state, between its handlers
    DISPATCH = 17  # admit a run of events, reply OPEN when it is kept, and at its end with the run
    DISPATCH_ONCE = 18  # the same for a run that is not kept before its end: never sent twice
    RUN_PARTS = 19  # to a host: what `name` says of runs, see `event_runs.PartsCall`
    RECORD = 20  # to a host that works on a run: keep an event of it
    CANCEL_RUN = 21  # end a run as cancelled, reply with it when it has ended
    STEP = 22  # handle an event that is kept, reply at once; `name` is "number|type|path"
    STEPS = 23  # what steps on another host came to, for the host that works on their run


class RunMode(StrEnum):
    """The `name` of a `RUN` envelope: what its host must do before it begins."""

    FRESH = "fresh"  # admitted a moment ago and given to no host before: begin at once
    UNBEGUN = "unbegun"  # as FRESH, but it took its time: somebody else may have begun it
    AGAIN = "again"  # may have been given to a host: look into the Store, one attempt more
    ANSWERED = "answered"  # it was told what it asked: the same attempt goes on, reply as ENSURE
    ENSURE = "ensure"  # as AGAIN, but reply when it is under way, not when it has ended


class ReplyKind(IntEnum):
    """How a message went."""

    VALUE = 1  # done, with a value
    ERROR = 2  # done, with an exception
    MOVED = 3  # not done: this host does not lease the slot
    OPEN = 4  # the value is there, what the handler emitted is not done yet
    SETTLED = 5  # follows OPEN: now all is done
    CHUNK = 6  # a part of a stream: (number of the part, its items, pickled); more follows
    CANCELLED = 7  # it was cancelled, as its sender wanted, and so is all that it waited for
    REFUSED = 8  # as MOVED, and nothing of it was begun


class Envelope(NamedTuple):
    """One message.

    Attributes:
        id: number of the message on its link, unique there.
        kind: what is asked for.
        type: agent type of the target.
        key: key of the target.
        name: action, or name of the event's type.
        payload: pickled arguments; inside one process an event that nobody can change travels as
            itself.
        timeout_s: seconds left until the sender gives up; None: it does not.
        correlation_id: the conversation that this belongs to.
        cause_id: id of the span that caused this, for the trace.
        sender: who sent it; None: no agent.
        chain: the agents whose turns wait for this message, outermost first.
        root: the agent that a run was given to; progress is reported there. None: no run.
        trace_context: W3C traceparent of the sender.
        run: the `RunKey` of the run that this belongs to, as text; None: it belongs to none.
        access: what tools may touch that work on it; None: everything.
    """

    id: int
    kind: int
    type: str
    key: str
    name: str
    payload: Any
    timeout_s: float | None = None
    correlation_id: str | None = None
    cause_id: str | None = None
    sender: AgentId | None = None
    chain: tuple[AgentId, ...] = ()
    root: AgentId | None = None
    trace_context: str | None = None
    run: str | None = None
    access: str | None = None

    @property
    def target(self) -> AgentId:
        """The agent that this is for."""
        return AgentId(self.type, self.key)


_FROM_OUTSIDE = Envelope(0, 0, "", "", "", None)[7:]
_FIELDS = len(Envelope._fields)

# Past the constructor, which takes three times as long to say the same.
_new = cast("Any", tuple).__new__


def envelope_of(fields: tuple[Any, ...]) -> Envelope:
    """Return an envelope of its fields, or of the first seven: the others have their defaults."""
    return _new(Envelope, fields + _FROM_OUTSIDE if len(fields) == 7 else fields)


class Shared(bytes):
    """A pickled value for several agents of one process: who reads it first reads it for all.

    Attributes:
        value: what it is; None before somebody has read it.
    """

    value: Any = None


class Copied(bytes):
    """A pickled value for one agent or several, of which each reads a copy of its own."""

    __slots__ = ()


def copies_of(fields: tuple[Any, ...]) -> list[Envelope]:
    """Return the envelopes of an event for several agents of one host, which travels once.

    Behind the fields of its first recipient's envelope stand the other recipients, as (type, key);
    their copies have the numbers that follow.
    """
    number, kind, agent_type, key, name, payload, *same, others = fields
    if type(payload) is bytes:
        payload = Shared(payload)
    return [
        _new(Envelope, (n, kind, *target, name, payload, *same))
        for n, target in enumerate(((agent_type, key), *others), number)
    ]


def numbers_of(fields: tuple[Any, ...]) -> range:
    """Return the numbers of the envelopes that fields spell out."""
    others = fields[_FIELDS] if len(fields) > _FIELDS else ()
    return range(fields[0], fields[0] + 1 + len(others))


NO_MESSAGE = Envelope(0, Kind.TELL, "", "", "", None)
"""Stands for the message where an agent does something by itself."""


class Large:
    """A pickled value of many bytes, in parts that travel beside the frame and not in it.

    Attributes:
        parts: the pickle stream, then its buffers. They do not change: the value was copied once,
            because its owner may go on to change it.
    """

    __slots__ = ("parts",)

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(memoryview(part).nbytes for part in self.parts)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Large, tuple(pickle.PickleBuffer(part) for part in self.parts)


Packet = bytes | list[Any]
"""A request or a response on its way: a frame, or a list of a frame and the parts beside it."""


def pack(value: Any) -> Packet:
    """Serialise what goes over the wire."""
    parts: list[Any] = []
    frame = pickle.dumps(value, protocol=5, buffer_callback=parts.append)
    return [frame, *parts] if parts else frame


def unpack(packet: Packet) -> Any:
    """Read what `pack` made."""
    if isinstance(packet, bytes):
        return pickle.loads(packet)
    frame, *parts = packet
    return pickle.loads(frame, buffers=parts)


class Outcome(NamedTuple):
    """What a whole branch of a run came to; travels up along the tree of causes.

    Attributes:
        answer: the event that ended the correlation, if one was emitted.
        errors: what went wrong in the branch, each as (type, message, agent, path of causes).
        spans: what was handled, as tuples in the order of `protocol.runs.Span`'s fields.
        dropped_spans: how many more there were; a trace is bounded, a run is not.
        more_errors: how many more there were.
        questions: that were asked, each as the JSON of a `protocol.questions.Question`.
        spent: what was used, in a run that is durable per step; None: nothing.
    """

    answer: Any = None
    errors: tuple[Failure, ...] = ()
    spans: tuple[tuple[Any, ...], ...] = ()
    dropped_spans: int = 0
    more_errors: int = 0
    questions: tuple[dict[str, Any], ...] = ()
    spent: Usage | None = None

    def below(self, envelope: Envelope) -> Outcome:
        """Put a message in front of the path of causes of each error of what it set off."""
        if not self.errors:
            return self
        step = step_of(envelope.name, f"{envelope.type}/{envelope.key}")
        errors = tuple(error._replace(path=(step, *error.path)) for error in self.errors)
        return self._replace(errors=errors)


def step_of(name: str, agent: str) -> str:
    """Return how a message stands in a path of causes."""
    return f"{name.rpartition('.')[2]} at {agent}"


class Failure(NamedTuple):
    """One error in a branch of a run."""

    type: str
    message: str
    agent: str
    path: tuple[str, ...]


class Reply(NamedTuple):
    """What became of a message.

    Attributes:
        id: the message's number on its link.
        kind: how it went.
        payload: pickled value or exception; inside one process the Outcome itself.
        outcome: what was emitted and traced on the way; None: nothing.
    """

    id: int
    kind: int
    payload: Any = None
    outcome: Outcome | None = None


class Frame(NamedTuple):
    """One request on a link, as a single value: Ray serialises each argument of a call anew.

    Attributes:
        link: id of the sender's link to the host.
        number: of the batch, or of the fetching of replies; each counts on its own.
        attempt: 0 for the first; a later one means that an earlier response may be lost.
        floor: batches below this number are answered; they need not be remembered.
        acks: numbers of the responses that arrived since the last request.
        messages: the fields of envelopes, as plain tuples: these pickle three times as fast as
            named ones, because no class is looked up per message. See `copies_of`.
    """

    link: str
    number: int
    attempt: int
    floor: int
    acks: tuple[int, ...]
    messages: Sequence[tuple[Any, ...]] = ()

    def pack(self) -> Packet:
        """Serialise it for the wire."""
        return pack(tuple(self))

    @classmethod
    def unpack(cls, packet: Packet) -> Frame:
        """Read what `pack` made."""
        return cls._make(unpack(packet))

    def envelopes(self) -> list[Envelope]:
        """Return the messages, each copy of an event as one."""
        found: list[Envelope] = []
        for fields in self.messages:
            if len(fields) > _FIELDS:
                found += copies_of(fields)
            else:
                found.append(envelope_of(fields))
        return found
