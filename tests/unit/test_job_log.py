"""How a job's log is cut into frames: nothing is lost, doubled or too large."""

from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentray.core.job_log import MAX_MESSAGE_SIZE, MIN_MESSAGE_SIZE, Form, cut, last_lines
from agentray.core.log_limits import Allowance, StreamLimits

LOGS = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=300).map(str.encode),
    st.lists(
        st.sampled_from([b"a", b"\n", b'"', b"\x00", b"\xff", "é🙂".encode(), b"x" * 700])
    ).map(b"".join),
)
SIZES = st.sampled_from([MIN_MESSAGE_SIZE, 700, MAX_MESSAGE_SIZE])


def rebuilt(texts: list[str]) -> bytes:
    """Put the file together again, as a client does."""
    data = b""
    begin = None
    for text in texts:
        frame = json.loads(text)
        begin = frame["offset"] if begin is None else begin
        assert frame["offset"] == begin + len(data)
        if frame["type"] == "text":
            assert frame["text"].endswith("\n")
            data += frame["text"].encode()
        for offset, shown, *flags in frame.get("lines", ()):
            assert offset == begin + len(data)
            flag = flags[0] if flags else ""
            data += base64.b64decode(shown) if "b" in flag else shown.encode()
            data += b"" if "+" in flag else b"\n"
        assert frame["next"] == begin + len(data)
    return data


EXACT = pytest.mark.parametrize("form", [Form.FRAMES, Form.BLOCKS])


@EXACT
@given(LOGS, st.lists(st.integers(0, 400), max_size=5), SIZES, st.integers(0, 2**40))
@example(b'"' * 5000, [], MIN_MESSAGE_SIZE, 0)
@example(b'""\n' * 300 + b"x" * 500 + b"\n" + b"ab\n" * 300, [], MIN_MESSAGE_SIZE, 0)
@example("é".encode() * 900, [1, 801], MIN_MESSAGE_SIZE, 7)
def test_frames_give_back_every_byte_wherever_the_reading_was_cut(
    form: Form, log: bytes, cuts: list[int], size: int, base: int
) -> None:
    texts: list[str] = []
    position = 0
    for end in [*sorted(cuts), len(log)]:  # the file as it was at some moments
        frames = cut(log[position:end], base + position, form, final=False, size=size)
        texts += [frame.text for frame in frames]
        position = frames[-1].next - base if frames else position
    frames = cut(log[position:], base + position, form, final=True, size=size)
    texts += [frame.text for frame in frames]
    assert rebuilt(texts) == log
    assert all(len(text) < size for text in texts)


@EXACT
@given(LOGS, st.integers(0, 400), SIZES)
def test_a_tail_may_go_on_at_any_byte(form: Form, log: bytes, offset: int, size: int) -> None:
    offset = min(offset, len(log))
    frames = cut(log[offset:], offset, form, final=True, size=size)
    assert rebuilt([frame.text for frame in frames]) == log[offset:]


@given(LOGS, SIZES)
def test_messages_show_every_line_and_are_never_empty(log: bytes, size: int) -> None:
    frames = cut(log, 0, Form.MESSAGES, final=True, size=size)
    told = [json.loads(frame.text) for frame in frames]
    assert all(len(frame.text) < size for frame in frames)
    assert all(message["type"] == "log" and message["message"] for message in told)
    # Whatever was cut was cut between two characters, or with a line end that is not in the log.
    shown = "".join(message["message"] for message in told).replace("\n", "")
    whole = b"".join(log.split(b"\n")).decode("utf-8", "backslashreplace")
    if _is_utf8(log):
        assert shown == whole
    assert not frames or frames[-1].next == len(log)
    assert sum(frame.lines for frame in frames) == log.count(b"\n")


def _is_utf8(log: bytes) -> bool:
    try:
        log.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_lines_of_text_are_the_lines_of_the_log() -> None:
    log = b"one\n\ntwo \xff\r\nthree"
    frames = cut(log, 0, Form.TEXT, final=True)
    assert "".join(frame.text for frame in frames) == "one\n\ntwo \\xff\r\nthree\n"
    (frame,) = cut(log, 0, Form.TEXT, final=False)
    assert (frame.text, frame.next) == ("one\n\ntwo \\xff\r\n", log.rindex(b"\n") + 1)


def test_messages_keep_empty_lines() -> None:
    frames = cut(b"one\n\ntwo\n", 0, Form.MESSAGES, final=False)
    assert [json.loads(f.text)["message"] for f in frames] == ["one\n\ntwo"]
    (frame,) = cut(b"\n", 0, Form.MESSAGES, final=False)
    assert json.loads(frame.text)["message"] == "\n"


