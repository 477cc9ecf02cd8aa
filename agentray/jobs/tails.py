"""Follows the log of a job for one who watches: what is sent, in which order, and when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from agentray.core.job_log import Form, Frame, last_lines
from agentray.core.jobs import without_log
from agentray.core.log_limits import Allowance, StreamLimits
from agentray.jobs.feeds import BLOCK, End, Feed
from agentray.protocol.jobs import Job, JobReport
from agentray.runtime.job_ports import LogGone

HEARTBEAT_S = 5.0
"""Something is sent at least so often."""

_PARTIAL_S = 0.5
"""A line that has no end is sent when nothing has followed for so long."""

_AGAIN_S = 0.25
_GONE_S = 10.0  # for so long the log of an ended job may not be readable
_MARK = "[agentray] "


@dataclass(frozen=True, slots=True)
class Tail:
    """What somebody wants of a log.

    Attributes:
        form: how it travels.
        offset: of the first byte.
        lines: begin so many lines before the end instead; None: at the offset.
        follow: go on as it grows.
        limits: how much is wanted.
    """

    form: Form = Form.FRAMES
    offset: int = 0
    lines: int | None = None
    follow: bool = True
    limits: StreamLimits = field(default_factory=StreamLimits)


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


class _Words:
    """What is said besides the log itself, in each form."""

    def __init__(self, form: Form, most: int) -> None:
        self._form = form
        self._most = most

    def start(self, job: Job, offset: int, size: int) -> list[str]:
        if not self._form.exact:
            return []
        about = {"job_id": job.job_id, "status": job.status, "offset": offset, "size": size}
        return [_json(type="start", **about)]

    def status(self, job: Job) -> list[str]:
        if not self._form.exact:
            return []
        return [_json(type="status", status=job.status, message=self._short(job.message))]

    def report(self, report: JobReport) -> list[str]:
        if not self._form.exact:
            return []
        told = _json(type="report", **report.model_dump(mode="json"))
        if len(told) >= self._most:  # whoever wants all of it asks for the job
            told = _json(type="report", progress=report.progress, truncated=True)
        return [told]

    def heartbeat(self, offset: int) -> list[str]:
        match self._form:
            case Form.FRAMES | Form.BLOCKS:
                return [_json(type="heartbeat", offset=offset)]
            case Form.MESSAGES:
                return [_json(type="heartbeat")]
            case Form.TEXT:
                return []  # anything would be a line of the log

    def gap(self, offset: int, begin: int) -> list[str]:
        told = f"These {begin - offset} bytes were not kept."
        if self._form.exact:
            return [_json(type="gap", offset=offset, next=begin, message=told)]
        return self._mark(f"{begin - offset} bytes of the log were not kept")

    def end(self, end: End, job: Job, offset: int, limit: str | None = None) -> list[str]:
        if self._form.exact:
            about = {"reason": end.reason, "status": job.status, "offset": offset}
            more = {"limit": limit} if limit else {}
            return [_json(type="end", **about, **more, message=self._short(end.message))]
        told = [] if end.reason == "complete" else self._mark(self._plainly(end, offset))
        return told if self._form is Form.TEXT else [*told, _json(type="complete")]

    def _plainly(self, end: End, offset: int) -> str:
        said = (self._short(end.message) or "").partition("\n")[0]
        match end.reason:
            case "limit":
                return f"truncated at byte {offset}: {said}"
            case "not_followed":
                return "the job goes on"
            case "lost":
                return f"the log is lost from byte {offset} on: {said}"
            case _:
                return f"the job has {end.reason}: {said}"

    def _mark(self, told: str) -> list[str]:
        text = _MARK + told
        return [text + "\n"] if self._form is Form.TEXT else [_json(type="log", message=text)]

    def _short(self, message: str | None) -> str | None:
        """Return a message that has room in a frame, whatever its characters become in JSON.

        Ray adds the end of the log to why a job has failed: here that has just been told.
        """
        most = self._most // 8
        message = message and without_log(message)
        if message is None or len(message) <= most:
            return message
        return message[: most // 2] + " … " + message[-most // 3 :]


async def start_of(feed: Feed, tail: Tail) -> int:
    """Return the offset at which a tail begins."""
    if tail.lines is None:
        return min(tail.offset, feed.size) if feed.end else tail.offset
    if tail.lines == 0:
        return feed.size
    size = feed.size
    begin, data = size, b""
    while begin > 0:
        earlier = max(0, begin - BLOCK)
        at, block = await feed.read(earlier)
        if at > earlier:  # what is before was not kept
            return begin
        data = block[: begin - earlier] + data
        begin = earlier
        found = last_lines(data, tail.lines)
        if found is not None:
            return begin + found
    return 0


async def whole(feed: Feed, tail: Tail) -> AsyncGenerator[bytes]:
    """Yield the bytes of a log as it is now, from where a tail begins on.

    Raises:
        LogGone: they cannot be read.
        StoreUnavailable: likewise.
    """
    position, end = await start_of(feed, tail), feed.size
    if tail.limits.max_bytes is not None:
        end = min(end, position + tail.limits.max_bytes)
    while position < end:
        begin, data = await feed.read(position)
        yield data[: max(0, end - begin)]
        position = begin + max(1, len(data))


async def follow(feed: Feed, tail: Tail) -> AsyncGenerator[list[str]]:
    """Yield what is to be sent, some at a time, until nothing follows.

    Raises:
        LogGone: the log cannot be read where it was to begin.
        StoreUnavailable: the log was to be read from the Store, which does not answer. Whoever
            watches comes back with the offset that it has.
    """
    follower = _Follower(feed, tail, await start_of(feed, tail))
    yield follower.start()
    while not follower.done:
        if told := await follower.advance():
            yield told


class _Follower:
    """How far one who watches has come."""

    def __init__(self, feed: Feed, tail: Tail, position: int) -> None:
        self._feed = feed
        self._tail = tail
        self._words = _Words(tail.form, tail.limits.max_message_size)
        self._position = position
        self._left = Allowance.of(tail.limits)
        self._job = feed.job
        self._last = feed.size  # where it ends, unless it is followed
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._moved_at = self._now()
        self._gone_at: float | None = None  # since when the log cannot be read
        self.done = False

    def start(self) -> list[str]:
        """Return what comes before the log."""
        job, words = self._job, self._words
        begin = words.start(job, self._position, self._feed.size)
        return [*begin, *words.status(job), *words.report(job.report)]

    async def advance(self) -> list[str]:
        """Return what is to be sent next; nothing: look again. Waits where there is nothing."""
        size, ended = self._feed.size, self._feed.end  # of one moment, before anything is read
        limit = self._left.spent
        if limit and (self._position < size or not self._feed.job.status.ended):
            return self._end(End("limit", f"The limit {limit} is reached."), limit)
        told = self._news()
        most = size if self._tail.follow else min(self._last, size)
        final = ended is not None or not self._tail.follow
        if self._position < most:
            told += await self._read_on(most, final=final)
        elif final:
            return told + self._end(ended or End("not_followed", "The job goes on."))
        else:
            self._moved_at = self._now()
        if self.done or told:
            self._sent_at = self._now()
            return told
        if (self._feed.size, self._feed.end, self._feed.job) != (size, ended, self._job):
            return []
        return await self._wait(_PARTIAL_S if self._position < most else HEARTBEAT_S)

    async def _wait(self, most_s: float) -> list[str]:
        left_s = self._sent_at + HEARTBEAT_S - self._now()
        await self._feed.changed(min(most_s, max(0.01, left_s)))
        if self._now() - self._sent_at < HEARTBEAT_S:
            return []
        self._sent_at = self._now()
        return self._words.heartbeat(self._position)

    def _news(self) -> list[str]:
        before, job = self._job, self._feed.job
        self._job = job
        told: list[str] = []
        if (job.status, job.message) != (before.status, before.message):
            told += self._words.status(job)
        if job.report != before.report:
            told += self._words.report(job.report)
        return told

    async def _read_on(self, most: int, *, final: bool) -> list[str]:
        """Return frames of what follows; none: there is no whole line yet."""
        # Of a line that is not finished the plain forms tell nothing: they could not go on in it.
        stale = self._tail.form.exact and self._now() - self._moved_at >= _PARTIAL_S
        size = self._feed.size
        try:
            begin, data = await self._feed.read(self._position)
        except LogGone as error:
            return await self._gone(error, final=final)
        self._gone_at = None
        told = self._words.gap(self._position, begin) if begin > self._position else []
        cut_off = len(data) < min(BLOCK, size - begin)  # nobody has what follows
        data = data[: max(0, most - begin)]
        complete = cut_off or ((final or stale) and begin + len(data) >= most)
        frames = self._cut(data, begin, last=complete)
        after = frames[-1].next if frames else begin
        if after > self._position:
            self._moved_at = self._now()
        self._position = after
        return told + [frame.text for frame in frames]

    def _cut(self, data: bytes, begin: int, *, last: bool) -> list[Frame]:
        form, size = self._tail.form, self._tail.limits.max_message_size
        if self._left.unlimited:
            return self._feed.cut(data, begin, form, size, final=last)
        allowed, whole = self._left.of_data(data)
        frames = self._feed.cut(allowed, begin, form, size, final=last or whole)
        frames = self._left.of_frames(frames)
        self._left = self._left.after(frames, begin)
        return frames

    async def _gone(self, error: LogGone, *, final: bool) -> list[str]:
        """Wait for a log to come back, or for the manager to say that it is lost."""
        self._gone_at = self._now() if self._gone_at is None else self._gone_at
        if final and self._now() - self._gone_at >= _GONE_S:
            return self._end(End("lost", str(error)))
        await asyncio.sleep(_AGAIN_S)
        return []

    def _end(self, end: End, limit: str | None = None) -> list[str]:
        self.done = True
        return self._words.end(end, self._feed.job, self._position, limit)
