"""Requests that send themselves as jobs, and agents, sessions and prompts made with them."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from agentray.client import AgentClient, AsyncAgentClient, InvalidRequest, JobFailed, JobTimedOut
from agentray.client.calls.jobs import JobOptions
from agentray.client.chats import Agent, AgentPrompt, AgentSession
from agentray.client.communicator import AsynchronousCommunicator
from agentray.client.progress import ProgressBar
from agentray.protocol.access import AccessLevel
from agentray.protocol.async_jobs import JobProgress, JobState, JobStatus
from tests.support.chat_agents import chat_app
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY
from tests.support.local_gateway import LocalGateways, local_gateways
from tests.support.request_agents import Reporter, reports_app


@dataclass
class ReportJob(AsynchronousCommunicator):
    rows: int
    title: str = "Report"
    made: Any = None
    stamped: str | None = None

    request_type: ClassVar[str] = "make-report"

    def to_request(self) -> dict[str, Any]:
        return {"rows": self.rows, "title": self.title}

    def fill_from_response(self, response: Any) -> None:
        self.made = response

    async def post_exchange_async(self, client: AsyncAgentClient, **kwargs: Any) -> None:
        run = await client.run(str(self.token))
        self.stamped = f"{kwargs['stamp']} as {run.status}"


@dataclass
class SharedWork(AsynchronousCommunicator):
    text: str
    answer: Any = None

    request_type: ClassVar[str] = "shared.work"

    def to_request(self) -> dict[str, Any]:
        return {"text": self.text}

    def job_options(self) -> JobOptions:
        return {"agent": "helper/a", "on_error": "collect"}

    def fill_from_response(self, response: Any) -> None:
        self.answer = response


@pytest.fixture
async def local(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    async with local_gateways(reports_app(rows=0), chat_app(), home=tmp_path) as gateways:
        yield gateways


@pytest.fixture
async def client(local: LocalGateways) -> AsyncGenerator[AsyncAgentClient]:
    async with local.client() as client:
        yield client


def rows(count: int) -> None:
    for _ in range(count):
        Reporter.rows.release()


async def test_a_request_sends_itself_and_takes_its_response_in(client: AsyncAgentClient):
    rows(2)
    heard: list[JobStatus] = []
    job = ReportJob(2)
    sent = await job.send_job_and_wait_async(
        {"stamp": "seen"}, client=client, on_progress=heard.append
    )
    assert sent is job
    assert (job.made, job.failures) == ({"title": "Report", "rows": 2}, ())
    assert job.stamped == "seen as succeeded"
    assert heard[-1].state is JobState.COMPLETE
    assert (await client.run(str(job.token))).result == job.made


async def test_any_progress_begins_the_timeout_anew(client: AsyncAgentClient):
    heard: list[JobStatus] = []
    job = ReportJob(4)
    sending = asyncio.create_task(
        job.send_job_and_wait_async({"stamp": ""}, 3.0, client=client, on_progress=heard.append)
    )
    for row in range(4):  # in all longer than the timeout

        async def told(row: int = row) -> bool:
            return job.token is not None and len(heard) > row

        await eventually_async(told, 20)
        await asyncio.sleep(0.9)
        rows(1)
    assert (await sending).made == {"title": "Report", "rows": 4}


async def test_who_stops_waiting_can_go_on_or_cancel(client: AsyncAgentClient):
    job = ReportJob(1)
    with pytest.raises(JobTimedOut) as gave_up:
        await job.send_job_and_wait_async(timeout=1.0, client=client)
    assert gave_up.value.token == job.token
    assert job.made is None
    rows(1)
    await job.wait_for_job_async({"stamp": ""}, client=client)
    assert job.made == {"title": "Report", "rows": 1}

    other = ReportJob(1)
    waiting = asyncio.create_task(other.send_job_and_wait_async({"stamp": ""}, client=client))

    async def sent() -> bool:
        return other.token is not None

    await eventually_async(sent, 20)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert (await client.requests.get("make-report", str(other.token))).state is JobState.PROCESSING
    ended = await other.cancel_job_async(client=client)
    assert ended.state is JobState.FAILED
    with pytest.raises(JobFailed, match="It was cancelled"):
        await other.wait_for_job_async(client=client)
    with pytest.raises(ValueError, match="not sent yet"):
        await ReportJob(1).wait_for_job_async(client=client)


async def test_a_job_that_fails_says_why_and_leaves_the_object_as_it_was(client: AsyncAgentClient):
    job = ReportJob(0, title="fail")
    with pytest.raises(JobFailed, match="no paper") as failed:
        await job.send_job_and_wait_async({"stamp": ""}, client=client)
    assert failed.value.token == job.token
    assert failed.value.error is not None
    assert failed.value.error.type == "ValueError"
    assert (job.made, job.stamped) == (None, None)
    with pytest.raises(InvalidRequest, match="rows"):
        await ReportJob("many").send_job_and_wait_async(client=client)  # pyright: ignore[reportArgumentType] - a mistake


async def test_parts_that_failed_are_one_warning_and_no_error(
    client: AsyncAgentClient, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, logger="agentray.client"):
        job = await SharedWork("work").send_job_and_wait_async(client=client)
    assert job.answer == "the rest"
    assert [failure.message for failure in job.failures] == ["cannot work"]
    (warning,) = [r for r in caplog.records if r.name == "agentray.client"]
    assert "1 parts of job" in warning.getMessage()
    assert "RuntimeError: cannot work" in warning.getMessage()


async def test_the_same_without_an_event_loop_and_within_one(local: LocalGateways):
    rows(2)

    def blocking() -> list[Any]:
        with AgentClient(local.replicas[0].url, KEY) as client:
            job = ReportJob(1).send_job_and_wait({"stamp": ""}, client=client)

            async def within() -> Any:
                # A loop runs here; the client has its own.
                return ReportJob(1).send_job_and_wait({"stamp": ""}, client=client).made

            again = asyncio.run(within())
            late = ReportJob(1)
            with pytest.raises(JobTimedOut):
                late.send_job_and_wait(timeout=1.0, client=client)
            cancelled = late.cancel_job(client=client)
            return [job.made, again, cancelled.state]

    found = await asyncio.to_thread(blocking)
    assert found == [{"title": "Report", "rows": 1}] * 2 + [JobState.FAILED]


async def test_an_agent_is_prompted_in_sessions(client: AsyncAgentClient):
    agent = Agent("counter")
    first = await agent.prompt_async("one", client=client)
    second = await agent.prompt_async("two", True, client=client)
    assert (first.response, second.response) == ("1", "2")
    assert first.trace is None
    assert second.trace is not None
    assert [event.kind for event in second.trace] == ["queued", "started", "succeeded"]
    assert agent.get_chat_history() == [first, second]

    session = agent.current_session
    assert session is not None
    again = await agent.get_session_async(str(session.id), client=client)
    assert again is session  # with its history
    assert len(again.chat_history) == 2
    other = await agent.start_session_async(AccessLevel.READ, client=client)
    third = await agent.prompt_async("three", client=client)
    assert (third.response, third.session_id) == ("1", other.id)
    other.access_level = AccessLevel.WRITE
    await other.update_async(client=client)
    found = await AgentSession(id=other.id).get_async(client=client)
    assert found.access_level is AccessLevel.WRITE
    back = await agent.prompt_async("four", session=session, client=client)
    assert back.response == "3"
    with pytest.raises(ValueError, match="no id"):
        await AgentSession().prompt_async("x", client=client)


async def test_an_agent_is_prompted_without_an_event_loop(local: LocalGateways):
    def blocking() -> list[Any]:
        with AgentClient(local.replicas[0].url, KEY) as client:
            agent = Agent("counter")
            agent.start_session(client=client)
            answers = [agent.prompt(text, client=client).response for text in ("one", "two")]
            agent.get_session(
                str(agent.current_session and agent.current_session.id), client=client
            )
            prompt = AgentPrompt("json", agent="plain").send_job_and_wait(client=client)
            return [*answers, prompt.response, prompt.result]

    found = await asyncio.to_thread(blocking)
    assert found == ["1", "2", '{"city": "Ulm"}', {"city": "Ulm"}]


def test_the_bar_shows_what_is_known_and_nothing_where_it_is_not_wanted():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    with ProgressBar("make-report", shown=True, console=console) as bar:
        bar.show(None)
        bar.show(JobProgress(message="row 1", current=1, total=2))
        bar.show(JobProgress(message="half"))
    assert "half" in written.getvalue()
    quiet = io.StringIO()
    with ProgressBar("x", shown=False, console=Console(file=quiet, force_terminal=True)) as bar:
        bar.show(JobProgress(message="row 1", current=1, total=2))
    assert quiet.getvalue() == ""
