"""Files beside a prompt, as `multipart/form-data`: as curl, browsers and our clients send them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentray import Attachment
from agentray.client import AgentClient, PayloadTooLarge
from tests.support.gateway import KEY, Http
from tests.support.local_gateway import LocalGateways, local_gateways
from tests.unit.test_prompt_extras import app

BOUNDARY = "what-nobody-writes"


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[LocalGateways]:
    limits = {"max_body_bytes": 2000, "max_attachment_bytes": 5000, "max_attachments_bytes": 8000}
    async with local_gateways(app, home=tmp_path, **limits) as system:
        yield system


@pytest.fixture
async def http(system: LocalGateways) -> AsyncGenerator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(system.replicas[0].url, session)


def part(told: str, data: bytes | str, media_type: str | None = None) -> bytes:
    kind = f"Content-Type: {media_type}\r\n" if media_type else ""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {told}\r\n{kind}\r\n"
    return head.encode() + (data.encode() if isinstance(data, str) else data) + b"\r\n"


def request(text: str = "files", **more: Any) -> bytes:
    return part('name="request"', json.dumps({"prompt": text, "agent": "reader", **more}))


def file(size: int, name: str = "a.txt", media_type: str | None = None) -> bytes:
    return part(f'name="attachments"; filename="{name}"', b"x" * size, media_type)


END = f"--{BOUNDARY}--\r\n".encode()


async def send(
    http: Http, *parts: bytes, content_type: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    kind = content_type or f"multipart/form-data; boundary={BOUNDARY}"
    body = b"".join(parts)
    return await http.ask("POST", "/v1/prompts", body=body, Content_Type=kind, **headers)


async def test_files_come_as_they_are_in_whatever_order(http: Http):
    whole = bytes(range(256))
    parts = [
        file(3000),
        part('name="attachments"; filename="b.png"', whole),
        request(),
        file(1, "é.txt", "text/markdown"),
        part('name="attachments"; filename="a \\"b\\".txt"', b"--what-nobody\r\n\r\n--"),
        file(0, "d"),
    ]
    status, run, _ = await send(http, *parts, END)
    assert (status, run["status"]) == (200, "succeeded")
    assert run["result"]["files"] == [
        ["a.txt", "text/plain", (b"x" * 3000).hex()],
        ["b.png", "image/png", whole.hex()],
        ["é.txt", "text/markdown", b"x".hex()],
        ['a "b".txt', "text/plain", b"--what-nobody\r\n\r\n--".hex()],
        ["d", "application/octet-stream", ""],
    ]


async def test_a_prompt_is_the_same_whether_its_files_are_in_it_or_beside_it(http: Http):
    same = {"Idempotency_Key": "k"}
    _, first, _ = await send(http, request(), file(2), END, **same)
    inside: dict[str, Any] = {"agent": "reader", "attachments": [{"name": "a.txt", "data": "eHg="}]}
    assert (await http.prompt("files", **inside, **same))[1]["id"] == first["id"]
    assert (await send(http, request(), file(3), END, **same))[0] == 409


async def test_files_in_it_and_beside_it_count_together(http: Http):
    inside: dict[str, Any] = {"attachments": [{"name": "i", "data": "eHg="}]}
    status, run, _ = await send(http, request(**inside), file(1, "b"), END)
    assert (status, [each[0] for each in run["result"]["files"]]) == (200, ["i", "b"])
    inside = {"attachments": [{"name": "i", "data": "eHg="}] * 32}
    assert (await send(http, request(**inside), file(1), END))[0] == 413


@pytest.mark.parametrize(
    "parts",
    [
        [request(), file(5001), END],
        [request(), file(4001), file(4000), END],
        [request("x" * 2000), END],
        [request("x" * 2000), file(1), END],
        [request(), *[file(1)] * 33, END],
        [file(20_000)],  # it is refused before its end
        [request("x" * 100_000)],
    ],
)
async def test_what_is_too_large_is_a_413(http: Http, parts: list[bytes]):
    status, problem, _ = await send(http, *parts)
    assert (status, problem["type"]) == (413, "urn:agentray:problem:too-large"), problem


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([file(1), END], "request"),
        ([END], "request"),
        ([request(), request(), END], "request"),
        ([request(), file(1, "a/b"), END], "attachments.0.name"),
        ([request(), file(1), file(1, ""), END], "attachments.1.name"),
        ([request(), file(1, "a", "png"), END], "attachments.0.media_type"),
        ([request(), part('name="attachments"', "x"), END], "attachments.0"),
        ([request(), part('name="other"', "x"), END], "other"),
        ([request(), part("nothing", "x"), END], "name"),
        ([request(agnt="x"), END], "agnt"),
    ],
)
async def test_a_wrong_part_is_named(http: Http, parts: list[bytes], field: str):
    status, problem, _ = await send(http, *parts)
    assert status == 422, problem
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("parts", "content_type"),
    [
        ([request(), file(1)], None),  # the last boundary is missing
        ([request(), file(1)[:-4]], None),
        ([b"nothing of the kind"], None),
        ([b""], None),
        ([request(), END], "multipart/form-data"),
        ([request(), END], f"multipart/form-data; boundary={'b' * 71}"),
        ([part('name="request"', "{no json"), END], None),
        ([b"--" + BOUNDARY.encode() + b"\r\n: x\r\n\r\n", END], None),
        ([part(f'name="request"; x="{"x" * 5000}"', "{}"), END], None),
        ([f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 9 + b"\r\n\r\n", END], None),
    ],
)
async def test_what_cannot_be_read_is_a_400(
    http: Http, parts: list[bytes], content_type: str | None
):
    status, problem, _ = await send(http, *parts, content_type=content_type)
    assert (status, problem["type"]) == (400, "urn:agentray:problem:malformed-request"), problem


async def test_aiohttps_own_forms_are_read(http: Http):
    form = aiohttp.FormData()
    told = json.dumps({"prompt": "files", "agent": "reader"})
    form.add_field("request", told, content_type="application/json")
    form.add_field("attachments", b"abc", filename="a.bin")
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{http.url}/v1/prompts"
    async with http.session.post(url, data=form, headers=headers) as answer:
        assert (await answer.json())["result"]["files"][0][2] == b"abc".hex()


async def test_both_clients_send_files_as_they_are(system: LocalGateways):
    whole = bytes(range(256)) * 16
    files = [
        Attachment(name='one "two" é.png', media_type="image/png", data=whole),
        Attachment(name="x.png", media_type="application/octet-stream", data=b"\r\n--\r\n"),
    ]
    expected = [[each.name, each.media_type, each.data.hex()] for each in files]
    async with system.client() as client:
        run = await client.prompt("files", "reader", attachments=files)
        assert run.result["files"] == expected
        streamed = [e async for e in client.stream("files", "reader", attachments=files)]
        assert streamed[-1].kind == "succeeded"
        with pytest.raises(PayloadTooLarge):
            await client.prompt("x", "reader", attachments=[Attachment(name="b", data=b"x" * 5001)])

    def blocking() -> Any:
        with AgentClient(system.replicas[0].url, KEY) as client:
            return client.prompt("files", "reader", attachments=files)

    assert (await asyncio.to_thread(blocking)).result["files"] == expected
