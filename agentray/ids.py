"""Identities: who an agent is, and how ids of runs, events and links are made."""

from __future__ import annotations

import os
import random
import re
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast
from zlib import crc32

from agentray.errors import ConfigurationError

DEFAULT_POOL = "default"
"""The pool of agent types that name none."""

SLOTS = 256
"""Slots of a pool's key space; each is leased to one host."""

_STOCK = 256

_TYPE_NAME = re.compile(r"[A-Za-z_][\w.\-]*")
_TOPIC_TYPE = re.compile(r"[\w.\-:=]+")
_MAX_KEY_CHARS = 512
_MAX_TOPIC_TYPE_CHARS = 256


class AgentId(NamedTuple):
    """Who an agent is, wherever it runs: an agent type and a key within it.

    Written `type/key`. The key may hold any character, also `/`.
    """

    type: str
    key: str

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"

    @classmethod
    def parse(cls, text: str) -> AgentId:
        """Read `type/key`.

        Args:
            text: the written form; everything after the first `/` is the key.

        Raises:
            ConfigurationError: there is no key, or one of the parts is malformed.
        """
        type_name, slash, key = text.partition("/")
        if not slash:
            raise ConfigurationError(f"{text!r} is not an agent id; write it as type/key.")
        return cls(check_type_name(type_name), check_key(key))


def check_type_name(name: str, what: str = "an agent type") -> str:
    """Return the name of an agent type when it is well formed.

    Args:
        name: to be looked at.
        what: it names, for the error.

    Raises:
        ConfigurationError: letters, digits, `_`, `-` and `.` only, starting with a letter or `_`.
    """
    if not (isinstance(cast("object", name), str) and _TYPE_NAME.fullmatch(name)):
        raise ConfigurationError(
            f"{name!r} is no name for {what}: use letters, digits, '_', '-' and '.'."
        )
    return name


def check_pool_name(name: str) -> str:
    """Return the name of a pool when it is well formed; see `check_type_name`."""
    return check_type_name(name, "a pool")


def check_key(key: str) -> str:
    """Return an agent's key when it is well formed.

    Raises:
        ConfigurationError: empty, over 512 characters, with a NUL (PostgreSQL has no such text), or
            with half of a surrogate pair, which is no text at all.
    """
    if not isinstance(cast("object", key), str):
        raise ConfigurationError(f"key={key!r}: an agent's key is a text.")
    if not key or len(key) > _MAX_KEY_CHARS or "\0" in key or not _is_text(key):
        raise ConfigurationError(
            f"An agent's key has 1 to {_MAX_KEY_CHARS} characters, none of them NUL or half a pair."
        )
    return key


def _is_text(key: str) -> bool:
    if key.isascii():
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True, order=True)
class TopicId:
    """What an event is about: a kind of thing, and which one of it.

    Written `type/source`. Agents subscribe to types; the source names the instance that gets the
    event, unless a subscription says otherwise.

    Attributes:
        type: letters, digits, `_`, `-`, `.`, `:` and `=`.
        source: any key of an agent, also with `/`.
    """

    type: str
    source: str = "default"

    def __post_init__(self) -> None:
        """Check both parts.

        Raises:
            ConfigurationError: one of them is malformed.
        """
        check_topic_type(self.type)
        check_key(self.source)

    def __str__(self) -> str:
        return f"{self.type}/{self.source}"

    @classmethod
    def parse(cls, text: str) -> TopicId:
        """Read `type/source`, or `type` alone.

        Raises:
            ConfigurationError: one of the parts is malformed.
        """
        topic_type, slash, source = text.partition("/")
        return cls(topic_type, source) if slash else cls(topic_type)


def check_topic_type(name: str) -> str:
    """Return the type of a topic when it is well formed.

    Raises:
        ConfigurationError: it is not.
    """
    if len(name) > _MAX_TOPIC_TYPE_CHARS or not _TOPIC_TYPE.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no type of a topic: use 1 to {_MAX_TOPIC_TYPE_CHARS} letters, digits, "
            "'_', '-', '.', ':' and '='."
        )
    return name


def check_topic_pattern(pattern: str) -> str:
    """Return what a subscription says of topics when it is well formed.

    Raises:
        ConfigurationError: it is neither the type of a topic, nor the beginning of one with a `*`
            behind it.
    """
    if pattern != "*":
        check_topic_type(pattern.removesuffix("*"))
    return pattern


@lru_cache(maxsize=4096)  # of those at work: it saves 0.1 µs, and each takes a third of a kilobyte
def slot_of(agent: AgentId) -> int:
    """Return the slot of an agent, the same in every process and version.

    CRC-32 is stable, fast and spreads short keys evenly; nothing here needs more of a hash.
    """
    return crc32(("%s/%s" % agent).encode()) % SLOTS  # noqa: UP031 - quicker


_random: list[str] = []
"""Random 64-bit numbers in hex, each used once. Asking the system for one at a time would make an
id take twice as long, which shows in events: each has one."""


def _more_random() -> str:
    """Fill the stock; return one that is not in it."""
    digits = os.urandom(_STOCK * 8).hex()
    numbers = [digits[at : at + 16] for at in range(0, len(digits), 16)]
    _random.extend(numbers[1:])
    return numbers[0]


if sys.platform != "win32":
    # Two processes must not draw from the same stock.
    os.register_at_fork(after_in_child=_random.clear)


def new_id(prefix: str) -> str:
    """Make a unique id that sorts by the time of its making.

    Args:
        prefix: what it names, such as `run` or `evt`.

    Returns:
        `prefix_` and 28 hex digits: 48 bits of milliseconds since 1970, 64 random bits. In the
        order of time, so that the newest rows of an index lie together.
    """
    try:
        digits = _random.pop()
    except IndexError:
        digits = _more_random()
    return "%s_%012x%s" % (prefix, time.time_ns() // 1_000_000, digits)  # noqa: UP031 - quicker


def new_event_id() -> str:
    """As `new_id("evt")`: in one go, since each event has one."""
    try:
        digits = _random.pop()
    except IndexError:
        digits = _more_random()
    return "evt_%012x%s" % (time.time_ns() // 1_000_000, digits)  # noqa: UP031 - quicker


# W3C trace context (https://www.w3.org/TR/trace-context/), as `traceparent` has it

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def new_span_id() -> str:
    """Make the id of a span: 16 hex digits, not all of them 0."""
    # Unique is enough, nobody must guess: a tenth of the time that `secrets` takes.
    return f"{random.getrandbits(64) or 1:016x}"


def new_traceparent() -> str:
    """Make the trace context of what nothing has caused: a new trace, kept in the Store."""
    return f"00-{random.getrandbits(128) or 1:032x}-{new_span_id()}-01"


def check_traceparent(given: str | None) -> str | None:
    """Return a `traceparent` when it is well formed, else None: a new trace begins.

    Later versions may have more fields; what they begin with is as here.
    """
    if given is None:
        return None
    given = given.strip()
    head, more = given[:55], given[55:]
    well_formed = _TRACEPARENT.fullmatch(head) and (
        not more or (more[0] == "-" and head[:2] != "00")
    )
    return f"00{head[2:]}" if well_formed else None


def child_of(traceparent: str, span_id: str) -> str:
    """Return the trace context of a span within the trace of another one."""
    return f"{traceparent[:36]}{span_id}{traceparent[52:]}"


def trace_id_of(traceparent: str) -> str:
    """Return the id of the trace."""
    return traceparent[3:35]
