"""Reads the tail of a job's log: what has come, and what to ask after a connection broke."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from agentray.client.calls.http import Request, path_of, query_of
from agentray.client.errors import ClientError, LogLost, StreamLimitExceeded
from agentray.core.log_limits import StreamLimits

EndReason = Literal["complete", "failed", "stopped", "not_followed", "lost", "limit"]

NO_LIMITS = StreamLimits()


class LogPiece(NamedTuple):
    r"""A line of a log, or a part of one.

    Attributes:
        offset: of its first byte in the log.
        text: without its line end; bytes that are no UTF-8 as `\xff`.
        ends: a line end follows. Otherwise the line goes on, or the log ends here.
        raw: its bytes, where these are no UTF-8.
    """

    offset: int
    text: str
    ends: bool = True
    raw: bytes | None = None

    @property
    def data(self) -> bytes:
        """Its bytes in the log, with the line end."""
        data = self.text.encode() if self.raw is None else self.raw
        return data + b"\n" if self.ends else data


class LogGap(NamedTuple):
    """Bytes of a log that nobody has any more, from one offset to the next."""

    offset: int
    next: int


class StatusNews(NamedTuple):
    """The job has another status, or says more of it."""

    status: str
    message: str | None


class ReportNews(NamedTuple):
    """What the job has reported last, all of it.

    Attributes:
        progress: from 0 to 1; None: it has not said.
        metrics: by name.
        result: any JSON.
    """

    progress: float | None
    metrics: dict[str, Any]
    result: Any


LogEvent = LogPiece | LogGap | StatusNews | ReportNews


class LogEnd(NamedTuple):
    """Why nothing more comes.

    Attributes:
        reason: `complete`, `failed`, `stopped`: the job has ended so, and this was all of its log.
            `not_followed`: the job goes on. `lost`: the rest cannot be read. `limit`: a limit was
            reached.
        status: of the job.
        offset: up to which the log was read.
        message: in words.
        limit: which one was reached.
    """

    reason: EndReason
    status: str
    offset: int
    message: str = ""
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class LogWish:
    """What is wanted of a log.

    Attributes:
        job_id: whose.
        offset: of the first byte.
        lines: begin so many lines before the end instead.
        follow: go on as it grows.
        limits: how much is wanted.
    """

    job_id: str
    offset: int = 0
    lines: int | None = None
    follow: bool = True
    limits: StreamLimits = field(default_factory=StreamLimits)


class LogReader:
    """How far one has come in a log. Connections may break anywhere: nothing is lost or doubled."""

    def __init__(self, wish: LogWish) -> None:
        """Begin.

        Args:
            wish: what is wanted.
        """
        self._wish = wish
        self.offset = wish.offset
        self.end: LogEnd | None = None
        self._lines = self._messages = 0
        self._first: int | None = None  # where it began

    def request(self, protocol: Literal["websocket", "http"]) -> Request:
        """Return what to ask for, now and after each break."""
        wish, left = self._wish, self._left()
        begun = self._first is not None
        query = query_of(
            format="blocks",
            offset=self.offset if self.offset or begun else None,
            tail=None if begun else wish.lines,
            follow=None if wish.follow else False,
            max_lines=left.max_lines,
            max_bytes=left.max_bytes,
            max_messages=left.max_messages,
            max_message_size=left.max_message_size,
        )
        if begun:
            query.pop("tail", None)
        last = () if protocol == "websocket" else ("stream",)
        return Request("GET", path_of("jobs", wish.job_id, "logs", *last), query)

    def _left(self) -> StreamLimits:
        """Return what is left of the limits: they hold over all connections."""
        limits = self._wish.limits
        seen = 0 if self._first is None else self.offset - self._first
        return replace(
            limits,
            max_lines=None if limits.max_lines is None else limits.max_lines - self._lines,
            max_bytes=None if limits.max_bytes is None else limits.max_bytes - seen,
            max_messages=None
            if limits.max_messages is None
            else limits.max_messages - self._messages,
        )

    def exhausted(self) -> str | None:
        """Return the limit that is reached, though the stream broke before it could say so."""
        left = self._left()
        for name in ("max_lines", "max_bytes", "max_messages"):
            value: int | None = getattr(left, name)
            if value is not None and value <= 0:
                return name
        return None

    def feed(self, frame: str | bytes) -> list[LogEvent]:
        """Take a frame in, and return what it tells.

        Raises:
            ClientError: it is none.
        """
        with _understood():
            return self._read(json.loads(frame))

    def feed_lines(self, frame: str | bytes, joiner: LineJoiner) -> list[str]:
        """Take a frame in, and return the lines that it tells, or ends.

        Args:
            frame: what has come.
            joiner: has what has come of a line before.

        Raises:
            ClientError: it is none.
        """
        with _understood():
            told: dict[str, Any] = json.loads(frame)
            texts = self._next_texts(told) if joiner.empty else None
            if texts is not None and max(map(len, texts)) <= joiner.most:
                self._take(told, len(texts))
                return texts
            events = self._read(told)
            pieces = (event for event in events if isinstance(event, LogPiece))
            return [line for piece in pieces if (line := joiner.feed(piece)) is not None]

    def _read(self, told: dict[str, Any]) -> list[LogEvent]:
        match told["type"]:
            case "text":
                return self._text(told)
            case "lines":
                return self._pieces(told)
            case "start":
                if self._first is None:
                    self._first = self.offset = int(told["offset"])
            case "gap":
                gap = LogGap(self.offset, int(told["next"]))
                self.offset = gap.next
                return [gap]
            case "status":
                return [StatusNews(told["status"], told.get("message"))]
            case "report":
                metrics: dict[str, Any] = told.get("metrics") or {}
                return [ReportNews(told.get("progress"), metrics, told.get("result"))]
            case "end":
                self.end = LogEnd(
                    told["reason"],
                    str(told.get("status", "")),
                    int(told["offset"]),
                    told.get("message") or "",
                    told.get("limit"),
                )
            case _:
                pass  # a newer gateway may say more
        return []

    def _text(self, told: dict[str, Any]) -> list[LogEvent]:
        lines = _lines_in(told)
        numbered = zip(_offsets(told["offset"], lines), lines, strict=False)
        if told["offset"] != self.offset:
            return self._pieces({**told, "lines": numbered})
        self._take(told, len(lines))
        return [LogPiece(offset, line) for offset, line in numbered]

    def _pieces(self, told: dict[str, Any]) -> list[LogEvent]:
        found: list[LogEvent] = []
        first = int(told["offset"])
        if first > self.offset:
            found.append(LogGap(self.offset, first))
        for offset, text, *flags in told["lines"]:
            if offset < self.offset:
                continue  # seen already
            found.append(_flagged(offset, text, flags[0]) if flags else LogPiece(offset, text))
        self._take(told, sum(event.ends for event in found if isinstance(event, LogPiece)))
        return found

    def _next_texts(self, told: dict[str, Any]) -> list[str] | None:
        """Return lines that come as one text and follow those that have come; else None."""
        if told["type"] != "text" or told["offset"] != self.offset:
            return None
        return _lines_in(told)

    def _take(self, told: dict[str, Any], lines: int) -> None:
        self._messages += 1
        self._lines += lines
        self.offset = max(self.offset, int(told["next"]))

    def check_end(self) -> None:
        """Let a good end pass.

        Raises:
            LogLost: the rest of the log cannot be read.
            StreamLimitExceeded: a limit was reached.
        """
        end = self.end
        if end is not None and end.reason == "lost":
            raise LogLost(end.message, end.offset)
        if end is not None and end.reason == "limit":
            raise StreamLimitExceeded(end.limit or "", end.offset)


@contextmanager
def _understood() -> Generator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ClientError(200, "The log is not what an agentray gateway sends") from error


def _lines_in(told: dict[str, Any]) -> list[str]:
    """Return the lines of a text, each of which has its line end."""
    *lines, rest = told["text"].split("\n")
    if rest or not lines:
        raise ValueError("not whole lines")
    return lines


def _offsets(offset: int, lines: list[str]) -> Iterator[int]:
    """Return the offset of each line, and the one behind them."""
    sizes = (1 + (len(line) if line.isascii() else len(line.encode())) for line in lines)
    return accumulate(sizes, initial=offset)


def _flagged(offset: int, text: str, flags: str) -> LogPiece:
    ends = "+" not in flags
    if "b" not in flags:
        return LogPiece(offset, text, ends)
    raw = b64decode(text)
    return LogPiece(offset, raw.decode("utf-8", "backslashreplace"), ends, raw)


class LineJoiner:
    """Puts lines together again that came in pieces."""

    def __init__(self, most: int) -> None:
        """Make one.

        Args:
            most: characters of one line; what is more is cut off, and said to be.
        """
        self.most = most
        self._parts: list[str] = []
        self._length = 0
        self._cut_bytes = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits for its line end."""
        return not self._parts

    def feed(self, piece: LogPiece) -> str | None:
        """Take a piece in; return the line that it ends."""
        if piece.ends and not self._parts and len(piece.text) <= self.most:
            return piece.text
        self._add(piece)
        return self._line() if piece.ends else None

    def last(self) -> str | None:
        """Return what is left at the end: a line without a line end."""
        return self._line() if self._parts else None

    def _add(self, piece: LogPiece) -> None:
        room = self.most - self._length
        kept = piece.text[: max(0, room)]
        self._parts.append(kept)
        self._length += len(kept)
        self._cut_bytes += len(piece.text[len(kept) :].encode("utf-8", "surrogatepass"))

    def _line(self) -> str:
        cut = f" … [{self._cut_bytes} bytes more]" if self._cut_bytes else ""
        line = "".join(self._parts) + cut
        self._parts, self._length, self._cut_bytes = [], 0, 0
        return line
