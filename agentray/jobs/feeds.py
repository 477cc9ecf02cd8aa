"""Reads the logs of jobs for all who watch: one reader per job and process, however many watch.

A feed knows how long its log is, and what has become of its job. Whoever watches reads at its own
offset; blocks that many read are read once, and cut into frames once. Nobody has a queue: who is
slow reads later, from the file.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentray.core.job_log import Form, Frame, cut
from agentray.errors import RayUnavailable, StoreUnavailable, UnknownJob
from agentray.protocol.jobs import Job, JobStatus
from agentray.runtime.job_ports import JobRunner, LogGone, LogSource
from agentray.runtime.tasks import TaskSet
from agentray.store.base import Store
from agentray.store.jobs import StoredJob

logger = logging.getLogger(__name__)

BLOCK = 256 * 1024
"""Bytes that are read, and cut, at a time: a reading goes through a thread, which takes as long as
the cutting of a fifth of it."""

POLL_S = 0.05
"""Between two looks at the length of a log."""

LOOK_S = 0.1
"""Between two questions where a job runs that has only just begun."""

REFRESH_S = 0.5
"""Between two looks at the record of a job."""

_BLOCKS = 16  # kept of each feed
_CUTS = 16
_SETTLE_S = 0.5  # a log that has not grown for so long after its job's end is whole
_KEEPING_S = 30.0  # for so long the manager may read the log of an ended job that is out of reach
_NODES_S = 2.0


@dataclass(frozen=True, slots=True)
class End:
    """Why nothing follows in a log.

    Attributes:
        reason: `complete`, `failed`, `stopped` or `lost`.
        message: in words.
    """

    reason: str
    message: str


_REASONS = {
    JobStatus.SUCCEEDED: "complete",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "stopped",
}


class Feed:
    """The log of one job, for all in this process who watch it."""

    def __init__(self, store: Store, runner: JobRunner, stored: StoredJob, tasks: TaskSet) -> None:
        self._store = store
        self._runner = runner
        self._stored = stored
        self._tasks = tasks
        self._source: LogSource | None = None  # None: what the Store keeps is read
        self._from_store = False
        self._changed = asyncio.Event()
        self._blocks: OrderedDict[tuple[int, int], asyncio.Task[tuple[int, bytes]]] = OrderedDict()
        self._cuts: OrderedDict[tuple[Form, int, int, int, bool], list[Frame]] = OrderedDict()
        self._ended_at: float | None = None
        self._grown_at = 0.0
        self.size = 0
        self.end: End | None = None

    @property
    def job(self) -> Job:
        """The job as it was at the last look."""
        return self._stored.job

    @property
    def owner(self) -> str:
        """Whose the job is."""
        return self._stored.owner

    # For those who watch

    async def changed(self, timeout_s: float) -> bool:
        """Wait until something is new; False: nothing was for that long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def read(self, offset: int) -> tuple[int, bytes]:
        """Return bytes from an offset on, and where they begin: later, if some were not kept.

        They are `BLOCK` many; fewer where the log ends as it is now, or where some were not kept.

        Raises:
            LogGone: they cannot be read now.
            StoreUnavailable: likewise.
        """
        key = (offset, min(self.size, offset + BLOCK))
        task = self._blocks.get(key)
        if task is None:
            task = self._blocks[key] = self._tasks.spawn(self._load(*key), name="read a log")
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        # Whoever stops watching must not stop the reading that others wait for.
        return await asyncio.shield(task)

    async def _load(self, offset: int, end: int) -> tuple[int, bytes]:
        try:
            return await self._fetch(offset, end)
        except (LogGone, StoreUnavailable):
            self._blocks.pop((offset, end), None)  # the next one tries again
            raise

    async def _fetch(self, offset: int, end: int) -> tuple[int, bytes]:
        if self._source is not None and not self._from_store:
            data = await self._source.read(offset, end - offset)
            if data or end <= offset:
                return offset, data
            raise LogGone("it is shorter than it was")
        return await self._fetch_kept(offset, end)

    async def _fetch_kept(self, offset: int, end: int) -> tuple[int, bytes]:
        """Read what is kept in the Store: several parts, up to where one is missing."""
        begin, at = offset, offset
        parts: list[bytes] = []
        while at < end:
            found = await self._store.read_job_log(self.job.job_id, at)
            if found is None or found[0] >= self.size:
                break
            if found[0] > at:
                if parts:
                    break
                begin = at = found[0]
                end = min(self.size, begin + BLOCK)
            parts.append(found[1][: end - at])
            at += len(parts[-1])
        return (begin, b"".join(parts)) if parts else (self.size, b"")

    def cut(self, data: bytes, offset: int, form: Form, size: int, *, final: bool) -> list[Frame]:
        """Cut what was read into frames; the same is cut once for all."""
        key = (form, size, offset, offset + len(data), final)
        found = self._cuts.get(key)
        if found is None:
            found = self._cuts[key] = cut(data, offset, form, final=final, size=size)
            if len(self._cuts) > _CUTS:
                self._cuts.popitem(last=False)
        return found

    # The reader

    async def begin(self) -> None:
        """Look for the first time, so that whoever watches knows how long the log is.

        Raises:
            StoreUnavailable: the record cannot be read.
        """
        await self._refresh()
        await self._measure()
        if self._stored.log_whole and self.size == self._stored.log_size and self.end is None:
            self._finish(_REASONS[self.job.status], self.job.message or "")

    async def run(self) -> None:
        """Look again and again until nothing can follow."""
        loop = asyncio.get_running_loop()
        refreshed = looked = loop.time()
        while self.end is None:
            await asyncio.sleep(POLL_S)
            if self._source is None and not self._from_store and loop.time() - looked >= LOOK_S:
                await self._look()
                looked = loop.time()
            if loop.time() - refreshed >= REFRESH_S:
                try:
                    await self._refresh()
                except StoreUnavailable as error:
                    logger.warning("%s", error, extra={"action": "feed_waits"})
                refreshed = loop.time()
            await self._measure()

    async def _look(self) -> None:
        """Ask Ray where a job runs that has only just begun: its record says so a moment later."""
        job_id = self.job.job_id
        try:
            seen = (await self._runner.look([job_id])).get(job_id)
        except RayUnavailable as error:
            logger.debug("%s", error)
            return
        if seen is not None and seen.driver_node_id is not None:
            at = {"driver_node_id": seen.driver_node_id}
            self._source = self._runner.log(self.job.model_copy(update=at))

    async def _refresh(self) -> None:
        stored = await self._store.get_job(self.job.job_id)
        if stored is None:  # somebody has deleted it
            self.end = End("lost", "The job was deleted.")
            self._notify()
            return
        if stored.job != self._stored.job:
            self._notify()
        self._stored = stored
        source = self._runner.log(stored.job)
        # Without its machine there is what the Store keeps; a running job may only be late.
        if source is not None or stored.job.status.ended:
            self._source = source
            self._from_store = source is None
        if stored.job.status.ended and self._ended_at is None:
            self._ended_at = asyncio.get_running_loop().time()

    async def _measure(self) -> None:
        """Look how long the log is, and whether it can grow."""
        now = asyncio.get_running_loop().time()
        size: int | None = None
        if self._source is not None and not self._from_store:
            try:
                size = await self._source.size()
            except LogGone as error:
                logger.debug("the log of %s: %s", self.job.job_id, error)
            if size is not None and size < max(self.size, self._kept_size):
                size = None  # it is another file: the machine was made anew
        if size is None:
            self._measure_kept(now)
            return
        if size > self.size:
            self.size, self._grown_at = size, now
            self._notify()
        elif self._ended_at is not None and now - max(self._grown_at, self._ended_at) >= _SETTLE_S:
            self._finish(_REASONS[self.job.status], self.job.message or "")

    @property
    def _kept_size(self) -> int:
        return self._stored.log_size

    def _measure_kept(self, now: float) -> None:
        """Do the same with what the Store keeps, of a log that cannot be read where it was."""
        stored = self._stored
        if self._ended_at is None:
            return  # it runs: its machine may only be slow to answer
        waited = now - self._ended_at >= _KEEPING_S
        if not (stored.log_whole or stored.log_lost or waited):
            return  # the manager is about to read it
        self._from_store = True
        self._blocks.clear()
        self.size = max(self.size, stored.log_size)
        if stored.log_whole:
            self._finish(_REASONS[self.job.status], self.job.message or "")
        else:
            why = f"The log could not be read to its end. {self.job.message or ''}"
            self._finish("lost", why.strip())

    def _finish(self, reason: str, message: str) -> None:
        self.end = End(reason, message)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class LogHub:
    """The feeds of this process."""

    def __init__(self, store: Store, runner: JobRunner) -> None:
        """Make one.

        Args:
            store: has the records of jobs, and what is kept of their logs.
            runner: knows where their logs are.
        """
        self._store = store
        self._runner = runner
        self._feeds: dict[str, _Shared] = {}
        self._tasks = TaskSet("logs of jobs")
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()

    async def close(self) -> None:
        """End all readers; whoever watches is told by the end of its connection."""
        await self._tasks.close()

    @asynccontextmanager
    async def watching(self, job_id: str) -> AsyncGenerator[Feed]:
        """Have the feed of a job for a while.

        Raises:
            UnknownJob: there is none of this id.
            StoreUnavailable: it cannot be read now.
        """
        shared = self._feeds.get(job_id)
        if shared is None:
            stored = await self._store.get_job(job_id)
            if stored is None:
                raise UnknownJob(job_id)
            await self._look_at_nodes()
            shared = self._feeds.get(job_id)  # somebody else may have been quicker
            if shared is None:
                feed = Feed(self._store, self._runner, stored, self._tasks)
                shared = self._feeds[job_id] = _Shared(feed, self._begin(feed))
        shared.watchers += 1
        try:
            await asyncio.shield(shared.begun)
            yield shared.feed
        finally:
            shared.watchers -= 1
            if shared.watchers == 0:
                if self._feeds.get(job_id) is shared:
                    del self._feeds[job_id]
                shared.stop()

    def _begin(self, feed: Feed) -> Callable[[], tuple[asyncio.Task[None], asyncio.Task[None]]]:
        def begin() -> tuple[asyncio.Task[None], asyncio.Task[None]]:
            begun = self._tasks.spawn(feed.begin(), name=f"begin to read {feed.job.job_id}")

            async def run() -> None:
                await asyncio.wait([begun])
                if not begun.cancelled() and begun.exception() is None:
                    await self._run(feed)

            return begun, self._tasks.spawn(run(), name=f"read {feed.job.job_id}")

        return begin

    async def _run(self, feed: Feed) -> None:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._keep_looking())
            await feed.run()
            looking.cancel()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_NODES_S)
            await self._look_at_nodes()

    async def _look_at_nodes(self) -> None:
        """Let the runner know which machines live, now and then."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._looked_at is not None and now - self._looked_at < _NODES_S:
                return
            self._looked_at = now
            try:
                await self._runner.nodes()
            except RayUnavailable as error:
                logger.warning("%s", error, extra={"action": "nodes_unknown"})


class _Shared:
    """A feed, and who needs it."""

    def __init__(
        self,
        feed: Feed,
        begin: Callable[[], tuple[asyncio.Task[None], asyncio.Task[None]]],
    ) -> None:
        self.feed = feed
        self.watchers = 0
        self.begun, self._reader = begin()

    def stop(self) -> None:
        """End the reader: nobody watches."""
        self.begun.cancel()
        self._reader.cancel()
