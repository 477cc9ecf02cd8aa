"""The scheduler: begins runs when they are due, and makes those of schedules.

A part of the manager. All that is due is in the Store, in the order of its times; a look is two
questions however much waits, and the next look is when the next thing is due. Looking twice does no
harm, be it by two managers: a firing and the schedule's move to its next time are one transaction,
and a host that is given a run a second time knows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from agentray.core.recurrence import Catching, Firings, decide, without_overlap
from agentray.errors import AgentrayError, StoreUnavailable
from agentray.event_loop import time_of_day
from agentray.protocol.codec import encode
from agentray.protocol.envelope import Kind, Reply, RunMode
from agentray.protocol.schedules import Overlap, Schedule, ScheduleStatus
from agentray.runtime.channel import Channel
from agentray.runtime.dispatcher import ChannelDispatcher
from agentray.runtime.message import Post
from agentray.runtime.schedule_runs import recurrence_of, run_of_firing
from agentray.runtime.tasks import TaskSet
from agentray.store.base import NewRun, Store, StoredRun
from agentray.store.schedules import FIRST_DUE, DuePlace

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""The longest time between two looks: what was admitted meanwhile may be due by then."""

_SHORTEST_LOOK_S = 0.01
_AGAIN_S = 5.0  # before what could not be done is tried again
_PAGE = 500
_MAX_UNDER_WAY = 2000  # runs that are being handed to hosts at a time
_TIMEOUT_S = 30.0