@pytest.mark.parametrize("form", [Form.TEXT, Form.MESSAGES])
@given(
    st.lists(st.sampled_from([1, 126, 127, 128, 254, 381, 508, 900, 2540]), max_size=4),
    st.lists(st.integers(0, 4000), max_size=6),
)
@example([127], [127])
def test_no_line_is_seen_where_the_log_has_none(
    form: Form, lengths: list[int], cuts: list[int]
) -> None:
    """Pieces of long lines are told as lines, and their line ends not as further ones."""
    log = b"".join(b"x" * length + b"\n" for length in lengths)
    told = ""
    position = 0
    for end in [*sorted(cuts), len(log)]:  # the file as it was at some moments
        final = end == len(log)
        for frame in cut(log[position:end], position, form, final=final, size=MIN_MESSAGE_SIZE):
            text = json.loads(frame.text)["message"] if form is Form.MESSAGES else frame.text
            told += text if text.endswith("\n") else text + "\n"
            position = frame.next
    assert all(told.removesuffix("\n").split("\n")) or not lengths


@given(LOGS)
def test_no_line_of_text_is_too_long_for_clients_that_drop_such(log: bytes) -> None:
    for frame in cut(log, 0, Form.TEXT, final=True, size=MIN_MESSAGE_SIZE):
        assert all(len(line) < MIN_MESSAGE_SIZE for line in frame.text.split("\n"))


def test_a_line_that_is_not_finished_waits_unless_it_is_long() -> None:
    assert cut(b"half a l", 0, Form.FRAMES, final=False) == []
    frames = cut(b"x" * 30_000, 0, Form.FRAMES, final=False)
    assert 0 < frames[-1].next <= 30_000
    assert rebuilt([f.text for f in frames]) == b"x" * frames[-1].next


def test_offsets_are_those_of_bytes() -> None:
    (frame,) = cut("à\nb\n".encode(), 5, Form.FRAMES, final=False)
    assert json.loads(frame.text)["lines"] == [[5, "à"], [8, "b"]]


def test_bytes_that_are_no_text_come_as_base64() -> None:
    (frame,) = cut(b"\xff\x00\x01\xff\nok", 0, Form.FRAMES, final=True)
    assert json.loads(frame.text)["lines"] == [[0, "/wAB/w==", "b"], [5, "ok", "+"]]


@EXACT
@given(
    LOGS,
    st.integers(1, 20) | st.none(),
    st.integers(1, 500) | st.none(),
    st.integers(1, 4) | st.none(),
    st.integers(1, 90),
)
def test_limits_are_exact(
    form: Form, log: bytes, lines: int | None, most: int | None, messages: int | None, step: int
) -> None:
    limits = StreamLimits(lines, most, messages, MIN_MESSAGE_SIZE)
    left = Allowance.of(limits)
    texts: list[str] = []
    position, seen = 0, 0
    while not left.spent and (position < len(log)):
        seen = min(len(log), seen + step)
        allowed, whole = left.of_data(log[position:seen])
        final = whole or seen == len(log)
        frames = cut(allowed, position, form, final=final, size=MIN_MESSAGE_SIZE)
        frames = left.of_frames(frames)
        left = left.after(frames, position)
        texts += [frame.text for frame in frames]
        position = frames[-1].next if frames else position
    told = rebuilt(texts)
    assert told == log[:position]
    assert lines is None or told.count(b"\n") <= lines
    assert most is None or len(told) <= most
    assert messages is None or len(texts) <= messages
    match left.spent:
        case "max_lines":
            assert told.count(b"\n") == lines
            assert told.endswith(b"\n")
        case "max_bytes":
            assert len(told) == most
        case "max_messages":
            assert len(texts) == messages
        case _:
            assert told == log


@given(LOGS, st.integers(1, 10))
def test_the_last_lines_are_those_that_tail_shows(log: bytes, lines: int) -> None:
    begin = last_lines(log, lines)
    wanted = b"".join(log.splitlines(keepends=True)[-lines:]) if b"\r" not in log else None
    if begin is None:
        assert log.count(b"\n") - log.endswith(b"\n") < lines
    elif wanted is not None and not set(log) & set(b"\x0b\x0c\x1c\x1d\x1e\x85"):
        assert log[begin:] == wanted


@pytest.mark.parametrize("form", list(Form))
def test_a_large_log_is_cut_in_many_frames_of_bounded_size(form: Form) -> None:
    lines = [f"{n} " + "x" * random.Random(n).randrange(200) for n in range(5000)]
    log = "".join(line + "\n" for line in lines).encode()
    frames = cut(log, 0, form, final=False)
    assert sum(frame.lines for frame in frames) == 5000
    if form is not Form.TEXT:
        assert all(len(frame.text) < MAX_MESSAGE_SIZE for frame in frames)
        assert len(frames) < 200
    if form.exact:
        assert rebuilt([frame.text for frame in frames]) == log
