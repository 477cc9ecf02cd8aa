"""Logs of jobs over HTTP and WebSockets: nothing lost, nothing doubled, however a tail is cut."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest

from agentray.jobs import feeds, tails
from agentray.protocol.jobs import Job, JobStatus
from agentray.store.jobs import NewJob
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, BreakableStore, Gateway, Http, now
from tests.support.jobs import NODE
from tests.support.tails import Rebuilt, tail

HEADERS = {"Authorization": f"Bearer {KEY}"}


async def make(gateway: Gateway, log: bytes = b"", job_id: str = "a", **more: Any) -> Job:
    """A job that runs, with what it has written so far."""
    at = now()
    job = Job(
        job_id=job_id, submission_id=job_id, entrypoint="true",
        start_time=int(at.timestamp() * 1000), status=JobStatus.RUNNING, driver_node_id=NODE,
        message="Job is currently running.",
    )  # fmt: skip
    job = job.model_copy(update=more)
    await gateway.store.admit_job(NewJob(job, at, token_digest="t"))
    await gateway.store.update_job(job)
    gateway.runner.write(job_id, log)
    return job


async def end(
    gateway: Gateway, job: Job, status: JobStatus = JobStatus.SUCCEEDED, message: str = ""
) -> None:
    end_time = int(now().timestamp() * 1000)
    message = message or f"It has {status}."
    told = {"status": status, "end_time": end_time, "message": message}
    await gateway.store.update_job(job.model_copy(update=told))


@pytest.fixture(params=["http", "websocket"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


NASTY = (
    b"one\n\ntwo \xff\x00\r\n" + "à la carte 🙂\n".encode() + b"x" * 50_000 + b"\n" + b'"' * 9000
    + b"\n" + bytes(range(256)) * 20 + b"no end"
)  # fmt: skip


@pytest.mark.parametrize("form", ["frames", "blocks"])
async def test_a_log_of_any_bytes_comes_whole(
    gateway: Gateway, http: Http, protocol: str, form: str
) -> None:
    job = await make(gateway, NASTY)
    await end(gateway, job)
    rebuilt = await tail(http, protocol, format=form)
    assert rebuilt.data == NASTY
    assert rebuilt.reason == "complete"
    assert rebuilt.others[0] == {
        "type": "start", "job_id": "a", "status": "SUCCEEDED", "offset": 0, "size": len(NASTY)
    }  # fmt: skip


async def test_a_line_longer_than_what_is_read_at_a_time_comes_whole_in_large_frames(
    gateway: Gateway, http: Http, protocol: str
) -> None:
    log = b"x" * 300_000 + b"\nnext\n"
    job = await make(gateway, log)
    await end(gateway, job)
    rebuilt = Rebuilt(most=1_048_576)
    await tail(http, protocol, rebuilt=rebuilt, max_message_size=1_048_576)
    assert (rebuilt.data, rebuilt.reason) == (log, "complete")
    plain = f"{http.url}/v1/jobs/a/logs/stream"
    query = {"max_message_size": "1048576"}
    async with http.session.get(plain, params=query, headers=HEADERS) as answer:
        assert (await answer.text()).replace("\n", "") == "x" * 300_000 + "next"


async def test_what_is_written_comes_at_once_and_the_end_has_a_reason(
    gateway: Gateway, http: Http, protocol: str
) -> None:
    job = await make(gateway, b"first\n")
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    await eventually_async(lambda: _done(rebuilt.data == b"first\n"))
    gateway.runner.write("a", b"second\nthi")
    await eventually_async(lambda: _done(rebuilt.data == b"first\nsecond\nthi"))
    gateway.runner.write("a", b"rd")
    await end(gateway, job, JobStatus.FAILED)
    await following
    assert rebuilt.data == b"first\nsecond\nthird"
    assert rebuilt.end == {
        "type": "end", "reason": "failed", "status": "FAILED", "offset": 18,
        "message": "It has FAILED.",
    }  # fmt: skip
    kinds = [other["type"] for other in rebuilt.others]
    assert kinds[:3] == ["start", "status", "report"]
    assert kinds[-1] == "end"


async def _done(value: bool) -> bool:
    return value


async def test_progress_shows_in_the_stream(gateway: Gateway, http: Http, protocol: str) -> None:
    job = await make(gateway)
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    await eventually_async(lambda: _done(len(rebuilt.others) >= 3))
    report = type(job.report)(progress=0.5, metrics={"loss": 1})
    assert await gateway.store.report_job("a", "t", report)
    told = {"type": "report", "progress": 0.5, "metrics": {"loss": 1}, "result": None}
    await eventually_async(lambda: _done(told in rebuilt.others))
    await end(gateway, job, JobStatus.STOPPED)
    await following
    assert rebuilt.reason == "stopped"


async def test_a_tail_that_is_cut_anywhere_loses_and_doubles_no_line(
    gateway: Gateway, http: Http, protocol: str
) -> None:
    dice = random.Random(7)
    lines = [f"{n:06} " + "x" * dice.randrange(60) for n in range(100_000)]
    log = "".join(f"{line}\n" for line in lines).encode()
    job = await make(gateway, log[:1_000_000])
    rebuilt, cuts = Rebuilt(), 0
    written = 1_000_000
    while rebuilt.end is None:
        following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt, offset=rebuilt.next))
        await asyncio.wait([following], timeout=dice.uniform(0.001, 0.03))
        if written < len(log):
            gateway.runner.write("a", log[written : written + 400_000])
            written += 400_000
        elif cuts > 12:
            await end(gateway, job)
            await following
            break
        following.cancel()  # the connection is closed, whatever is under way on it
        await asyncio.gather(following, return_exceptions=True)
        cuts += 1
    assert cuts > 12
    assert rebuilt.data == log
    assert rebuilt.reason == "complete"


async def test_a_tail_goes_on_at_another_gateway(
    gateway: Gateway, http: Http, protocol: str, tmp_path: Any
) -> None:
    log = b"".join(b"line %d\n" % n for n in range(5000))
    job = await make(gateway, log)
    rebuilt = await tail(http, protocol, max_lines=1234)
    assert (rebuilt.reason, rebuilt.end and rebuilt.end["limit"]) == ("limit", "max_lines")
    other = Gateway(gateway.store, tmp_path)
    async with other.serving():
        rebuilt.end = None
        await end(gateway, job)
        http = Http(other.url, http.session)
        await tail(http, protocol, rebuilt=rebuilt, offset=rebuilt.next)
    assert rebuilt.data == log
    assert rebuilt.reason == "complete"


async def test_a_tail_begins_and_ends_where_it_is_asked_to(
    gateway: Gateway, http: Http, protocol: str
) -> None:
    log = b"".join(b"line %d\n" % n for n in range(30_000))
    job = await make(gateway, log)
    rebuilt = await tail(http, protocol, rebuilt=Rebuilt(len(log) - 22), tail=2, follow="false")
    assert rebuilt.data == b"line 29998\nline 29999\n"
    assert rebuilt.reason == "not_followed"
    rebuilt = await tail(http, protocol, offset=3, max_bytes=10)
    assert rebuilt.data == log[3:13]
    rebuilt = await tail(http, protocol, max_messages=2)
    assert rebuilt.end
    assert rebuilt.end["limit"] == "max_messages"
    assert rebuilt.data == log[: rebuilt.next]
    rebuilt = await tail(http, protocol, rebuilt=Rebuilt(len(log)), tail=0, follow="false")
    assert rebuilt.data == b""
    await end(gateway, job)
    rebuilt = await tail(http, protocol, rebuilt=Rebuilt(), tail=100_000)
    assert rebuilt.data == log


async def test_two_hundred_watch_one_job_and_its_file_is_read_once(
    gateway: Gateway, protocol: str
) -> None:
    log = b"".join(b"line %d of a busy job\n" % n for n in range(4000))
    job = await make(gateway, log[: len(log) // 2])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        many = Http(gateway.url, session)
        found = [Rebuilt() for _ in range(200)]
        watching = [asyncio.create_task(tail(many, protocol, rebuilt=each)) for each in found]
        # A whole line comes at once, half a one when it is whole.
        half = log[: len(log) // 2].rfind(b"\n") + 1
        await eventually_async(lambda: _done(all(each.next >= half for each in found)))
        gateway.runner.write("a", log[len(log) // 2 :])
        await end(gateway, job)
        await asyncio.gather(*watching)
    assert all(rebuilt.data == log for rebuilt in found)
    # Whoever comes at another moment may begin at another block: by far not two hundred readings.
    assert gateway.runner.reads < 40


async def test_a_log_that_cannot_be_read_any_more_is_lost_beyond_what_was_kept(
    gateway: Gateway, http: Http, protocol: str
) -> None:
    job = await make(gateway, b"one\ntwo\nthree\n")
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    await eventually_async(lambda: _done(rebuilt.next == 14))
    gateway.runner.gone = True
    gateway.runner.alive = set()
    await gateway.store.append_job_log("a", 0, b"one\ntwo\nthree\n")
    await gateway.store.job_log_read("a", 14, whole=False, lost=True)
    await end(gateway, job, JobStatus.FAILED)
    await following
    assert rebuilt.reason == "lost"
    again = await tail(http, protocol)
    assert (again.data, again.reason) == (b"one\ntwo\nthree\n", "lost")


async def test_what_was_kept_is_told_and_so_is_what_was_not(gateway: Gateway, http: Http) -> None:
    job = await make(gateway)
    gateway.runner.alive = set()
    await gateway.store.append_job_log("a", 0, b"begin\n")
    await gateway.store.append_job_log("a", 100, b"end\n")
    await end(gateway, job)
    await gateway.store.job_log_read("a", 104, whole=True, lost=False)
    url = f"{http.url}/v1/jobs/a/logs/stream"
    async with http.session.get(url, params={"format": "frames"}, headers=HEADERS) as answer:
        texts = (await answer.text()).splitlines()
    frames = [json.loads(text) for text in texts]
    assert [f["type"] for f in frames] == [
        "start",
        "status",
        "report",
        "lines",
        "gap",
        "lines",
        "end",
    ]
    assert (frames[4]["offset"], frames[4]["next"]) == (6, 100)
    assert frames[5]["lines"] == [[100, "end"]]
    assert frames[6]["reason"] == "complete"


async def test_a_line_that_was_kept_in_parts_comes_whole(
    gateway: Gateway, http: Http, protocol: str
) -> None:
    job = await make(gateway)
    gateway.runner.alive = set()
    log = b"x" * 140_000 + b"\nend"
    for begin in range(0, len(log), 7_000):
        await gateway.store.append_job_log("a", begin, log[begin : begin + 7_000])
    await end(gateway, job)
    await gateway.store.job_log_read("a", len(log), whole=True, lost=False)
    rebuilt = await tail(http, protocol, follow="false")
    assert (rebuilt.data, rebuilt.reason) == (log, "complete")


@pytest.mark.parametrize("form", ["frames", "blocks", "plain"])
async def test_half_a_line_before_what_was_not_kept_is_told(
    gateway: Gateway, http: Http, form: str
) -> None:
    job = await make(gateway)
    gateway.runner.alive = set()
    await gateway.store.append_job_log("a", 0, b"begin\nhalf a l")
    await gateway.store.append_job_log("a", 100, b"another\nend\n")
    await end(gateway, job)
    await gateway.store.job_log_read("a", 112, whole=True, lost=False)
    url = f"{http.url}/v1/jobs/a/logs/stream"
    async with http.session.get(url, params={"format": form}, headers=HEADERS) as answer:
        lines = (await answer.text()).splitlines()
    if form == "plain":
        assert [line for line in lines if "[agentray]" not in line] == [
            "begin", "half a l", "another", "end"
        ]  # fmt: skip
        return
    frames = [json.loads(line) for line in lines]
    (gap,) = (frame for frame in frames if frame["type"] == "gap")
    assert (gap["offset"], gap["next"]) == (14, 100)
    assert frames[-1]["reason"] == "complete"


async def test_a_pending_job_is_waited_for(gateway: Gateway, http: Http, protocol: str) -> None:
    job = await make(gateway, status=JobStatus.PENDING, driver_node_id=None)
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    await eventually_async(lambda: _done(len(rebuilt.others) >= 3))
    await gateway.runner.submit("a", {"entrypoint": "true"})
    gateway.runner.set("a", JobStatus.RUNNING)  # Ray knows it before the record does
    gateway.runner.write("a", b"begun\n")
    await eventually_async(lambda: _done(rebuilt.data == b"begun\n"))
    await end(gateway, job.model_copy(update={"driver_node_id": NODE}))
    await following
    assert rebuilt.reason == "complete"


async def test_a_quiet_job_is_heard_of(
    gateway: Gateway, http: Http, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "HEARTBEAT_S", 0.2)
    job = await make(gateway, b"one\n")
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    beat = {"type": "heartbeat", "offset": 4}
    await eventually_async(lambda: _done(rebuilt.others.count(beat) >= 2))
    await end(gateway, job)
    await following


async def test_a_deleted_job_ends_its_tails(gateway: Gateway, http: Http, protocol: str) -> None:
    job = await make(gateway, b"one\n")
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    await eventually_async(lambda: _done(rebuilt.next == 4))
    await end(gateway, job)
    assert await gateway.store.delete_job("a")
    await following
    assert rebuilt.reason in {"lost", "complete"}  # it may have been seen to end before


@pytest.mark.parametrize(
    ("query", "status"),
    [("offset=-1", 422), ("offset=1&tail=1", 422), ("max_lines=0", 422), ("format=x", 422),
     ("max_message_size=5", 422), ("offset=999", 422), ("tail=x", 422)],
)  # fmt: skip
async def test_what_is_wrong_is_said_before_anything_is_sent(
    gateway: Gateway, http: Http, protocol: str, query: str, status: int
) -> None:
    await end(gateway, await make(gateway, b"one\n"))
    assert await refusal(http, protocol, f"a/?{query}") == status


async def refusal(http: Http, protocol: str, path: str, key: str | None = KEY) -> int:
    job, _, query = path.partition("/")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = f"{http.url}/v1/jobs/{job}/logs"
    if protocol == "http":
        async with http.session.get(f"{base}/stream/{query}", headers=headers) as answer:
            assert answer.content_type == "application/problem+json"
            return answer.status
    with pytest.raises(aiohttp.WSServerHandshakeError) as told:
        await http.session.ws_connect(f"{base}{query}", headers=headers)
    return told.value.status


async def test_who_may_not_watch_is_told_so(gateway: Gateway, http: Http, protocol: str) -> None:
    await make(gateway)
    assert await refusal(http, protocol, "nobody/") == 404
    assert await refusal(http, protocol, "a/", key=None) == 401
    assert await refusal(http, protocol, "a/", key="secret-invoke") == 403
    other = Http(http.url.replace("127.0.0.1", "0.0.0.0"), http.session)
    assert await refusal(other, protocol, "a/") == 421  # a page of another name's


async def test_a_store_that_is_away_refuses_a_tail_and_cuts_none(
    gateway: Gateway, http: Http, store: BreakableStore, protocol: str
) -> None:
    job = await make(gateway, b"one\n")
    rebuilt = Rebuilt()
    following = asyncio.create_task(tail(http, protocol, rebuilt=rebuilt))
    await eventually_async(lambda: _done(rebuilt.next == 4))
    # The record of the job cannot be read for a while: the log goes on.
    get_job, store.get_job = store.get_job, _unavailable
    await asyncio.sleep(feeds.REFRESH_S * 1.5)
    gateway.runner.write("a", b"two\n")
    await eventually_async(lambda: _done(rebuilt.data == b"one\ntwo\n"))
    assert await refusal(http, protocol, "b/") == 503
    store.get_job = get_job
    await end(gateway, job)
    await following


async def _unavailable(job_id: str) -> Any:
    from agentray.errors import StoreUnavailable

    raise StoreUnavailable(job_id)


# What clients of other systems read


async def test_plain_text_is_the_log_line_by_line(gateway: Gateway, http: Http) -> None:
    job = await make(gateway, b"one\n\ntwo \xff\nno end")
    await end(gateway, job, JobStatus.FAILED)
    for path in ("stream", "stream/"):
        async with http.session.get(f"{http.url}/v1/jobs/a/logs/{path}", headers=HEADERS) as answer:
            assert answer.content_type == "text/plain"
            text = await answer.text()
        assert text == "one\n\ntwo \\xff\nno end\n[agentray] the job has failed: It has FAILED.\n"


async def test_the_end_does_not_tell_the_log_again(gateway: Gateway, http: Http) -> None:
    job = await make(gateway, b"one\n")
    why = "Job entrypoint command failed with exit code 3"
    told = f"{why}, last available logs (truncated to 20,000 chars):\none\n"
    await end(gateway, job, JobStatus.FAILED, message=told)
    url = f"{http.url}/v1/jobs/a/logs/stream"
    async with http.session.get(url, headers=HEADERS) as answer:
        assert await answer.text() == f"one\n[agentray] the job has failed: {why}\n"
    async with http.session.get(f"{url}?format=frames", headers=HEADERS) as answer:
        frames = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [frame["message"] for frame in frames if "message" in frame] == [why, why]
    assert (await http.get("/v1/jobs/a"))[1]["message"] == told


async def test_messages_are_objects_that_end_with_complete(gateway: Gateway, http: Http) -> None:
    job = await make(gateway, b'42\n[1, 2]\n"x"\n')
    await end(gateway, job)
    url = f"{http.url}/v1/jobs/a/logs/"
    async with http.session.ws_connect(url, headers={"Authorization": KEY}) as socket:
        told = [message.json() async for message in socket]
    assert told == [{"type": "log", "message": '42\n[1, 2]\n"x"'}, {"type": "complete"}]


async def test_a_log_as_a_whole_is_a_json_string(gateway: Gateway, http: Http) -> None:
    log = "42 à\n".encode() + b"\xff" + b"x" * 200_000
    await make(gateway, log)
    url = f"{http.url}/v1/jobs/a/logs/"
    async with http.session.get(url, headers=HEADERS) as answer:
        assert await answer.json() == log.decode("utf-8", "backslashreplace")
    async with http.session.get(url, headers={**HEADERS, "Accept": "text/plain"}) as answer:
        assert await answer.read() == log
    async with http.session.get(f"{url}?offset=3&max_bytes=4", headers=HEADERS) as answer:
        assert await answer.json() == "à\n\\xff"
    gateway.runner.path("a").write_bytes(b"42")
    gateway.runner.write("a", b"")
    async with http.session.get(url, headers=HEADERS) as answer:
        assert await answer.json() == "42"
