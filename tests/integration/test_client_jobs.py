"""Jobs and the cluster through both clients, against a gateway whose jobs are files."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from agentray.client import (
    AgentClient,
    AsyncAgentClient,
    AsyncLogTail,
    ClientError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    Job,
    JobStatus,
    LogGap,
    LogPiece,
    NotFound,
    ReportNews,
    StreamLimitExceeded,
    StreamLimits,
    TooManyRequests,
    Unauthorized,
)
from agentray.protocol.jobs import JobReport
from tests.support.gateway import INVOKE_KEY, KEY, READ_KEY, Gateway
from tests.support.jobs import NODE
from tests.support.patience import fails_in_time

Protocol = Literal["auto", "websocket", "http"]
BOTH: tuple[Protocol, ...] = ("websocket", "http")


@pytest.fixture
async def client(gateway: Gateway) -> AsyncGenerator[AsyncAgentClient]:
    async with AsyncAgentClient(gateway.url, KEY) as client:
        yield client


async def begin(gateway: Gateway, client: AsyncAgentClient, log: bytes = b"") -> str:
    """Submit a job that runs, with a log so far."""
    job = await client.submit_job("python train.py")
    if log:
        gateway.runner.write(job.job_id, log)
    await change(gateway, job.job_id, JobStatus.RUNNING, driver_node_id=NODE)
    return job.job_id


async def change(gateway: Gateway, job_id: str, status: JobStatus, **more: Any) -> None:
    gateway.runner.set(job_id, status)
    stored = await gateway.store.get_job(job_id)
    assert stored is not None
    told = {"status": status, "message": f"it is {status.value}", **more}
    if status.ended:
        told["end_time"] = stored.job.start_time + 5
    assert await gateway.store.update_job(stored.job.model_copy(update=told))


async def until_error(tail: AsyncLogTail[Any]) -> tuple[list[Any], ClientError]:
    """Read a tail that ends with an error."""
    seen: list[Any] = []
    try:
        async for each in tail:
            seen.append(each)  # noqa: PERF401 - what came before the error is wanted, too
    except ClientError as error:
        return seen, error
    pytest.fail("it has ended without an error")


async def test_a_job_is_submitted_looked_at_and_forgotten(
    gateway: Gateway, client: AsyncAgentClient
):
    job = await client.submit_job(
        "python train.py",
        submission_id="one",
        metadata={"team": "a"},
        entrypoint_num_cpus=2,
        runtime_env={"env_vars": {"EPOCHS": "3"}},
    )
    assert (job.job_id, job["status"], job.get("nothing")) == ("one", "PENDING", None)
    assert gateway.runner.specs["one"]["entrypoint_num_cpus"] == 2
    again = await client.submit_job(
        "python train.py",
        submission_id="one",
        metadata={"team": "a"},
        entrypoint_num_cpus=2,
        runtime_env={"env_vars": {"EPOCHS": "3"}},
    )
    assert again.job_id == "one"
    with pytest.raises(Conflict):
        await client.submit_job("python other.py", submission_id="one")
    assert await client.get_job("one") == job
    assert [found.job_id for found in await client.list_jobs(metadata={"team": "a"})] == ["one"]
    assert await client.list_jobs(metadata={"team": "b"}) == []
    with pytest.raises(Conflict):
        await client.delete_job("one")
    assert (await client.stop_job("one")).stop_requested
    await change(gateway, "one", JobStatus.STOPPED)
    assert (await client.get_job("one", wait_s=20)).status is JobStatus.STOPPED
    await client.delete_job("one")
    with pytest.raises(NotFound):
        await client.get_job("one")


async def test_jobs_come_in_pages(client: AsyncAgentClient):
    made = [(await client.submit_job("true", submission_id=f"job-{n}")).job_id for n in range(5)]
    page = await client.job_page(2)
    assert [job.job_id for job in page.jobs] == made[:-3:-1]
    assert page.next == made[-2]
    rest = await client.job_page(before=page.next)
    assert ([job.job_id for job in rest.jobs], rest.next) == (made[2::-1], None)
    assert [job.job_id async for job in client.all_jobs()] == made[::-1]
    assert await client.list_jobs(status="RUNNING") == []


async def test_a_directory_is_uploaded_once(
    gateway: Gateway, client: AsyncAgentClient, tmp_path: Path
):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print(1)")
    told: list[tuple[int, int]] = []

    async def submit() -> Job:
        return await client.submit_job(
            "python train.py",
            working_dir=tmp_path / "project",
            py_modules=[tmp_path / "project"],
            on_upload=lambda sent, size: told.append((sent, size)),
        )

    job, _ = await submit(), await submit()
    assert job.runtime_env["working_dir"].startswith("gcs://_ray_pkg_")
    assert len(job.runtime_env["py_modules"]) == 1
    assert len(gateway.runner.packages) == 2
    assert len(told) == 2
    assert all(sent == size for sent, size in told)


async def test_what_the_policy_refuses_is_said(client: AsyncAgentClient, gateway: Gateway):
    await client.update_runtime_policy({"max_concurrent_jobs": 1})
    await client.submit_job("true")

    async def submit(timeout: float) -> None:
        async with AsyncAgentClient(gateway.url, KEY, timeout=timeout) as hasty:
            await hasty.submit_job("true")

    await fails_in_time(TooManyRequests, submit, "Jobs under way: 1")
    assert (await client.get_runtime_policy()).max_concurrent_jobs == 1
    with pytest.raises(InvalidRequest):
        await client.update_runtime_policy({"max_jobs": 1})


@pytest.mark.parametrize("protocol", BOTH)
async def test_lines_come_as_they_are_written_and_the_end_has_its_reason(
    gateway: Gateway, client: AsyncAgentClient, protocol: Protocol
):
    job_id = await begin(gateway, client, b"one\n\ntw")
    tail = client.tail_job_logs(job_id, 30, protocol)
    assert [await anext(tail), await anext(tail)] == ["one", ""]
    gateway.runner.write(job_id, b"o\n  three \r\nlast")
    assert await anext(tail) == "two"
    assert tail.end is None
    await change(gateway, job_id, JobStatus.SUCCEEDED)
    assert [line async for line in tail] == ["  three \r", "last"]
    assert tail.end is not None
    assert (tail.end.reason, tail.end.status, tail.offset) == ("complete", "SUCCEEDED", 23)
    # A job that has ended replays from the start.
    again = client.tail_job_logs(job_id, 30, protocol)
    assert [line async for line in again] == ["one", "", "two", "  three \r", "last"]
    assert await client.get_job_logs(job_id) == "one\n\ntwo\n  three \r\nlast"
    assert await client.get_job_logs(job_id, tail=1) == "last"


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.STOPPED])
async def test_a_job_that_failed_or_was_stopped_ends_its_log_so(
    gateway: Gateway, client: AsyncAgentClient, status: JobStatus
):
    job_id = await begin(gateway, client, b"one\n")
    await change(gateway, job_id, status)
    tail = client.tail_job_logs(job_id)
    assert [line async for line in tail] == ["one"]
    assert tail.end is not None
    assert tail.end.reason == status.value.lower()


async def test_a_part_of_a_log(gateway: Gateway, client: AsyncAgentClient):
    job_id = await begin(gateway, client, b"a\nb\nc\n")
    tail = client.tail_job_logs(job_id, tail=2, follow=False)
    assert [line async for line in tail] == ["b", "c"]
    assert tail.end is not None
    assert tail.end.reason == "not_followed"
    events = client.follow_job(job_id, offset=3, follow=False)
    pieces = [event async for event in events if isinstance(event, LogPiece)]
    assert [(piece.offset, piece.data) for piece in pieces] == [(3, b"\n"), (4, b"c\n")]


@pytest.mark.parametrize("protocol", BOTH)
async def test_limits_are_errors_that_say_where_to_go_on(
    gateway: Gateway, client: AsyncAgentClient, protocol: Protocol
):
    log = b"".join(b"line %d\n" % n for n in range(100))
    job_id = await begin(gateway, client, log)
    client.stream_limits = StreamLimits(max_lines=10)
    seen, error = await until_error(client.tail_job_logs(job_id, 30, protocol))
    assert seen == [f"line {n}" for n in range(10)]
    assert isinstance(error, StreamLimitExceeded)
    assert (error.status_code, error.limit) == (429, "max_lines")
    assert log[: error.offset].count(b"\n") == 10

    client.stream_limits = StreamLimits(max_bytes=25)
    told, error = await until_error(client.follow_job(job_id, 30, protocol))
    assert isinstance(error, StreamLimitExceeded)
    assert b"".join(event.data for event in told if isinstance(event, LogPiece)) == log[:25]
    with pytest.raises(InvalidRequest):
        client.stream_limits = StreamLimits(max_lines=0)


@pytest.mark.parametrize("protocol", BOTH)
async def test_a_limit_that_is_the_end_is_none(
    gateway: Gateway, client: AsyncAgentClient, protocol: Protocol
):
    job_id = await begin(gateway, client, b"one\ntwo\n")
    await change(gateway, job_id, JobStatus.SUCCEEDED)
    for limits in (StreamLimits(max_lines=2), StreamLimits(max_bytes=8)):
        client.stream_limits = limits
        tail = client.tail_job_logs(job_id, 30, protocol)
        assert [line async for line in tail] == ["one", "two"]
        assert tail.end is not None
        assert tail.end.reason == "complete"


async def test_reports_come_with_the_log(gateway: Gateway, client: AsyncAgentClient):
    job_id = await begin(gateway, client, b"one\n")
    spec = gateway.runner.specs[job_id]["runtime_env"]["env_vars"]
    from agentray.runtime.job_keeper import token_digest

    report = JobReport(progress=0.5, metrics={"loss": 0.25})
    digest = token_digest(spec["AGENTRAY_JOB_TOKEN"])
    assert await gateway.store.report_job(job_id, digest, report)
    async for event in client.follow_job(job_id):
        if isinstance(event, ReportNews) and event.progress is not None:
            assert event == ReportNews(0.5, {"loss": 0.25}, None)
            break


@pytest.mark.parametrize("protocol", ["auto", "http"])
async def test_what_is_wrong_is_said_honestly(
    gateway: Gateway, client: AsyncAgentClient, protocol: Protocol
):
    with pytest.raises(NotFound) as caught:
        await anext(client.tail_job_logs("none", 30, protocol))
    assert "There is no job 'none'." in str(caught.value)
    async with AsyncAgentClient(gateway.url, "wrong") as stranger:
        with pytest.raises(Unauthorized):
            await anext(stranger.tail_job_logs("none", 30, protocol))
    async with AsyncAgentClient(gateway.url, INVOKE_KEY) as inviter:
        with pytest.raises(Forbidden):
            await anext(inviter.tail_job_logs("none", 30, protocol))
    job_id = await begin(gateway, client)
    async with AsyncAgentClient(gateway.url, KEY, tenant="acme") as other:
        with pytest.raises(NotFound):
            await anext(other.tail_job_logs(job_id, 30, protocol))


async def test_a_websocket_that_is_refused_has_the_status(
    gateway: Gateway, client: AsyncAgentClient
):
    with pytest.raises(NotFound) as caught:
        await anext(client.websocket_tail_job_logs("none"))
    assert caught.value.status_code == 404
    async with AsyncAgentClient(gateway.url, "wrong") as stranger:
        with pytest.raises(Unauthorized):
            await anext(stranger.websocket_tail_job_logs("none"))


async def test_arguments_are_checked_at_the_call(client: AsyncAgentClient):
    for call in (
        lambda: client.tail_job_logs("a/b"),
        lambda: client.tail_job_logs("a", timeout=0),
        lambda: client.tail_job_logs("a", protocol="smoke"),  # pyright: ignore[reportArgumentType] - on purpose
        lambda: client.websocket_tail_job_logs("plain\n"),
        lambda: client.stream_tail_job_logs(""),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.status_code == 400
    with pytest.raises(InvalidRequest):
        await client.get_job("../keys")
    with pytest.raises(TypeError, match="num_cpus"):
        await client.submit_job("true", num_cpus=3)  # pyright: ignore[reportCallIssue] - on purpose


async def test_no_gateway_is_given_up_after_the_timeout():
    async with AsyncAgentClient("http://127.0.0.1:9", KEY) as client:
        for protocol in BOTH:
            with pytest.raises(ConnectionFailed) as caught:
                await anext(client.tail_job_logs("a", 0.3, protocol))
            assert caught.value.status_code == 503


# Connections that break


@asynccontextmanager
async def cutting(
    url: str, seed: int, longest: int = 30_000
) -> AsyncGenerator[tuple[str, list[int]]]:
    """Stand before a gateway, and cut each connection after a random number of bytes."""
    rng = random.Random(seed)
    cuts: list[int] = []
    host, port = url.removeprefix("http://").split(":")
    tasks: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
    ) -> None:
        left = most
        try:
            while data := await reader.read(65536):
                if left is not None:
                    data, left = data[:left], left - len(data)
                writer.write(data)
                await writer.drain()
                if left is not None and left <= 0:
                    cuts.append(1)
                    break
        except (ConnectionError, OSError):
            pass
        finally:
            writer.transport.abort() if left is not None and left <= 0 else writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        most = rng.randrange(400, longest)
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, back, None))
            group.create_task(pump(there, writer, most))

    def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))  # noqa: TID251 - asyncio calls it so
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", cuts
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("protocol", BOTH)
async def test_a_log_over_connections_that_break_is_the_file(
    gateway: Gateway, client: AsyncAgentClient, protocol: Protocol
):
    rng = random.Random(7)
    log = b"".join(
        b"%d %s\n" % (n, rng.choice([b"", b"gr\xc3\xbc\xc3\x9fe", b"\xff\x00", b"x" * 3000]))
        for n in range(250)
    )
    job_id = await begin(gateway, client, log[:5000])
    async with cutting(gateway.url, 7) as (url, cuts), AsyncAgentClient(url, KEY) as cut:

        async def write() -> None:
            for at in range(5000, len(log), 40_000):
                gateway.runner.write(job_id, log[at : at + 40_000])
                await asyncio.sleep(0.05)
            await change(gateway, job_id, JobStatus.SUCCEEDED)

        writing = asyncio.create_task(write())
        got: list[LogPiece] = []
        tail = cut.follow_job(job_id, 30, protocol)
        async for event in tail:
            assert not isinstance(event, LogGap)
            if isinstance(event, LogPiece):
                got.append(event)
        await writing
    assert b"".join(piece.data for piece in got) == log
    assert tail.end is not None
    assert tail.end.reason == "complete"
    assert len(cuts) > 5


@pytest.mark.parametrize(("protocol", "waits"), [("websocket", False), ("http", True)])
async def test_a_hundred_thousand_lines_come_once_wherever_connections_break(
    gateway: Gateway, client: AsyncAgentClient, protocol: Protocol, waits: bool
):
    rng = random.Random(11)
    lines = [f"{n:06} {'x' * rng.randrange(60)}" for n in range(100_000)]
    log = "\n".join(lines).encode()
    job_id = await begin(gateway, client, log[:200_000])

    async def write() -> None:
        for at in range(200_000, len(log), 400_000):
            gateway.runner.write(job_id, log[at : at + 400_000])
            await asyncio.sleep(0.02)
        await change(gateway, job_id, JobStatus.SUCCEEDED)

    def read_blocking(url: str) -> list[str]:
        with AgentClient(url, KEY) as blocking:
            return list(blocking.tail_job_logs(job_id, 30, protocol))

    async with cutting(gateway.url, 11, 600_000) as (url, cuts), AsyncAgentClient(url, KEY) as cut:
        writing = asyncio.create_task(write())
        if waits:
            got = await asyncio.to_thread(read_blocking, url)
        else:
            got = [line async for line in cut.tail_job_logs(job_id, 30, protocol)]
        await writing
    assert got == lines
    assert len(cuts) > 5


async def test_a_tail_goes_on_when_the_gateway_is_back(gateway: Gateway, client: AsyncAgentClient):
    job_id = await begin(gateway, client, b"one\n")
    async with cutting(gateway.url, 1) as (url, _), AsyncAgentClient(url, KEY) as far:
        tail = far.tail_job_logs(job_id, 30)
        assert await anext(tail) == "one"
        gateway.runner.gone = True  # the log cannot be read for a while
        gateway.runner.write(job_id, b"two\n")
        waiting = asyncio.create_task(anext(tail))
        await asyncio.wait((waiting,), timeout=0.2)
        gateway.runner.gone = False
        assert await waiting == "two"
        await tail.aclose()


# The cluster


async def test_views_of_the_cluster(gateway: Gateway, client: AsyncAgentClient):
    assert (await client.health_check())["status"] == "ok"
    gateway.cluster.parts = {
        "nodes": [{"node_id": "n1", "state": "ALIVE", "alive": True, "node_name": "here"}],
        "tasks": [{"task_id": "t1", "state": "RUNNING", "status": "RUNNING", "name": None}],
        "actors": [{"actor_id": "a1", "state": "ALIVE", "class_name": "Host", "pid": 7}],
    }
    (node,) = await client.list_nodes()
    assert (node.node_id, node.alive, node["node_name"]) == ("n1", True, "here")
    assert await client.get_node("n1") == node
    assert await client.list_nodes(filters={"state": "DEAD"}) == []
    assert (await client.list_tasks(limit=1))[0]["status"] == "RUNNING"
    assert (await client.get_task("t1")).task_id == "t1"
    assert (await client.list_actors())[0].class_name == "Host"
    assert (await client.get_actor("a1")).pid == 7
    for missing in (client.get_node, client.get_task, client.get_actor):
        with pytest.raises(NotFound):
            await missing("none")
    gateway.cluster.apps.append({"name": "my-app", "status": "RUNNING"})
    assert [app.name for app in await client.list_serve_applications()] == ["agentray", "my-app"]
    assert (await client.get_serve_application("my-app"))["status"] == "RUNNING"
    await client.delete_serve_application("my-app")
    with pytest.raises(NotFound):
        await client.get_serve_application("my-app")
    with pytest.raises(Conflict):
        await client.delete_serve_application("agentray")


async def test_resources_and_the_policy(gateway: Gateway, client: AsyncAgentClient):
    found = await client.get_cluster_resources()
    assert (found.cpu.total, found.nodes[0].host_name) == (4, "here")
    assert (await client.get_cluster_resources(use_cache=False)).node_counts.alive == 1
    assert (await client.get_gpu_status())["total_gpus"] == 0
    assert (await client.check_feasibility("job", 2)).allowed
    assert not (await client.check_feasibility("task", 1, resources={"tpu": 1})).allowed
    refused = await client.check_feasibility("serve", 64, num_gpus=1)
    assert not refused.allowed
    assert refused.reasons
    policy = await client.update_gatekeeping_policy({"max_concurrent_jobs": 3})
    assert policy["max_concurrent_jobs"] == 3
    assert (await client.get_gatekeeping_policy()) == policy
    async with AsyncAgentClient(gateway.url, READ_KEY) as reader:
        with pytest.raises(Forbidden):
            await reader.update_runtime_policy({"max_concurrent_jobs": 0})


async def test_the_sync_client_does_the_same_with_jobs(gateway: Gateway, client: AsyncAgentClient):
    job_id = await begin(gateway, client, b"one\ntwo\n")
    gateway.cluster.parts["nodes"] = [{"node_id": "n1", "state": "ALIVE"}]

    def use() -> None:
        with AgentClient(gateway.url, KEY, timeout={"connect": 3, "read": 10}) as blocking:
            blocking.stream_limits = StreamLimits(max_lines=1)
            assert blocking.stream_limits.max_lines == 1
            with pytest.raises(StreamLimitExceeded):
                list(blocking.tail_job_logs(job_id))
            blocking.stream_limits = StreamLimits()
            with blocking.tail_job_logs(job_id, timeout=30, protocol="auto") as tail:
                assert [next(tail), next(tail)] == ["one", "two"]
                assert tail.end is None
            with pytest.raises(InvalidRequest):
                blocking.websocket_tail_job_logs("a/b")
            with pytest.raises(ClientError) as caught:
                list(blocking.tail_job_logs("invalid-job"))
            assert caught.value.status_code == 404
            assert [job["job_id"] for job in blocking.list_jobs()] == [job_id]
            assert [job.job_id for job in blocking.all_jobs()] == [job_id]
            assert blocking.get_job(job_id)["status"] == "RUNNING"
            assert blocking.get_job_logs(job_id) == "one\ntwo\n"
            assert blocking.list_job_logs(job_id) == "one\ntwo\n"
            assert blocking.stop_job(job_id).stop_requested
            assert blocking.get_node("n1").state == "ALIVE"
            assert blocking.list_nodes()[0]["node_id"] == "n1"
            assert blocking.health_check()

    await asyncio.to_thread(use)
    await change(gateway, job_id, JobStatus.STOPPED)

    def rest() -> None:
        with AgentClient(gateway.url, KEY) as blocking:
            tail = blocking.websocket_tail_job_logs(job_id)
            assert list(tail) == ["one", "two"]
            assert tail.end is not None
            assert tail.end.reason == "stopped"
            dropped = blocking.tail_job_logs(job_id)
            next(dropped)
            del dropped
            blocking.delete_job(job_id)

    await asyncio.to_thread(rest)


@pytest.mark.parametrize(
    ("name", "args", "more", "field"),
    [
        ("list_jobs", (), {"status": "nope"}, "status"),
        ("list_jobs", (), {"limit": 0}, "limit"),
        ("list_jobs", (), {"before": "nope"}, "before"),
        ("runs", (), {"status": "nope"}, "status"),
        ("list_nodes", (), {"filters": {"limit": "x"}}, "limit"),
        ("check_feasibility", ("nope", 1), {}, "kind"),
        ("check_feasibility", ("job", float("nan")), {}, "num_cpus"),
        ("check_feasibility", ("job", 1), {"resources": {"tpu": -1}}, "resources.tpu"),
        ("update_runtime_policy", ({"nope": 1},), {}, "nope"),
        ("get_job_logs", ("a",), {"offset": -1}, "offset"),
        ("submit_job", ("true",), {"metadata": {"a": 5}}, "metadata.a"),
        ("submit_job", ("true",), {"runtime_env": {"pip": 5}}, "runtime_env.pip"),
    ],
)
async def test_what_is_given_wrongly_is_refused_by_its_name(
    client: AsyncAgentClient, name: str, args: tuple[Any, ...], more: dict[str, Any], field: str
):
    with pytest.raises(InvalidRequest) as refused:
        await getattr(client, name)(*args, **more)
    assert (refused.value.status_code, refused.value.errors[0]["field"]) == (422, field)
