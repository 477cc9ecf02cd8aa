"""Files and output schemas over HTTP: limits, and what is wrong named."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from agentray import Attachment
from agentray.cli.main import app as command
from agentray.client import InvalidRequest, PayloadTooLarge
from tests.support.gateway import KEY, Http
from tests.support.local_gateway import LocalGateways, local_gateways
from tests.unit.test_prompt_extras import NOTE, Total, app


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    limits = {"max_body_bytes": 2000, "max_attachment_bytes": 5000, "max_attachments_bytes": 8000}
    async with local_gateways(app, home=tmp_path, **limits) as system:
        yield system


@pytest.fixture
async def http(system: LocalGateways) -> AsyncGenerator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(system.replicas[0].url, session)


def file(size: int, name: str = "a.txt", **more: Any) -> dict[str, Any]:
    return {"name": name, "data": b64encode(b"x" * size).decode(), **more}


async def test_files_come_with_their_names_and_media_types(http: Http):
    files = [file(3000), file(1, "b.png"), file(1, "c", media_type="image/webp"), file(0, "d")]
    status, run, _ = await http.prompt("files", agent="reader", attachments=files)
    assert (status, run["status"]) == (200, "succeeded")
    assert [each[:2] for each in run["result"]["files"]] == [
        ["a.txt", "text/plain"],
        ["b.png", "image/png"],
        ["c", "image/webp"],
        ["d", "application/octet-stream"],
    ]
    assert run["result"]["files"][0][2] == (b"x" * 3000).hex()


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("x", [file(5001)]),
        ("x", [file(4001), file(4000)]),
        ("x" * 2000, []),
        ("x" * 2000, [file(1)]),
        ("x", [file(20_000)]),
    ],
)
async def test_what_is_too_large_is_a_413(http: Http, text: str, files: list[dict[str, Any]]):
    more = {"attachments": files} if files else {}
    status, problem, _ = await http.prompt(text, agent="reader", **more)
    assert (status, problem["type"]) == (413, "urn:agentray:problem:too-large")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"attachments": [{"name": "a", "data": "%%"}]}, "attachments.0.data"),
        ({"attachments": [{"name": "a"}]}, "attachments.0.data"),
        ({"attachments": [file(1), file(1, "a/b")]}, "attachments.1.name"),
        ({"attachments": [file(1, media_type="png")]}, "attachments.0.media_type"),
        ({"attachments": [file(1)] * 33}, "attachments"),
        ({"attachments": "x"}, "attachments"),
        ({"output_schema": []}, "output_schema"),
        ({"output_schema": {"type": "text"}}, "output_schema.type"),
        ({"output_schema": {"$ref": "http://127.0.0.1/"}}, "output_schema.$ref"),
        ({"output_schema": {}, "durability": "step"}, "output_schema"),
    ],
)
async def test_a_wrong_field_is_named(http: Http, more: dict[str, Any], field: str):
    status, problem, _ = await http.prompt("x", agent="reader", **more)
    assert status == 422, problem
    assert problem["errors"][0]["field"] == field


async def test_a_result_that_does_not_fit_is_a_failed_run(http: Http):
    schema = Total.model_json_schema()
    status, run, _ = await http.prompt("wrong", agent="reader", output_schema=schema)
    assert (status, run["status"], run["error"]["type"]) == (200, "failed", "OutputInvalid")
    status, run, _ = await http.prompt("a b", agent="reader", output_schema=schema)
    assert (status, run["result"]) == (200, {"words": 2, "names": []})


async def test_files_and_schemas_belong_to_what_an_idempotency_key_stands_for(http: Http):
    same = {"agent": "reader", "attachments": [file(1)], "Idempotency_Key": "k"}
    _, first, _ = await http.prompt("x", **same)
    assert (await http.prompt("x", **same))[1]["id"] == first["id"]
    assert (await http.prompt("x", **same | {"attachments": [file(2)]}))[0] == 409


async def test_the_clients_send_files_and_read_results(system: LocalGateways):
    async with system.client() as client:
        run = await client.prompt("one two", "reader", attachments=[NOTE], output_schema=Total)
        assert run.result_as(Total) == Total(words=2, names=["note.txt"])
        with pytest.raises(InvalidRequest):
            await client.prompt("x", "reader", output_schema={"type": "text"})
        big = Attachment(name="b", data=b"x" * 5001)
        with pytest.raises(PayloadTooLarge):
            await client.prompt("x", "reader", attachments=[big])


async def test_the_command_sends_files(system: LocalGateways, tmp_path: Path):
    note, schema = tmp_path / "note.md", tmp_path / "schema.json"
    note.write_text("hello")
    schema.write_text(json.dumps(Total.model_json_schema()))
    env = {"AGENTRAY_HOME": str(tmp_path), "AGENTRAY_URL": system.replicas[0].url}
    env["AGENTRAY_API_KEY"] = KEY

    async def run(*words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, command, words, env=env)
        return done.exit_code, done.output

    code, told = await run(
        "prompt", "a b", "--agent", "reader", "--attach", str(note), "--schema", str(schema),
        "--json",
    )  # fmt: skip
    assert code == 0, told
    assert json.loads(told)["result"] == {"words": 2, "names": ["note.md"]}
    code, told = await run("prompt", "x", "--attach", str(tmp_path / "missing"))
    assert code == 2
    assert "missing" in told
    code, told = await run("prompt", "x", "--schema", str(note))
    assert code == 2
    assert "no JSON" in told
