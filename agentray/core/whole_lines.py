"""Takes whole lines of text out of a log all at once: what nearly all of a log consists of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from json.encoder import encode_basestring as _quote  # characters beyond ASCII as they are

_ESCAPED = bytes({*range(0x20)} - {ord("\n")}) + b'"\\'  # by JSON


@dataclass(frozen=True, slots=True)
class WholeLines:
    """Lines that have their line ends.

    Attributes:
        begins: the offset of each.
        end: the byte after the last one's line end.
        texts: each without its line end, as it is within the quotes of JSON.
        widest: characters of the longest of these.
    """

    begins: list[int]
    end: int
    texts: list[str]
    widest: int


def whole_lines(data: bytes, offset: int) -> WholeLines | None:
    """Return the lines with which bytes of a log begin.

    A few calls work on all of them, since a log may have a million: a loop that does as much for
    each costs three times that.

    Args:
        data: of the file.
        offset: of their first byte.

    Returns:
        None: there is no whole line, or some are no UTF-8.
    """
    end = data.rfind(b"\n") + 1
    if end == 0:
        return None
    data = data[: end - 1]
    try:
        texts = _quoted(data)
    except UnicodeDecodeError:
        return None
    begins = list(accumulate((len(line) + 1 for line in data.split(b"\n")), initial=offset))
    return WholeLines(begins[:-1], begins[-1], texts, max(map(len, texts)))


def _quoted(data: bytes) -> list[str]:
    text = data.decode()
    if _is_plain(data):
        return text.split("\n")
    if "\\" not in text:
        return _quote(text)[1:-1].split(r"\n")
    return [_quote(line)[1:-1] for line in text.split("\n")]


def _is_plain(data: bytes) -> bool:
    """Whether JSON has all of it as it is, line ends apart."""
    return len(data.translate(None, _ESCAPED)) == len(data)


def quoted_text(data: bytes) -> str | None:
    """Return text as JSON; None: it is no UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if _is_plain(data):  # which is found out, and done, in two thirds of the time
        return '"' + text.replace("\n", r"\n") + '"'
    return _quote(text)


def packed(entries: list[str], room: int) -> Iterator[tuple[int, int]]:
    """Put entries together, one after the other, as many as have room.

    Args:
        entries: each with its separator, and at most as large as the room.
        room: characters, without the last separator.

    Yields:
        Where a part begins, and where the next one does.
    """
    upto = list(accumulate(map(len, entries), initial=0))
    first = 0
    while first < len(entries):
        after = max(first + 1, bisect_right(upto, upto[first] + room) - 1)
        yield first, after
        first = after
