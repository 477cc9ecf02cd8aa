"""Aggregators: agents that wait for events of several types and combine them.

::

    class ResultCombiner(AggregatorAgent):
        needs = (TextSubmitted, TextSummarised)

        async def combine(self, events: Gathered) -> Combined:
            return Combined(text=events[TextSubmitted].text, ...)

    class Jury(AggregatorAgent):
        needs = {Vote: 5}
        quorum = 3
        deadline_s = 30.0

        async def combine(self, events: Gathered) -> Verdict:
            return Verdict(votes=[vote.choice for vote in events.all(Vote)])
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar, Literal

from agentray.agent import Agent, action, on
from agentray.context import HeldMessage
from agentray.errors import ConfigurationError, DeadlineExceeded, Incomplete
from agentray.events import Event
from agentray.patterns.branches import BranchFailed
from agentray.patterns.declared import declares_nothing
from agentray.patterns.emitted import emitted
from agentray.patterns.gathering import Gathered, Gathering, GatheringStatus, Taken, needed

Emitted = Event | Iterable[Event] | AsyncIterator[Event] | None
"""What `combine` may return."""

logger = logging.getLogger(__name__)


class AggregatorAgent(Agent):
    """Waits for the events that it needs, in any order, and combines them once.

    There is an instance per correlation, so conversations cannot mix. Events of exactly the types
    in `needs` count, and of each type the first ones. The same event delivered again changes
    nothing; one too many of its type is ignored and counted. Once they are combined the events are
    dropped; the instance leaves memory when it has been idle for `options.idle_timeout_s`, and with
    it the result. It handles events while `combine` waits; `combine` itself never overlaps with
    another one of its instance.

    **Without a deadline**, events are acknowledged as they come, so a run whose events never
    complete ends without a result. `options.idle_timeout_s` must be longer than one event may take
    after the one before it; an aggregator that leaves half full logs what it waited for. When its
    host dies, what it has gathered is gone, and a durable run is tried again as a whole.

    **With a deadline**, events are acknowledged when they are combined, so the run waits for the
    result. At the deadline `incomplete` decides what follows. When its host dies, a durable run is
    tried again as a whole, too, even where a partial result was made of what came afterwards.

    Branches that fail: with `reports_failure` they say so, and `incomplete` is called as soon as
    nothing more can come. Other errors fail the run as ever; the aggregator hears nothing of them
    and waits for its deadline.

    Attributes:
        needs: the event types to wait for, or how many of each: `{Vote: 5}`.
        quorum: how many of all these events are enough; None: all.
        deadline_s: seconds from the first event to the result; `incomplete` may take as long again.
        late: what becomes of events that come after the end: `ignore` counts them; `again` keeps
            the events and combines again, with the late one instead of the oldest of its type if
            there are enough of that. Those that do not make up a quorum are not combined.
    """

    needs: ClassVar[tuple[type[Event], ...] | Mapping[type[Event], int]] = ()
    quorum: ClassVar[int | None] = None
    deadline_s: ClassVar[float | None] = None
    late: ClassVar[Literal["ignore", "again"]] = "ignore"
    _needs: ClassVar[tuple[dict[str, int], int]]
    _gather: ClassVar[Callable[..., Coroutine[Any, Any, Any]]]
    _give_up: ClassVar[Callable[..., Coroutine[Any, Any, Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if declares_nothing(cls):
            super().__init_subclass__(**kwargs)
            return
        cls._needs = needed(cls.__name__, cls.needs, cls.quorum)
        _check(cls)
        # Which events to handle is known here at the earliest, so each subclass gets a handler of
        # its own: `on` marks the function, and a shared one would collect everybody's marks.
        cls._gather = on(*cls.needs, key="correlation")(_gathering_method())
        cls._give_up = on(BranchFailed, where=_instead_of(cls._needs[0]))(_failure_method())
        # Events come while others wait for the end, and so do those who ask for the result.
        cls.options = cls.options.model_copy(update={"concurrency": None})
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        self._gathering = Gathering(*self._needs)
        self._given_up_at: float | None = None  # of the event loop's clock
        self._outcome: tuple[Event, ...] | Exception = ()
        self._is_settled = False
        self._until_settled: asyncio.Event | None = None  # where somebody waits for that
        self._one_at_a_time = None if self.late == "ignore" else asyncio.Lock()
        self._held: list[HeldMessage | None] = []  # of runs that are durable per step
        self._waiting = 0

    async def combine(self, events: Gathered) -> Emitted:
        """Return what follows from the events; called once, when there are enough of them.

        An error here fails the run, and they are not combined again.
        """
        raise NotImplementedError

    async def incomplete(self, events: Gathered) -> Emitted:
        """Return what follows when there will not be enough events: a partial result, or an error.

        Args:
            events: those that there are, with what is `missing`, and `failures` of branches.

        Raises:
            Incomplete: names what is missing; override this method to do something else.
        """
        raise Incomplete(str(self.id), events.missing, self._why(events))

    def identity(self, event: Event) -> str:
        """Return what is equal for events that count once; its id, unless you override this.

        A handler that is run again after its host has died publishes events with other ids. Where
        that matters return what stays the same, such as the event's source.
        """
        return event.event_id

    @action(idempotent=True)
    async def gathering(self) -> GatheringStatus:
        """Return how far it is."""
        gathering = self._gathering
        return GatheringStatus(
            missing=gathering.missing,
            ignored=gathering.ignored,
            ended=gathering.ended,
            waiting=self._waiting,
        )

    @action(idempotent=True)
    async def wait_for_events(self) -> tuple[Event, ...]:
        """Return what `combine` or `incomplete` returned, at once if it has, else when it does.

        Any number may wait, each with a deadline of its own: that of the handle.

        Raises:
            Exception: what `combine` or `incomplete` raised.
        """
        self._waiting += 1
        try:
            await self._until_it_is()
        finally:
            self._waiting -= 1
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    async def on_stop(self) -> None:
        """Leave a trace of events that came to nothing."""
        gathering = self._gathering
        if gathering.begun and not gathering.ended:
            logger.warning(
                "%s left memory while it waited for %s",
                self.id,
                ", ".join(gathering.missing),
                extra={"action": "gathering_incomplete", "agent": str(self.id)},
            )

    async def _take(self, event: Event) -> list[Event] | None:
        gathering, identity = self._gathering, self.identity(event)
        taken = gathering.take(identity, event)
        if taken is Taken.LAST:
            return await self._end(self.combine)
        if taken is Taken.COUNTED:
            return await self._until_ended()
        if taken is Taken.LATE:
            if self.late == "again":
                gathering.take_late(identity, event)
                if gathering.complete:
                    return await self._end(self.combine)
            gathering.ignored += 1
        return None

    async def _take_failure(self, failure: BranchFailed) -> list[Event] | None:
        """Note that a branch has failed; give up when nothing more can come."""
        gathering = self._gathering
        gathering.fail(self.identity(failure), failure)
        return None if gathering.ended else await self._until_ended()

    async def _until_ended(self) -> list[Event] | None:
        """Keep an event unacknowledged until it is combined; at the deadline, give up."""
        if self._gathering.exhausted:
            return await self._end(self.incomplete)
        self._held.append(self.context.hold())
        if self.deadline_s is None:
            return None
        if self._given_up_at is None:
            self._given_up_at = asyncio.get_running_loop().time() + self.deadline_s
        try:
            async with asyncio.timeout_at(self._given_up_at):
                await self._until_it_is()
        except TimeoutError:
            if not self._gathering.ended:
                return await self._end(self.incomplete)
        except asyncio.CancelledError:
            # With its run, or because it leaves: nothing keeps the deadline any more.
            self._abandon()
            raise
        return None

    def _abandon(self) -> None:
        """Tell those who wait that nothing will come of it."""
        if not self._gathering.ended:
            self._gathering.ended = True
            self._gathering.drop()
            self._settle(Incomplete(str(self.id), (), "it was cancelled"))

    async def _end(self, decide: Callable[[Gathered], Any]) -> list[Event]:
        """Let `combine` or `incomplete` decide what follows, and tell all who wait."""
        gathering = self._gathering
        gathering.ended = True
        gathered = gathering.gathered()
        self.context.settle(self._held)  # all of them are done with the commit of what follows
        self._held.clear()
        if self.late == "ignore":
            gathering.drop()
        outcome: tuple[Event, ...] | Exception | None = None
        try:
            if self._one_at_a_time is None:  # it is called once
                events = await self._within_time(decide, gathered)
            else:
                async with self._one_at_a_time:
                    events = await self._within_time(decide, gathered)
            outcome = tuple([self._published(event) for event in events])
        except Exception as error:
            outcome = error
            raise
        else:
            return list(outcome)
        finally:
            if outcome is None:
                outcome = Incomplete(str(self.id), (), "it was cancelled")
            self._settle(outcome)

    def _settle(self, outcome: tuple[Event, ...] | Exception) -> None:
        self._outcome, self._is_settled = outcome, True
        if self._until_settled is not None:
            self._until_settled.set()

    async def _until_it_is(self) -> None:
        if self._is_settled:
            return
        if self._until_settled is None:
            self._until_settled = asyncio.Event()
        await self._until_settled.wait()

    async def _within_time(self, decide: Callable[[Gathered], Any], gathered: Gathered) -> Any:
        name = "incomplete" if decide == self.incomplete else "combine"
        who = f"{type(self).__name__}.{name}"
        left_s = self._time_left(name)
        if left_s is None:
            return await emitted(decide(gathered), who)
        timeout = asyncio.timeout(left_s)
        try:
            async with timeout:
                return await emitted(decide(gathered), who)
        except TimeoutError:
            if timeout.expired():
                raise DeadlineExceeded(f"{self.id}.{name}", self.deadline_s) from None
            raise

    def _time_left(self, decides: str) -> float | None:
        if self._given_up_at is None or decides == "incomplete" or self._is_settled:
            return self.deadline_s
        return self._given_up_at - asyncio.get_running_loop().time()

    def _published(self, event: Event) -> Event:
        """Return an event as it will be when it is published: those who wait see the same."""
        context = self.context
        return event.caused_by(
            correlation_id=context.correlation_id or "",
            causation_id=None if context.event is None else context.event.event_id,
            source=str(self.id),
        )

    def _why(self, events: Gathered) -> str:
        if not events.failures:
            return f"{self.deadline_s:g} s have passed"
        return "; ".join(f"{failed.agent} failed: {failed.error}" for failed in events.failures)


def _check(cls: type[AggregatorAgent]) -> None:
    if cls.combine is AggregatorAgent.combine:
        raise ConfigurationError(
            f"{cls.__name__} does not say what follows from its events: write "
            "`async def combine(self, events: Gathered)`."
        )
    if cls.deadline_s is not None and not cls.deadline_s > 0:
        raise ConfigurationError(f"{cls.__name__}.deadline_s must be more than 0 seconds, or None.")
    if cls.late not in ("ignore", "again"):
        raise ConfigurationError(f"{cls.__name__}.late is 'ignore' or 'again': {cls.late!r}.")
    if "concurrency" in cls.options.model_fields_set and cls.options.concurrency is not None:
        raise ConfigurationError(
            f"{cls.__name__}.options: an aggregator takes its events as they come; leave out "
            "concurrency."
        )


def _gathering_method() -> Callable[..., Coroutine[Any, Any, Any]]:
    def _gather(self: AggregatorAgent, event: Event) -> Coroutine[Any, Any, list[Event] | None]:
        return self._take(event)  # pyright: ignore[reportPrivateUsage] # its own method

    return _gather


def _failure_method() -> Callable[..., Coroutine[Any, Any, Any]]:
    def _give_up(
        self: AggregatorAgent, failure: BranchFailed
    ) -> Coroutine[Any, Any, list[Event] | None]:
        return self._take_failure(failure)  # pyright: ignore[reportPrivateUsage] # its own

    return _give_up


def _instead_of(needs: Iterable[str]) -> Callable[[BranchFailed], bool]:
    names = tuple(sorted(needs))  # in the same order in every process
    return lambda failure: failure.instead_of in names
