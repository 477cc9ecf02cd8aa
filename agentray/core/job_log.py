"""Cuts a job's log into what travels: lines with their byte offsets, in frames of bounded size.

All functions are pure: bytes that begin at an offset of the file go in, frames come out. Nothing is
remembered between two calls but the offset to go on at, so any number of tails share the work, and
a tail can go on anywhere, at another replica too.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from json.encoder import encode_basestring as _quote  # characters beyond ASCII as they are

from agentray.core.whole_lines import packed, quoted_text, whole_lines

MAX_MESSAGE_SIZE = 10_240
"""Characters of a frame, where nothing else is asked for."""

MIN_MESSAGE_SIZE = 512

LONGEST_PIECE = 32 * 1024
"""Bytes of a line that are told at once, at most: less than what is read at a time."""

_HEAD = '{{"type":"lines","offset":{},"next":{},"lines":['
_BLOCK_HEAD = '{{"type":"text","offset":{},"next":{},"text":'
_OVERHEAD = 80  # the frame's head with two offsets, and its end
_ENTRY = 32  # brackets, commas, offset and flags of one entry
_LINE_END = r"\n"  # quoted
_PLAIN_HEAD, _PLAIN_END = '{"type":"log","message":', "}"


class Form(StrEnum):
    """How a log travels."""

    FRAMES = "frames"  # JSON: each line with its offset
    BLOCKS = "blocks"  # the same, but whole lines of text are one text
    MESSAGES = "messages"  # JSON: text only, for clients of other systems
    TEXT = "text"  # lines of text

    @property
    def exact(self) -> bool:
        """Whether it tells of each byte of the log where it is."""
        return self in {Form.FRAMES, Form.BLOCKS}


@dataclass(frozen=True, slots=True)
class Frame:
    """Something to be sent.

    Attributes:
        text: as it is sent, without a line end where the form is JSON.
        next: the byte of the file after what it tells.
        lines: how many line ends it covers.
    """

    text: str
    next: int
    lines: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A line, or a part of one.

    Attributes:
        offset: of its first byte.
        data: without its line end.
        ends: a line end follows.
    """

    offset: int
    data: bytes
    ends: bool

    @property
    def next(self) -> int:
        """The byte after it."""
        return self.offset + len(self.data) + self.ends


def pieces(data: bytes, offset: int, most: int, *, final: bool) -> Iterator[Piece]:
    """Cut bytes into lines, and lines that are too long into parts.

    Args:
        data: of the file.
        offset: of their first byte.
        most: bytes of one piece.
        final: the rest that has no line end is a piece as well.
    """
    lines = data.split(b"\n")
    rest = lines.pop()
    for line in lines:
        if len(line) > most:
            for part in _parts(line, most):
                yield Piece(offset, part, ends=False)
                offset += len(part)
            yield Piece(offset, b"", ends=True)
            offset += 1
        else:
            yield Piece(offset, line, ends=True)
            offset += len(line) + 1
    after = offset + len(rest)
    for part in _parts(rest, most):
        # The last part may grow, and a character may be cut in it. Even a full one waits: its line
        # end may follow, which those who were told the part alone would take for an empty line.
        if not final and offset + len(part) == after:
            return
        yield Piece(offset, part, ends=False)
        offset += len(part)


def _parts(line: bytes, most: int) -> Iterator[bytes]:
    begin = 0
    while begin < len(line):
        end = min(begin + most, len(line))
        if end < len(line):
            end = _character_end(line, begin, end)
        yield line[begin:end]
        begin = end


def _character_end(line: bytes, begin: int, end: int) -> int:
    """Move an end back so that it cuts no character of UTF-8 in two."""
    for back in range(4):
        if end - back <= begin:
            break
        if line[end - back] & 0xC0 != 0x80:  # a character begins here
            return end - back
    return end  # it is no UTF-8 anyway