class Scheduler:
    """Looks for what is due, and lets it begin."""

    def __init__(self, store: Store, channel: Channel) -> None:
        """Make one; `start` lets it work.

        Args:
            store: knows what is due.
            channel: the manager's way to the hosts.
        """
        self._store = store
        self._channel = channel
        self._dispatcher = ChannelDispatcher(channel)
        self._tasks = TaskSet("scheduler")
        self._under_way: set[str] = set()  # runs that are being handed to hosts
        self._not_before: dict[str, float] = {}  # when what could not be done is tried again

    def start(self) -> None:
        """Begin to look."""
        self._tasks.spawn(self._loop(), name="scheduler")

    async def close(self) -> None:
        """Stop; what is due stays in the Store."""
        await self._tasks.close()

    async def _loop(self) -> None:
        while True:
            pause_s = LOOK_S
            try:
                pause_s = await self._look()
            except StoreUnavailable as error:
                logger.warning("%s", error, extra={"action": "scheduler_waits"})
            except Exception:
                # Whatever it is: the schedules of everybody else go on.
                logger.exception("the scheduler's look failed", extra={"action": "look_failed"})
            await asyncio.sleep(pause_s)

    async def _look(self) -> float:
        """Begin what is due; return how long until the next look, in seconds."""
        now = time_of_day()
        self._forget_waits()
        await self._fire(now)
        await self._begin(now)
        due = await self._store.next_due(now)
        left_s = LOOK_S if due is None else (due - time_of_day()).total_seconds()
        return min(LOOK_S, max(_SHORTEST_LOOK_S, left_s))

    # Runs

    async def _begin(self, now: datetime) -> None:
        """Hand the runs that are due to their hosts."""
        for stored in await self._store.due_in_sessions(limit=_PAGE):
            # Their hosts begin them. This is for those whose host is another one by now.
            if stored.run.id not in self._under_way and not self._waits(stored.run.id):
                self._hand_over(stored)
        place = FIRST_DUE
        while len(self._under_way) < _MAX_UNDER_WAY:
            runs = await self._store.due_runs(now, after=place, limit=_PAGE)
            for stored in runs:
                if stored.run.id not in self._under_way and not self._waits(stored.run.id):
                    self._hand_over(stored)
            if len(runs) < _PAGE:
                return
            last = runs[-1].run
            place = DuePlace(last.not_before or last.created_at, last.id)

    def _hand_over(self, stored: StoredRun) -> None:
        run_id = stored.run.id
        self._under_way.add(run_id)
        payload = encode((run_id,))
        message = Post(Kind.RUN, stored.agent, RunMode.ENSURE, payload, self._handed_over(run_id))
        message.deadline = asyncio.get_running_loop().time() + _TIMEOUT_S
        self._channel.post(message)

    def _handed_over(self, run_id: str) -> Callable[[Reply], Any]:
        def on_reply(reply: Reply) -> None:
            self._under_way.discard(run_id)
            if isinstance(reply.payload, Exception):
                self._wait(run_id)
                extra = {"action": "delayed_run_waits", "run": run_id}
                logger.warning("a run that is due waits: %s", reply.payload, extra=extra)

        return on_reply

    # Schedules

    async def _fire(self, now: datetime) -> None:
        """Make the runs of schedules that are due."""
        place = FIRST_DUE
        while True:
            schedules = await self._store.due_schedules(now, after=place, limit=_PAGE)
            for schedule in schedules:
                if not self._waits(schedule.uid):
                    await self._fire_guarded(schedule, now)
            if len(schedules) < _PAGE:
                return
            last = schedules[-1]
            place = DuePlace(last.next_at or now, last.id)

    async def _fire_guarded(self, schedule: Schedule, now: datetime) -> None:
        try:
            await self._fire_one(schedule, now)
        except StoreUnavailable:
            raise
        except Exception as error:
            # One schedule that cannot fire must not hold up the others; it tells why.
            self._wait(schedule.uid)
            extra = {"action": "schedule_waits", "schedule": schedule.id}
            logger.warning(
                "schedule %s cannot fire: %s",
                schedule.id,
                error,
                exc_info=None if isinstance(error, AgentrayError) else error,
                extra=extra,
            )
            text = str(error) or type(error).__name__
            if schedule.last_error != text:
                told = {"last_error": text, "revision": schedule.revision + 1}
                changed = schedule.model_copy(update=told)
                await self._store.write_schedule(changed, revision=schedule.revision)

    async def _fire_one(self, schedule: Schedule, now: datetime) -> None:
        spec = schedule.spec
        if schedule.next_at is None:
            return
        catching = Catching(spec.missed, spec.max_missed, timedelta(seconds=spec.grace_s))
        firings = decide(recurrence_of(schedule), schedule.next_at, now, catching)
        times, left_out = firings.times, 0
        if times and spec.overlap is not Overlap.ALLOW:
            unfinished = await self._store.unfinished_of_schedule(schedule.id)
            times, left_out = without_overlap(times, spec.overlap, unfinished, spec.max_queued)
        runs = [run_of_firing(self._dispatcher, schedule, at, now) for at in times]
        skipped = firings.dropped + left_out
        fired = _fired(schedule, firings, runs, skipped, now)
        if await self._store.write_schedule(fired, revision=schedule.revision, runs=runs):
            _log(schedule, runs, skipped)

    # What is tried again later

    def _wait(self, name: str) -> None:
        self._not_before[name] = asyncio.get_running_loop().time() + _AGAIN_S

    def _waits(self, name: str) -> bool:
        return name in self._not_before

    def _forget_waits(self) -> None:
        now = asyncio.get_running_loop().time()
        self._not_before = {name: at for name, at in self._not_before.items() if at > now}


def _fired(
    schedule: Schedule, firings: Firings, runs: list[NewRun], skipped: int, now: datetime
) -> Schedule:
    """Return a schedule after its firings."""
    return schedule.model_copy(
        update={
            "status": ScheduleStatus.ACTIVE if firings.next_at else ScheduleStatus.ENDED,
            "next_at": firings.next_at,
            "last_at": firings.times[-1] if runs else schedule.last_at,
            "last_run": runs[-1].id if runs else schedule.last_run,
            "fired": schedule.fired + len(runs),
            "skipped": schedule.skipped + skipped,
            "last_error": None,
            "updated_at": now,
            "revision": schedule.revision + 1,
        }
    )


def _log(schedule: Schedule, runs: list[NewRun], skipped: int) -> None:
    extra = {"action": "schedule_fired", "schedule": schedule.id, "runs": len(runs)}
    if skipped:
        text = "schedule %s: %d runs, %d firings fell out"
        logger.warning(text, schedule.id, len(runs), skipped, extra=extra)
    else:
        logger.info("schedule %s: %d runs", schedule.id, len(runs), extra=extra)
