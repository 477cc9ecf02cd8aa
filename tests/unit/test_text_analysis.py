"""The text analysis system: what it answers, with and without a model, and how it fails."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentray import App, ManagerClient, Run, RunStatus, on
from agentray.examples import driver
from agentray.examples.extractive import split_sentences, statistics
from agentray.examples.text_analysis import (
    PhrasesFound,
    TextAnalyser,
    TextReception,
    TextSubmitted,
    TextSummariser,
    app,
)
from agentray.testing import LocalRuntime
from tests.support.texts import analyse

EXTRACTIVE = "extractive: LexRank summary, C-value key phrases"


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTRAY_MODEL", raising=False)


@pytest.fixture
async def manager() -> AsyncGenerator[ManagerClient]:
    async with LocalRuntime(hosts=2) as client:
        yield client


def failure(run: Run) -> tuple[str, str]:
    assert run.status is RunStatus.FAILED
    assert run.result is None
    assert run.error is not None
    return run.error.type, run.error.message


class TestExtractive:
    async def test_a_paragraph(self, manager: ManagerClient):
        await manager.deploy(app)
        run = await manager.prompt(driver.SAMPLE)

        assert run.status is RunStatus.SUCCEEDED
        assert set(run.result) == {"summary", "key_phrases", "statistics", "engine"}
        assert run.result["engine"] == EXTRACTIVE
        assert run.result["statistics"] == statistics(driver.SAMPLE).model_dump()
        assert run.result["key_phrases"][0] == "flood barrier"

    async def test_the_summary_quotes_the_text(self, manager: ManagerClient):
        await manager.deploy(app)
        run = await manager.prompt(driver.SAMPLE)

        quoted = [s for s in split_sentences(driver.SAMPLE) if s in run.result["summary"]]
        assert run.result["summary"] == " ".join(quoted)
        assert 1 <= len(quoted) <= 3

    async def test_fifty_at_once_do_not_mix(self, manager: ManagerClient):
        await manager.deploy(app)
        texts = [f"The lock number {n} opened. Nobody saw who opened it." for n in range(50)]
        runs = await asyncio.gather(*(manager.prompt(text) for text in texts))
        assert [run.result["summary"] for run in runs] == texts

    async def test_a_long_text(self, manager: ManagerClient):
        await manager.deploy(app)
        text = (driver.SAMPLE * 250)[:100_000]
        run = await manager.prompt(text)
        assert run.result["statistics"]["words"] == statistics(text).words
        assert 1 <= len(split_sentences(run.result["summary"])) <= 3

    @pytest.mark.parametrize("text", ["", " \n\t ", "... !? —"])
    async def test_no_text_is_an_error(self, manager: ManagerClient, text: str):
        await manager.deploy(app)
        kind, message = failure(await manager.prompt(text))
        assert (kind, message) == (
            "ValueError",
            "There is no text to analyse: the prompt has no words.",
        )

    async def test_progress_is_reported(self):
        runtime = LocalRuntime()
        async with runtime as manager:
            await manager.deploy(app)
            run = await manager.prompt(driver.SAMPLE)
            events = await runtime.store.run_events(run.id)
        told = {event.data["message"] for event in events if event.kind == "progress"}
        assert told == {"key phrases found", "summary written"}

    async def test_no_model_means_no_import(self):
        program = (
            "import sys, agentray.examples.text_analysis, agentray.patterns; "
            "sys.exit('pydantic_ai' in sys.modules)"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        assert await process.wait() == 0


class BrokenAnalyser(TextAnalyser):
    @on(TextSubmitted)
    async def analyse(self, submitted: TextSubmitted) -> PhrasesFound:
        raise RuntimeError(f"{len(submitted.text)} characters are too many")


async def test_a_failing_analyser_fails_the_run(manager: ManagerClient):
    await manager.deploy(App("broken", [TextReception, BrokenAnalyser, TextSummariser]))
    run = await manager.prompt("Some text.")

    assert failure(run) == ("RuntimeError", "10 characters are too many")
    assert run.error is not None
    assert run.error.agent == f"broken_analyser/{run.correlation_id}"
    assert run.error.path == (
        f"Prompt at {run.agent}",
        f"TextSubmitted at broken_analyser/{run.correlation_id}",
    )


class ModelServer:
    """Speaks Chat Completions on a port of its own, and answers what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "summary": "A river rose and a county had not built its barrier.",
            "key_phrases": ["rising river", "missing barrier"],
        }
        self.refusal: tuple[int, str] | None = None
        self.asked: list[dict[str, Any]] = []

    async def complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(asked)
        if self.refusal is not None:
            status, message = self.refusal
            return web.json_response({"error": {"message": message}}, status=status)
        (tool,) = (tool["function"] for tool in asked["tools"])
        (field,) = tool["parameters"]["properties"]
        call = {
            "id": "call_1",
            "type": "function",
            "function": {
                "name": tool["name"],
                "arguments": json.dumps({field: self.answers[field]}),
            },
        }
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": asked["model"],
                "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
            }
        )


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ModelServer]:
    server = ModelServer()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", server.complete)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.setenv("AGENTRAY_MODEL", "openai-chat:small-model")
    yield server
    await runner.cleanup()