def cut(
    data: bytes, offset: int, form: Form, *, final: bool, size: int = MAX_MESSAGE_SIZE
) -> list[Frame]:
    """Cut bytes of a log into frames.

    Args:
        data: of the file.
        offset: of their first byte.
        form: how they travel.
        final: nothing follows: also what has no line end is told.
        size: most characters of a frame.

    Returns:
        Frames for whole lines and for parts of lines that are too long; the last one's `next` is
        where the next call goes on. None: there is no whole line yet.
    """
    match form:
        case Form.FRAMES:
            return _frames(data, offset, final, size)
        case Form.BLOCKS:
            return _blocks(data, offset, final, size)
        case Form.MESSAGES:
            return _messages(data, offset, final, size)
        case Form.TEXT:
            return _text(data, offset, final, size)


def _frames(data: bytes, offset: int, final: bool, size: int) -> list[Frame]:
    room = size - _OVERHEAD
    whole = whole_lines(data, offset)
    if whole is None or whole.widest > room - _ENTRY:
        return _odd_frames(data, offset, final, room)
    entries = [f'[{at},"{text}"],' for at, text in zip(whole.begins, whole.texts, strict=True)]
    begins = [*whole.begins, whole.end]
    found = [
        _frame(begins[first], begins[after], "".join(entries[first:after])[:-1], after - first)
        for first, after in packed(entries, room)
    ]
    rest = data[whole.end - offset :]
    return found + _odd_frames(rest, whole.end, final, room) if rest else found


def _blocks(data: bytes, offset: int, final: bool, size: int) -> list[Frame]:
    room = size - _OVERHEAD
    found: list[Frame] = []
    begin, end = 0, data.rfind(b"\n") + 1
    most = room  # bytes that probably have room
    while begin < end:
        after = data.rfind(b"\n", begin, begin + most) + 1
        if after == 0:  # a line that needs more than one frame
            after = data.index(b"\n", begin) + 1
            found += _odd_frames(data[begin:after], offset + begin, final, room)
            most = room
        elif (text := quoted_text(data[begin:after])) is None:
            found += _odd_frames(data[begin:after], offset + begin, final, room)
        else:
            # A bit less than what would fill a frame, as these lines are: few are then cut twice.
            most = (after - begin) * room * 63 // (64 * len(text))
            if len(text) > room:
                continue
            head = _BLOCK_HEAD.format(offset + begin, offset + after)
            lines = data.count(b"\n", begin, after)
            found.append(Frame(f"{head}{text}}}", offset + after, lines))
        begin = after
    return found + _odd_frames(data[end:], offset + end, final, room) if end < len(data) else found


def _odd_frames(data: bytes, offset: int, final: bool, room: int) -> list[Frame]:
    """Cut what is not only whole lines of text that have room in a frame."""
    found: list[Frame] = []
    entries: list[str] = []
    used = lines = 0
    begin = end = offset
    for piece in _fitting(data, offset, final, room - _ENTRY):
        entry = _entry(piece)
        if entries and used + len(entry) > room:
            found.append(_frame(begin, end, ",".join(entries), lines))
            entries, used, lines, begin = [], 0, 0, end
        entries.append(entry)
        used += len(entry) + 1
        lines += piece.ends
        end = piece.next
    if entries:
        found.append(_frame(begin, end, ",".join(entries), lines))
    return found


def _frame(begin: int, end: int, entries: str, lines: int) -> Frame:
    return Frame(f"{_HEAD.format(begin, end)}{entries}]}}", end, lines)


