"""Sessions in the clients and on the command line, against a gateway before agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentray.cli.main import app as command
from agentray.client import AgentClient, Conflict, InvalidRequest, NotFound
from agentray.protocol.runs import RunStatus
from tests.support.gateway import KEY
from tests.support.local_gateway import LocalGateways, local_gateways
from tests.support.session_agents import app, gates, said


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    gates.clear()
    async with local_gateways(app, home=tmp_path) as system:
        yield system


async def test_the_client_has_a_conversation(system: LocalGateways):
    async with system.client() as client:
        session = await client.sessions.create(
            "s", agent="scribe", access_level="read", labels={"a=b": "c&d", "x": "y"}
        )
        assert (
            await client.sessions.create(
                "s", agent="scribe", access_level="read", labels={"a=b": "c&d", "x": "y"}
            )
            == session
        )
        for text in ("one", "two"):
            run = await client.prompt(text, session=session.id)
        assert said(run) == ["one", "two"]
        assert run.session == "s"
        page = await client.sessions.list(labels={"a=b": "c&d", "x": "y"}, agent="scribe")
        assert [each.id for each in page.sessions] == ["s"]
        assert (await client.sessions.list(labels={"x": "z"})).sessions == []
        history = [each async for each in client.sessions.history("s")]
        assert [(each.number, each.prompt) for each in history] == [(1, "one"), (2, "two")]

        changed = await client.sessions.update(session, title="Mine", ttl_s=60)
        assert (changed.title, changed.version) == ("Mine", 2)
        with pytest.raises(Conflict):
            await client.sessions.update(session, title="Late")
        with pytest.raises(Conflict):
            await client.sessions.delete(session)
        assert (await client.sessions.update("s", ttl_s=None)).expires_at is None
        copy = await client.sessions.copy("s", title="Yours")
        assert said(await client.prompt("three", session=copy.id)) == ["one", "two", "three"]
        await client.sessions.delete("s")
        with pytest.raises(NotFound):
            await client.sessions.get("s")
        with pytest.raises(InvalidRequest):
            await client.prompt("x", "scribe", session=copy.id)


async def test_the_client_hears_of_the_run_in_its_way(system: LocalGateways):
    async with system.client() as client:
        await client.sessions.create("s", agent="scribe")
        first = asyncio.create_task(client.prompt("wait", session="s"))
        await gates.until_begun("wait")
        with pytest.raises(Conflict) as refused:
            await client.prompt("b", session="s", policy="reject")
        last = await client.prompt("c", session="s", policy="interrupt")
        assert refused.value.run_id == (await first).id
        assert ((await first).status, said(last)) == (RunStatus.CANCELLED, ["c"])


async def test_the_client_without_an_event_loop(system: LocalGateways):
    def talk() -> list[str]:
        with AgentClient(system.replicas[0].url, KEY) as client:
            session = client.sessions.create(agent="scribe")
            client.prompt("one", session=session.id)
            client.sessions.update(session, labels={"a": "b"})
            assert client.sessions.get(session.id).labels == {"a": "b"}
            copy = client.sessions.copy(session.id)
            assert len(client.sessions.list().sessions) == 2
            prompts = [each.prompt for each in client.sessions.history(copy.id)]
            assert client.sessions.runs(copy.id).next is None
            client.sessions.delete(copy.id)
            return prompts

    assert await asyncio.to_thread(talk) == ["one"]


async def test_the_commands(system: LocalGateways, tmp_path: Path):
    async def run(*words: str, code: int = 0) -> str:
        env = {"AGENTRAY_HOME": str(tmp_path), "AGENTRAY_URL": system.replicas[0].url}
        env["AGENTRAY_API_KEY"] = KEY
        done = await asyncio.to_thread(CliRunner().invoke, command, words, env=env)
        assert done.exit_code == code, done.output
        return done.output

    async def told(*words: str) -> Any:
        return json.loads(await run(*words, "--json"))

    made = await told(
        "sessions", "create", "s", "--agent", "scribe", "--label", "a=b", "--access", "write",
        "--ttl", "2h", "--metadata", '{"x": 1}',
    )  # fmt: skip
    assert (made["labels"], made["access_level"], made["ttl_s"]) == ({"a": "b"}, "write", 7200)
    assert "hello" in await run("prompt", "hello", "--session", "s")
    assert "again" in await run("prompt", "again", "--session", "s", "--policy", "rollback")
    listed = await told("sessions", "list", "--label", "a=b")
    assert [each["id"] for each in listed["sessions"]] == ["s"]
    assert "scribe/s" in await run("sessions", "list")
    assert "scribe/s" in await run("sessions", "get", "s")
    changed = await told("sessions", "update", "s", "--title", "Mine", "--keep", "--version", "1")
    assert (changed["title"], changed["ttl_s"]) == ("Mine", None)
    late = ("sessions", "update", "s", "--title", "x", "--version", "1")
    assert "changed" in await run(*late, code=2)
    assert (await told("sessions", "copy", "s", "c"))["copied_from"] == "s"
    history = await told("sessions", "history", "c")
    assert [each["prompt"] for each in history["runs"]] == ["hello", "again"]
    assert "again" in await run("sessions", "history", "s")
    assert (await told("sessions", "delete", "s")) == {"id": "s", "deleted": True}
    assert "There is no session" in await run("sessions", "get", "s", code=5)
    assert "NAME=VALUE" in await run("sessions", "create", "--label", "x", code=2)