class TestWithAModel:
    async def test_the_answer_is_the_models(self, model: ModelServer, manager: ManagerClient):
        await manager.deploy(app)
        run = await manager.prompt(driver.SAMPLE)

        assert run.error is None
        assert run.result == {
            "summary": model.answers["summary"],
            "key_phrases": model.answers["key_phrases"],
            "statistics": statistics(driver.SAMPLE).model_dump(),
            "engine": "model: openai-chat:small-model",
        }
        assert {asked["model"] for asked in model.asked} == {"small-model"}
        assert all(asked["messages"][-1]["content"] == driver.SAMPLE for asked in model.asked)

    async def test_what_the_provider_refuses_fails_the_run(
        self, model: ModelServer, manager: ManagerClient
    ):
        model.refusal = (401, "This key was revoked on Monday.")
        await manager.deploy(app)
        run = await manager.prompt("Some text.")

        _, message = failure(run)
        assert "This key was revoked on Monday." in message
        assert run.error is not None
        assert run.error.path[0] == f"Prompt at {run.agent}"

    async def test_an_answer_of_another_form_fails_the_run(
        self, model: ModelServer, manager: ManagerClient
    ):
        model.answers["summary"] = ""
        await manager.deploy(app)
        kind, message = failure(await manager.prompt("Some text."))
        assert kind == "UnexpectedModelBehavior"
        assert "retries" in message

    async def test_an_unknown_model_fails_the_run(
        self, monkeypatch: pytest.MonkeyPatch, manager: ManagerClient
    ):
        monkeypatch.setenv("AGENTRAY_MODEL", "nobody:nothing")
        await manager.deploy(app)
        _, message = failure(await manager.prompt("Some text."))
        assert "The model 'nobody:nothing' cannot be used" in message

    async def test_a_missing_extra_is_named(
        self, monkeypatch: pytest.MonkeyPatch, manager: ManagerClient
    ):
        monkeypatch.setenv("AGENTRAY_MODEL", "openai:gpt-4o")
        monkeypatch.setitem(sys.modules, "pydantic_ai", None)  # as if it were not installed
        await manager.deploy(app)
        _, message = failure(await manager.prompt("Some text."))
        assert "pip install 'agentray[llm]'" in message


class TestDriver:
    async def test_a_page_about_a_text(self, manager: ManagerClient):
        await manager.deploy(app)
        page = await driver.report(manager, "flood.txt", driver.SAMPLE)

        counted = statistics(driver.SAMPLE)
        assert page.startswith(f"flood.txt: {counted.words} words in {counted.sentences} sentences")
        assert "  - flood barrier\n" in page
        assert f"Made by\n  {EXTRACTIVE}\n" in page

    def test_no_cluster_is_one_line(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        monkeypatch.setenv("AGENTRAY_HOME", str(tmp_path))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        assert driver.main([]) == 1
        told = capsys.readouterr().err
        assert told.startswith("ClusterNotRunning: ")
        assert len(told.splitlines()) == 1

    def test_no_file_is_one_line(self, capsys: pytest.CaptureFixture[str]):
        assert driver.main(["/no/such/file"]) == 1
        assert "/no/such/file" in capsys.readouterr().err


async def test_each_of_a_thousand_texts_at_once_gets_its_own_analysis():
    async with LocalRuntime(hosts=2) as manager:
        await manager.deploy(app)
        await analyse(manager, 1000)