def _fitting(data: bytes, offset: int, final: bool, room: int) -> Iterator[Piece]:
    """Cut into pieces of which each has room in a frame, quoted as it is."""
    room = min(room, LONGEST_PIECE)
    for piece in pieces(data, offset, room, final=final):
        if 6 * len(piece.data) <= room or _width(piece.data) <= room:
            yield piece
            continue
        # Quotes, control characters or base64 made it too wide: at worst a byte becomes six.
        at = piece.offset
        for part in _parts(piece.data, room // 6):
            yield Piece(at, part, ends=False)
            at += len(part)
        if piece.ends:
            yield Piece(at, b"", ends=True)


def _width(data: bytes) -> int:
    try:
        return len(_quote(data.decode())) - 2
    except UnicodeDecodeError:
        return 4 * (len(data) // 3 + 1)


def _entry(piece: Piece) -> str:
    try:
        text = _quote(piece.data.decode())
    except UnicodeDecodeError:
        flags = "b" if piece.ends else "b+"
        return f'[{piece.offset},"{base64.b64encode(piece.data).decode()}","{flags}"]'
    return f"[{piece.offset},{text}]" if piece.ends else f'[{piece.offset},{text},"+"]'


def shown(data: bytes) -> str:
    r"""Return bytes as people read them: what is no UTF-8 as `\xff`."""
    return data.decode("utf-8", "backslashreplace")


def _messages(data: bytes, offset: int, final: bool, size: int) -> list[Frame]:
    room = size - len(_PLAIN_HEAD) - len(_PLAIN_END) - 2
    whole = whole_lines(data, offset)
    if whole is None or whole.widest > room - len(_LINE_END):
        return _odd_messages(data, offset, final, room)
    texts = [text + _LINE_END for text in whole.texts]
    begins = [*whole.begins, whole.end]
    found = [
        Frame(_message("".join(texts[first:after])[:-2]), begins[after], after - first)
        for first, after in packed(texts, room)
    ]
    rest = data[whole.end - offset :]
    return found + _odd_messages(rest, whole.end, final, room) if rest else found


def _message(quoted: str) -> str:
    # A message is never empty: clients take that for the end, and would not see an empty line.
    return f'{_PLAIN_HEAD}"{quoted or _LINE_END}"{_PLAIN_END}'


def _odd_messages(data: bytes, offset: int, final: bool, room: int) -> list[Frame]:
    found: list[Frame] = []
    texts: list[str] = []
    used = lines = 0
    end = offset

    def close() -> None:
        found.append(Frame(_message(_quote("\n".join(texts))[1:-1]), end, lines))

    for piece in _fitting(data, offset, final, room // 4):  # `\\xff` is five characters
        text = shown(piece.data)
        width = len(_quote(text))
        if texts and used + width > room:
            close()
            texts, used, lines = [], 0, 0
        if piece.data or not _goes_on(piece, data, offset):
            texts.append(text)
            used += width
        lines += piece.ends
        end = piece.next
        if not piece.ends and texts:
            close()
            texts, used, lines = [], 0, 0
    if texts:
        close()
    elif lines and found:  # the end of a line whose parts were sent
        last = found.pop()
        found.append(Frame(last.text, end, last.lines + lines))
    return found


def _goes_on(piece: Piece, data: bytes, offset: int) -> bool:
    """Whether an empty piece is the end of a line that came in parts."""
    at = piece.offset - offset
    return at > 0 and data[at - 1 : at] != b"\n"


def _text(data: bytes, offset: int, final: bool, size: int) -> list[Frame]:
    most = min(max(1, (size - 1) // 4), LONGEST_PIECE)
    whole = data.rfind(b"\n")
    if whole < 0 or max(map(len, data[:whole].split(b"\n"))) > most:
        return _odd_text(data, offset, final, most)
    whole += 1
    found = [Frame(shown(data[:whole]), offset + whole, data.count(b"\n"))]
    return found + _odd_text(data[whole:], offset + whole, final, most)


def _odd_text(data: bytes, offset: int, final: bool, most: int) -> list[Frame]:
    texts: list[str] = []
    lines, end = 0, offset
    for piece in pieces(data, offset, most, final=final):
        if piece.data or not _goes_on(piece, data, offset):
            texts.append(shown(piece.data))
        lines += piece.ends
        end = piece.next
    return [Frame("\n".join(texts) + "\n", end, lines)] if end > offset else []


def last_lines(data: bytes, lines: int) -> int | None:
    """Return where the last lines begin in the end of a file; None: before it.

    Args:
        data: the end of the file.
        lines: how many are wanted; a rest without a line end is one.
    """
    end = len(data)
    if data.endswith(b"\n"):
        end -= 1
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return None
    return end + 1
