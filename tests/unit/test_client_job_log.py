"""Reading the tail of a log: where connections break nothing is lost, nothing doubled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray.client.calls.job_log import (
    LineJoiner,
    LogEvent,
    LogGap,
    LogPiece,
    LogReader,
    LogWish,
    ReportNews,
    StatusNews,
)
from agentray.client.calls.ray_jobs import check_id, check_limits, check_protocol, check_timeout
from agentray.client.errors import ClientError, InvalidRequest, LogLost, StreamLimitExceeded
from agentray.core.job_log import Form, cut
from agentray.core.log_limits import StreamLimits

PROTOCOLS = ["auto", "websocket", "http"]
START = '{"type":"start","job_id":"a","status":"RUNNING","offset":0,"size":9,"kept_from":0}'
END = '{"type":"end","reason":"complete","status":"SUCCEEDED","offset":9,"message":"ok"}'


def reader(**wish: Any) -> LogReader:
    return LogReader(LogWish("a", **wish))


def data_of(events: list[LogEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, LogPiece))


LOGS = st.one_of(
    st.binary(max_size=600),
    st.lists(st.sampled_from([b"a", b"ab\n", b"\n", b'"\\', b"x" * 600])).map(b"".join),
)


def broken(log: bytes, data: st.DataObject, size: int, reading: LogReader) -> Iterator[str]:
    """Yield the frames that come while connections break and are made again."""
    form = data.draw(st.sampled_from([Form.BLOCKS, Form.FRAMES]))
    while reading.offset < len(log):
        offset = int(str(reading.request("http").query.get("offset", 0)))
        frames = cut(log[offset:], offset, form, final=True, size=size)
        yield f'{{"type":"start","offset":{offset}}}'
        # The connection breaks after some of them; a proxy may even send one twice.
        for frame in frames[: data.draw(st.integers(1, len(frames)))]:
            for _ in range(data.draw(st.integers(1, 2))):
                yield frame.text


@given(st.data(), LOGS, st.integers(512, 700))
def test_a_log_is_the_same_wherever_connections_break(data: st.DataObject, log: bytes, size: int):
    reading = reader()
    found = [e for frame in broken(log, data, size, reading) for e in reading.feed(frame)]
    assert data_of(found) == log


@given(st.data(), LOGS, st.integers(512, 700))
def test_so_are_its_lines(data: st.DataObject, log: bytes, size: int):
    reading, joiner = reader(), LineJoiner(10_000)
    frames = broken(log, data, size, reading)
    lines = [line for frame in frames for line in reading.feed_lines(frame, joiner)]
    lines += [] if (rest := joiner.last()) is None else [rest]
    whole = log.removesuffix(b"\n") if log else None
    expected = [] if whole is None else whole.split(b"\n")
    assert [line.encode() for line in lines] == [
        part.decode("utf-8", "backslashreplace").encode() for part in expected
    ] or any(b > 0x7F for b in log)  # pieces of what is no UTF-8 may be shown in other words


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"lines","offset":0,"next":18,"lines":[[0,"short"],[6,"shores"],[13,"last"]]}',
        r'{"type":"text","offset":0,"next":18,"text":"short\nshores\nlast\n"}',
    ],
)
def test_lines_that_are_too_long_are_cut_among_others(frame: str):
    reading, joiner = reader(), LineJoiner(5)
    reading.feed(START)
    assert reading.feed_lines(frame, joiner) == ["short", "shore … [1 bytes more]", "last"]
    assert reading.offset == 18


def test_lines_of_one_text_have_their_offsets():
    reading = reader()
    told = reading.feed(r'{"type":"text","offset":0,"next":13,"text":"à la\n\nb 🙂\n"}')
    assert told == [LogPiece(0, "à la"), LogPiece(6, ""), LogPiece(7, "b 🙂")]
    assert (reading.offset, data_of(told)) == (14 - 1, "à la\n\nb 🙂\n".encode())


def test_what_a_log_tells():
    reading = reader()
    assert reading.feed(START) == []
    told = reading.feed('{"type":"lines","offset":0,"next":12,"lines":[[0,"a"],[2,"b","+"]]}')
    assert told == [LogPiece(0, "a"), LogPiece(2, "b", ends=False)]
    told = reading.feed('{"type":"lines","offset":12,"next":16,"lines":[[12,"/wAB","b"]]}')
    assert told == [LogPiece(12, r"\xff\x00\x01".replace(r"\x00\x01", "\0\1"), raw=b"\xff\0\1")]
    assert data_of(told) == b"\xff\0\1\n"
    assert reading.feed('{"type":"gap","offset":16,"next":90}') == [LogGap(16, 90)]
    assert reading.feed('{"type":"status","status":"RUNNING","message":null}') == [
        StatusNews("RUNNING", None)
    ]
    report = '{"type":"report","progress":0.5,"metrics":{"loss":1},"result":null}'
    assert reading.feed(report) == [ReportNews(0.5, {"loss": 1}, None)]
    assert reading.feed('{"type":"report","progress":0.5,"truncated":true}') == [
        ReportNews(0.5, {}, None)
    ]
    for nothing in ('{"type":"heartbeat","offset":90}', '{"type":"what a newer one says"}'):
        assert reading.feed(nothing) == []
    assert (reading.offset, reading.end) == (90, None)
    assert reading.feed(END) == []
    assert reading.end is not None
    assert (reading.end.reason, reading.end.status) == ("complete", "SUCCEEDED")
    reading.check_end()


def test_what_was_left_out_is_said():
    reading = reader()
    reading.feed(START)
    told = reading.feed('{"type":"lines","offset":5,"next":7,"lines":[[5,"x"]]}')
    assert told == [LogGap(0, 5), LogPiece(5, "x")]


def test_what_is_asked_first_and_after_a_break():
    reading = reader(lines=3, limits=StreamLimits(max_lines=5, max_bytes=100, max_messages=4))
    first = reading.request("websocket")
    assert first.path == "/v1/jobs/a/logs"
    assert first.query == {
        "format": "blocks",
        "tail": "3",
        "max_lines": "5",
        "max_bytes": "100",
        "max_messages": "4",
        "max_message_size": "10240",
    }
    reading.feed('{"type":"start","offset":50}')
    reading.feed('{"type":"lines","offset":50,"next":54,"lines":[[50,"a"],[52,"b"]]}')
    again = reading.request("http")
    assert again.path == "/v1/jobs/a/logs/stream"
    assert again.query == {
        "format": "blocks",
        "offset": "54",
        "max_lines": "3",
        "max_bytes": "96",
        "max_messages": "3",
        "max_message_size": "10240",
    }
    assert reading.exhausted() is None
    assert reader(follow=False, offset=7).request("http").query["follow"] == "false"


@pytest.mark.parametrize("limits", [{"max_lines": 2}, {"max_bytes": 4}, {"max_messages": 1}])
def test_a_limit_that_is_reached_as_the_connection_breaks_is_known(limits: dict[str, int]):
    reading = reader(limits=StreamLimits(**limits))
    reading.feed(START)
    assert reading.exhausted() is None
    reading.feed('{"type":"lines","offset":0,"next":4,"lines":[[0,"a"],[2,"b"]]}')
    assert reading.exhausted() == next(iter(limits))


def test_ends_that_are_errors():
    lost = reader()
    lost.feed('{"type":"end","reason":"lost","status":"FAILED","offset":7,"message":"node gone"}')
    with pytest.raises(LogLost, match="node gone") as caught:
        lost.check_end()
    assert (caught.value.status_code, caught.value.offset) == (500, 7)
    limit = reader()
    limit.feed('{"type":"end","reason":"limit","status":"RUNNING","offset":9,"limit":"max_lines"}')
    with pytest.raises(StreamLimitExceeded) as exceeded:
        limit.check_end()
    assert (exceeded.value.status_code, exceeded.value.limit) == (429, "max_lines")
    assert exceeded.value.offset == 9


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "no",
        "42",
        "[]",
        "{}",
        '{"type":"lines"}',
        "null",
        b"\xff",
        '{"type":"text","offset":0,"next":3,"text":""}',
        '{"type":"text","offset":0,"text":"no"}',
    ],
)
def test_what_is_no_frame_is_an_error(frame: str | bytes):
    with pytest.raises(ClientError, match="not what an agentray gateway sends"):
        reader().feed(frame)
    with pytest.raises(ClientError, match="not what an agentray gateway sends"):
        reader().feed_lines(frame, LineJoiner(5))


def test_a_long_line_is_cut_and_says_so():
    joiner = LineJoiner(5)
    assert joiner.feed(LogPiece(0, "short")) == "short"
    assert joiner.feed(LogPiece(6, "abc", ends=False)) is None
    assert joiner.feed(LogPiece(9, "def", ends=False)) is None
    assert joiner.feed(LogPiece(12, "ü")) == "abcde … [3 bytes more]"
    assert joiner.feed(LogPiece(15, "")) == ""
    assert joiner.last() is None
    joiner.feed(LogPiece(16, "no end", ends=False))
    assert joiner.last() == "no en … [1 bytes more]"


@pytest.mark.parametrize(
    "value", ["", "a/b", "plain\n", "x" * 101, "a b", "ä", None, 7, "..", "a\0"]
)
def test_ids_are_checked_at_the_call(value: object):
    with pytest.raises(InvalidRequest) as caught:
        check_id(value)
    assert caught.value.status_code == 400


def test_good_arguments_pass():
    assert check_id("raysubmit_abc-1") == "raysubmit_abc-1"
    assert check_id("code@1.0/x y", "Serve application") == "code@1.0/x y"
    assert [check_protocol(p) for p in ("auto", "websocket", "http")] == [
        "auto",
        "websocket",
        "http",
    ]
    assert check_timeout(300) == 300.0
    assert check_limits(StreamLimits(1, 1, 1, 512)).max_lines == 1


@pytest.mark.parametrize("value", [0, -1, 300.5, float("nan"), float("inf"), True, "30", None])
def test_timeouts_are_checked_at_the_call(value: object):
    with pytest.raises(InvalidRequest):
        check_timeout(value)


@pytest.mark.parametrize("value", ["", "ws", "AUTO", None])
def test_protocols_are_checked_at_the_call(value: object):
    with pytest.raises(InvalidRequest):
        check_protocol(value)


@pytest.mark.parametrize(
    "limits", [{"max_lines": 0}, {"max_bytes": -1}, {"max_messages": True}, {"max_message_size": 9}]
)
def test_limits_are_checked_where_they_are_set(limits: dict[str, int]):
    with pytest.raises(InvalidRequest):
        check_limits(StreamLimits(**limits))
