"""The channel: one per process, the way from here to every agent.

It holds the placement snapshot that the manager pushes, and a link to each host that it talks to.
No message asks the manager. Every message ends: with a value, or with a typed error at the latest
when its deadline passes, when its host dies, or when the channel is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol

from agentray import context as contexts
from agentray import telemetry
from agentray.config import BATCH, BatchLimits
from agentray.errors import (
    AgentMoved,
    AgentrayError,
    ChannelClosed,
    DeadlineExceeded,
    DeploymentStopped,
    HostDied,
    ManagerUnavailable,
    Overloaded,
    UnknownAgentType,
)
from agentray.events import Event
from agentray.ids import AgentId
from agentray.protocol.buffers import encode_call
from agentray.protocol.codec import NO_ARGUMENTS, PLAIN, decode, encode, goes_as_it_is
from agentray.protocol.envelope import Kind, Large, Reply, ReplyKind, RunMode
from agentray.protocol.snapshot import HostRef, Snapshot, TypeView
from agentray.runtime.call_backs import CalledBack, may_have_come_back, until_undone
from agentray.runtime.deadlines import Deadlines
from agentray.runtime.link import AnyLink, Link
from agentray.runtime.message import Message, Request, ScopedRequest
from agentray.runtime.ports import Connector
from agentray.runtime.spans import trace_request, trace_stream
from agentray.runtime.streams import Stream, StreamMessage
from agentray.runtime.tasks import TaskSet

logger = logging.getLogger(__name__)

_RESENT = frozenset(
    {
        Kind.RUN,
        Kind.ADMIT,
        Kind.DISPATCH,
        Kind.CANCEL_RUN,
        Kind.JOIN,
        Kind.WATCH,
        Kind.PING,
        Kind.LAUNCH,
        Kind.INSPECT,
    }
)
"""Kinds that do no harm when they run twice: the host or the Store recognises them."""

OF_HOSTS = frozenset({Kind.RUN_PARTS, Kind.RECORD})
"""Kinds that are for a certain host, whatever it leases."""

_CALL = int(Kind.CALL)

_OF_ACTIONS = frozenset({Kind.CALL, Kind.STREAM, Kind.TELL})
"""Kinds whose name is that of an action."""

CANCEL_GRACE_S = 2.0
"""How long a cancelled call waits to hear that the handler, and all that it called, has ended."""

_FEW = 8
"""Arguments, of which each is small: batches are limited by what their payloads have in bytes."""

_MAX_ROUTES = 16_384
"""Agents whose way is remembered."""

MAX_PARKED = 100_000
"""Messages that wait for a host; as many as a link takes without a reply."""

_PARKED_S = 0.25
"""A message that has no host is tried again after this time, even without a new snapshot."""

_FIRST_PARKED_S = 0.02
"""The same just after a new one: a host may get it some milliseconds later than its senders."""

_NEW_RUN = frozenset({RunMode.FRESH.value, RunMode.UNBEGUN.value})


Way = tuple[AnyLink | None, list[AgentId]]
"""How agents of one host are reached; None: that is not known yet, each finds its own."""


class Local(Protocol):
    """What a channel needs of the host in its own process."""

    @property
    def host_id(self) -> str:
        """Its id in the snapshot."""
        ...

    @property
    def link(self) -> AnyLink:
        """The way to it without the wire."""
        ...

    def called_back(self, message: Message) -> CalledBack | None:
        """Return the handlers that a call has come back with to its own sender."""
        ...


class Channel:
    """Sends messages to agents, wherever they are."""

    def __init__(
        self,
        connector: Connector,
        *,
        request_refresh: Callable[[], None] | None = None,
        local: Local | None = None,
        batch: BatchLimits = BATCH,
    ) -> None:
        """Make a channel; needs a running event loop.

        Args:
            connector: finds hosts.
            request_refresh: asks for a newer snapshot, without waiting; the answer comes through
                `update`. None: newer snapshots come by themselves.
            local: the host in this process, which is reached without the wire.
            batch: most that leaves together for one host.
        """
        self.snapshot = Snapshot()
        self._connector = connector
        self._request_refresh = request_refresh or (lambda: None)
        self._local = local
        self._batch = batch
        self.loop = asyncio.get_running_loop()
        self._tasks = TaskSet("channel")
        self._links: dict[str, Link] = {}
        self._last_event: tuple[Event | None, bytes] = (None, b"")  # and how it travels
        self._routes: dict[AgentId, AnyLink] = {}  # by agent, for the present snapshot
        self._together: tuple[list[AgentId], Sequence[Way]] = ([], [])  # the last ones
        self._parked: list[tuple[Message, int]] = []
        self._asking: set[AgentId] = set()  # isolated agents for which a host is asked for
        self._parked_s = _FIRST_PARKED_S
        self._unpark_timer: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(self._expired, self._open_messages)
        self._changed = asyncio.Event()
        self._closed = False
        self._telemetry = telemetry.active()

    # Snapshots

    def update(self, snapshot: Snapshot) -> None:
        """Take a snapshot, unless it is older than the one at hand; parked messages try again."""
        if snapshot.version < self.snapshot.version:
            return
        self.snapshot = snapshot
        self._routes.clear()
        self._together = ([], [])
        for host_id in [h for h in self._links if h not in snapshot.hosts]:
            why = snapshot.deaths.get(host_id, "it was taken out of the cluster")
            self._links.pop(host_id).close(why)  # it may not have heard of the death itself
        self._changed.set()
        self._changed = asyncio.Event()
        self._parked_s = _FIRST_PARKED_S
        self._unpark()

    async def newer_than(self, version: int) -> Snapshot:
        """Wait for a snapshot above `version`."""
        while self.snapshot.version <= version:
            await self._changed.wait()
        return self.snapshot

    # Sending

    async def call(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> Any:
        """Run an action and return its value; see `Handle.call` for the errors.

        A cancelled call ends when its handler has, at most `CANCEL_GRACE_S` later.
        """
        if not args and not kwargs:
            payload: Any = NO_ARGUMENTS
        elif not kwargs and self._go_as_they_are(target, args):
            payload = args
        else:
            payload = encode_call(args, kwargs, action)
        message = self._send(_CALL, target, action, payload, timeout)
        try:
            return decode(await message.future)
        except asyncio.CancelledError:
            await self._give_up(message)
            raise

    def _go_as_they_are(self, target: AgentId, args: tuple[Any, ...]) -> bool:
        """Whether arguments need no pickle of their own."""
        if self._local is not None and self._routes.get(target) is self._local.link:
            return all(type(arg) in PLAIN for arg in args)
        context = contexts.current.get()
        if len(args) > _FEW or (context is not None and context.root is not None):
            return False  # the trace of a run tells how many bytes they had
        return all(map(goes_as_it_is, args))

    async def tell(
        self, target: AgentId, action: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run an action; return when it is queued at the agent."""
        payload = encode_call(args, kwargs, action)
        await self.request(Kind.TELL, target, action, payload, timeout=60.0)

    def streams(self, target: AgentId, action: str) -> bool | None:
        """Return whether an action yields; None: its agent type is not known (yet)."""
        view = self.snapshot.types.get(target.type)
        return None if view is None else action in view.streams

    def stream(
        self,
        target: AgentId,
        action: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None,
    ) -> AsyncIterator[Any]:
        """Run an action that yields; see `Handle.stream`."""
        payload = encode_call(args, kwargs, action)
        message = StreamMessage(target, action, payload)
        if self._telemetry is not None and contexts.current.get() is None:
            trace_stream(self._telemetry, message)
        self.post(message)
        return Stream(message, self, timeout)

    async def ping(self, target: AgentId, *, timeout: float) -> float:
        """Return the seconds of a round trip to the agent's host."""
        if await self._about(target, "ping", timeout) is not None:
            why = "has no host at the moment: its first message starts one"
            raise DeploymentStopped(str(target), why=why)
        start = time.perf_counter()  # uvloop's own clock is of whole milliseconds
        await self.request(Kind.PING, target, "", None, timeout=timeout)
        return time.perf_counter() - start

    async def inspect(self, target: AgentId, what: str, *, timeout: float) -> dict[str, Any]:
        """Ask a host about an agent, which is not activated for it."""
        told = await self._about(target, what, timeout)
        if told is not None:
            return told
        return decode(await self.request(Kind.INSPECT, target, what, None, timeout=timeout))

    async def _about(self, target: AgentId, what: str, timeout: float) -> dict[str, Any] | None:
        """Ask the manager about an isolated agent without a host: a message would start one."""
        view = self.snapshot.types.get(target.type)
        if view is None or not view.isolated or target in self.snapshot.seats:
            return None
        try:
            async with asyncio.timeout(timeout):
                return await self._connector.about(target, what)
        except TimeoutError:
            raise DeadlineExceeded(str(target), timeout) from None

    async def request(
        self, kind: int, target: AgentId, name: str, payload: Any, *, timeout: float | None
    ) -> Any:
        """Send a message and return its reply's payload, as it is on the wire.

        The deadline is the sooner of `timeout` and that of the message that is being handled here.
        Cancelling this call cancels the handler.

        Raises:
            AgentrayError: whatever became of it, if not a value; or the handler's own exception.
        """
        return await self.value_of(self.begin_request(kind, target, name, payload, timeout=timeout))

    def begin_request(
        self, kind: int, target: AgentId, name: str, payload: Any, *, timeout: float | None
    ) -> Request:
        """Send a message now, together with what else leaves in this turn of the event loop.

        What comes of it is to be fetched with `value_of`.
        """
        return self._send(int(kind), target, name, payload, timeout)

    async def value_of(self, message: Request) -> Any:
        """Return the reply's payload of a message that was sent; see `request`."""
        try:
            return await message.future
        except asyncio.CancelledError:
            await self._give_up(message)
            raise

    def _send(
        self, kind: int, target: AgentId, name: str, payload: Any, timeout: float | None
    ) -> Request:
        """Send a message whose reply somebody waits for."""
        loop = self.loop
        context = contexts.current.get()
        now = loop.time()
        if context is None:
            message = Request(kind, target, name, payload, loop.create_future())
            if timeout is not None:
                message.deadline = now + timeout
                message.timeout_s = timeout
            if self._telemetry is not None:
                trace_request(self._telemetry, message)
        else:
            message = ScopedRequest(kind, target, name, payload, loop.create_future(), context)
            if timeout is not None:
                own, inherited = now + timeout, message.deadline
                message.deadline = own if inherited is None else min(own, inherited)
                message.timeout_s = timeout if message.deadline == own else None
        self._deadlines.add(message, now)
        link = self._routes.get(target)
        if link is None or link.blocked:
            self._route(message, attempt=0)
        else:
            link.send(message)
        return message

    def post(self, message: Message) -> None:
        """Send a message; what becomes of it reaches its callbacks."""
        if message.deadline is not None:
            self._deadlines.add(message, self.loop.time())
        self._route(message, attempt=0)

    def ways(self, targets: list[AgentId], most: int) -> Sequence[Way]:
        """Return who may get one message together: agents of one host, as far as is known.

        Args:
            targets: whom something is for.
            most: of them together.
        """
        if targets is self._together[0]:  # the recipients of many events are the very same list
            return self._together[1]
        routes = self._routes
        if len(targets) == 1:
            return ((routes.get(targets[0]) or self._way_to(targets[0]), targets),)
        links = [routes.get(target) or self._way_to(target) for target in targets]
        first = links[0]
        if first is not None and len(targets) <= most and links.count(first) == len(links):
            found: Sequence[Way] = ((first, targets),)
        else:
            found = _grouped(targets, links, most)
        if None not in links:
            self._together = (targets, found)
        return found

    def _way_to(self, target: AgentId) -> AnyLink | None:
        """Return the way to an agent if there is one without further ado, and remember it."""
        view = self.snapshot.view(target.type)
        host = None if view is None or view.stopped else self.snapshot.host_of(target)
        if host is None or self._closed:
            return None
        here = self._local is not None and host.id == self._local.host_id
        link = self._local.link if here and self._local is not None else self._link(host)
        if not link.blocked:
            self._remember(target, link)
        return None if link.blocked else link

    def post_to(self, host_id: str, message: Message) -> None:
        """Send a message to a host, whatever it leases; it fails when that is gone."""
        host = self.snapshot.hosts.get(host_id)
        link = None if host is None or self._closed else self._link(host)
        if link is None or link.gone:
            why = self.snapshot.deaths.get(host_id, "")
            self._fail(message, HostDied(str(message.target), host_id, why, _action(message)))
        else:
            link.send(message)

    async def _give_up(self, message: Request) -> None:
        """Cancel a message's handler and wait until it has ended, at most for the grace."""
        ended = message.given_up()
        if message.link is not None and message.link.cancel(message):
            await asyncio.wait((ended,), timeout=CANCEL_GRACE_S)

    def cancel(self, message: Message) -> bool:
        """Give a message up: its handler is cancelled, its value ignored.

        Returns:
            Whether a reply will come when its handler has ended.
        """
        message.closed = True
        return message.link is not None and message.link.cancel(message)

    def abandon(self, message: Message) -> None:
        """Give a message up, from any thread; harmless when the event loop has ended."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.cancel, message)

    def _route(self, message: Message, attempt: int) -> None:
        link = self._routes.get(message.target)
        if link is None or link.blocked:
            if message.copies > 1:  # each finds its own way
                for number in message.numbers:
                    self._route(message.alone(number), attempt)
                return
            try:
                link = self._find_link(message, last_chance=attempt > 0)
            except (AgentrayError, ValueError) as error:  # also a key that is no text
                self._fail(message, error)
                return
            if link is None:
                self._park(message, attempt + 1)
                return
            view = self.snapshot.view(message.target.type)
            if view is not None and not view.stopped:
                self._remember(message.target, link)
        if isinstance(link, Link) and isinstance(message.payload, Event | tuple):
            try:
                message.payload = self._for_the_wire(message)
            except AgentrayError as error:
                self._fail(message, error)
                return
        link.send(message)

    def _remember(self, target: AgentId, link: AnyLink) -> None:
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[target] = link

    def _for_the_wire(self, message: Message) -> bytes | Large:
        """Serialise a payload that might have stayed in this process.

        The recipients of one event follow each other: it is serialised once for all of them, and
        once in each frame, since pickle knows one object from an equal one.
        """
        payload = message.payload
        if not isinstance(payload, Event):
            return encode_call(payload, {}, message.name)
        if payload is not self._last_event[0]:
            self._last_event = (payload, encode(payload, f"event {message.name}"))
        return self._last_event[1]

    def _find_link(self, message: Message, *, last_chance: bool) -> AnyLink | None:
        """Return the way to a message's agent; None: there is none at the moment."""
        if self._closed:
            raise ChannelClosed
        target = message.target
        view = self.snapshot.view(target.type)
        if view is None:
            if last_chance:
                raise UnknownAgentType(target.type, tuple(sorted(self.snapshot.types)))
            return None  # it may have been deployed a moment ago: look again with a fresh snapshot
        if view.stopped and _from_outside(message):
            raise DeploymentStopped(str(target))
        host = self.snapshot.host_of(target)
        if host is None:
            self._without_host(target, view)
            return None
        if self._local is not None and host.id == self._local.host_id:
            return self._local.link
        link = self._link(host)
        if link.gone:
            return None
        if link.blocked:
            raise Overloaded(f"The link to {host.id}")
        return link

    def _without_host(self, agent: AgentId, view: TypeView) -> None:
        """Ask for a host if the agent is isolated and has none; its messages wait parked.

        Raises:
            PoolPending: there is no room for its host.
        """
        if (pending := self.snapshot.pending(agent)) is not None:
            raise pending
        has_seat = not view.isolated or agent in self.snapshot.seats
        if not has_seat and agent not in self._asking:
            self._asking.add(agent)
            self._tasks.spawn(self._get_seat(agent), name=f"seat of {agent}")

    async def _get_seat(self, agent: AgentId) -> None:
        try:
            snapshot = await self._connector.seat(agent)
        except ManagerUnavailable as error:
            logger.warning("%s", error, extra={"action": "seat_waits"})
        except AgentrayError as error:
            for message, _ in [entry for entry in self._parked if entry[0].target == agent]:
                if not message.closed:
                    self._fail(message, error)
        else:
            self.update(snapshot)
        finally:
            self._asking.discard(agent)

    def _link(self, host: HostRef) -> Link:
        link = self._links.get(host.id)
        if link is None:
            link = Link(
                host,
                self._connector.connect(host),
                self._tasks,
                on_moved=self.moved,
                on_gone=self.on_gone,
                batch=self._batch,
            )
            self._links[host.id] = link
        return link

    # Messages without a host

    def moved(self, message: Message, may_have_run: bool = True) -> None:
        """Send a message again that a host gave back because it does not lease the slot.

        Args:
            message: which.
            may_have_run: the host may have begun to work on it.
        """
        if message.closed:
            message.on_reply(Reply(message.id, ReplyKind.CANCELLED))
            return
        if isinstance(message, StreamMessage) and not message.untouched:
            # Its next host would begin anew, and the reader has read the beginning.
            self._fail(message, AgentMoved(str(message.target), "the agent moved to another host"))
            return
        if may_have_run and message.name in _NEW_RUN and message.kind == Kind.RUN:
            message.name = RunMode.AGAIN  # the next host must look into the Store first
        self._park(message, 1)

    def _park(self, message: Message, attempt: int) -> None:
        if len(self._parked) >= MAX_PARKED:
            self._fail(message, Overloaded(str(message.target)))
            return
        message.link = None
        if message.kind == Kind.RUN and message.name == RunMode.FRESH:
            message.name = RunMode.UNBEGUN  # meanwhile the manager may give it to a host
        self._parked.append((message, attempt))
        self._request_refresh()
        if self._unpark_timer is None:
            self._unpark_timer = self.loop.call_later(self._parked_s, self._unpark_late)

    def _unpark_late(self) -> None:
        """Try again although nothing is new: hosts may have heard of it later than this process."""
        self._parked_s = min(self._parked_s * 2, _PARKED_S)
        self._unpark()

    def _unpark(self) -> None:
        if self._unpark_timer is not None:
            self._unpark_timer.cancel()
            self._unpark_timer = None
        parked, self._parked = self._parked, []
        for message, attempt in parked:
            if not message.closed:
                self._route(message, attempt)

    def on_gone(self, message: Message, reason: str, may_have_run: bool) -> None:
        """Send a message of a lost host again if that does no harm, else fail it."""
        if message.closed:
            message.on_reply(Reply(message.id, ReplyKind.CANCELLED))
            return
        if self._closed:
            self._fail(message, ChannelClosed())
            return
        if may_have_run and message.name in _NEW_RUN and message.kind == Kind.RUN:
            message.name = RunMode.AGAIN  # the next host must look into the Store first
        had_value = isinstance(message, Request) and message.future.done()
        bound = had_value or message.kind in OF_HOSTS
        if not bound and (not may_have_run or message.kind in _RESENT or self._idempotent(message)):
            self._park(message, 1)
        else:
            host = getattr(message.link, "host", None)
            host_id = host.id if isinstance(host, HostRef) else "?"
            # The manager knows best: whom it declared lost it kills, and that is all that Ray sees.
            why = self.snapshot.deaths.get(host_id) or reason
            self._fail(message, HostDied(str(message.target), host_id, why, _action(message)))

    def _idempotent(self, message: Message) -> bool:
        """Whether a message may run twice; a stream may not once a part of it has come."""
        view = self.snapshot.types.get(message.target.type)
        if view is None or message.name not in view.idempotent:
            return False
        if isinstance(message, StreamMessage):
            return message.untouched
        return message.kind == _CALL

    def _fail(self, message: Message, error: Exception) -> None:
        message.closed = True
        if message.copies == 1:
            message.on_reply(Reply(0, ReplyKind.ERROR, error))
            return
        for number in message.numbers:
            message.on_reply(Reply(number, ReplyKind.ERROR, error))

    def _open_messages(self) -> Iterable[Message]:
        for link in self._links.values():
            yield from link.open_messages()
        if self._local is not None:
            yield from self._local.link.open_messages()
        for message, _ in self._parked:
            yield message

    def _expired(self, message: Message) -> None:
        back = None if self._local is None else self._local.called_back(message)
        behind = may_have_come_back(message)
        if isinstance(message, Request) and (behind or back is not None):
            waiting, ended = message.future, message.given_up()
            known = self.cancel(message)
            tell = self._tell_late(message, waiting, ended if known and behind else None, back)
            self._tasks.spawn(tell, name="undo what came back")
            return
        self._fail(message, _too_late(message))
        self.cancel(message)  # afterwards: within the process its answer comes at once

    async def _tell_late(
        self,
        message: Request,
        waiting: asyncio.Future[Any],
        ended: asyncio.Future[Any] | None,
        back: CalledBack | None,
    ) -> None:
        """Tell of a deadline when what the message came back with has been undone."""
        try:
            await until_undone(ended, back)
        finally:
            if not waiting.done():
                waiting.set_exception(_too_late(message))

    # End

    async def close(self) -> None:
        """Fail what is open with `ChannelClosed` and end all tasks."""
        self._closed = True
        self._deadlines.close()
        if self._unpark_timer is not None:
            self._unpark_timer.cancel()
        for link in self._links.values():
            link.close("the channel was closed")
        for message, _ in self._parked:
            self._fail(message, ChannelClosed())
        self._parked.clear()
        await self._tasks.close()


def _grouped(
    targets: Sequence[AgentId], links: Sequence[AnyLink | None], most: int
) -> Sequence[Way]:
    known: dict[AnyLink, list[AgentId]] = {}
    found: list[Way] = []
    for target, link in zip(targets, links, strict=True):
        if link is None:
            found.append((None, [target]))
            continue
        group = known.get(link)
        if group is None or len(group) >= most:
            group = known[link] = []
            found.append((link, group))
        group.append(target)
    return found


_OF_OPERATORS = frozenset({Kind.STATE, Kind.CANCEL_RUN})
"""What is possible where an app is stopped, too."""


def _too_late(message: Message) -> DeadlineExceeded:
    timeout_s = message.timeout_s if isinstance(message, Request) else None
    return DeadlineExceeded(f"{message.target}.{message.name}", timeout_s)


def _action(message: Message) -> str:
    """Return the action that a message asks for; "": it is no call."""
    return message.name if message.kind in _OF_ACTIONS else ""


def _from_outside(message: Message) -> bool:
    """Whether a message is none that an agent sends, nor a part of an accepted run."""
    origin = message.origin
    return origin.sender is None and origin.run is None and message.kind not in _OF_OPERATORS
