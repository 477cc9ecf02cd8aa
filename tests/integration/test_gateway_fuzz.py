"""Whatever a caller sends, the gateway answers as its document says, and never with a 500."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from agentray.gateway.openapi import TAGS
from agentray.gateway.slashes import BothForms
from tests.support.gateway import KEY, BreakableStore, Gateway

Json = dict[str, Any]

NASTY = [
    "", " ", "x", "0", "-1", "null", "run_", "run_1", "run_019a8c0d4e5f0123456789abcdef", "wh_1",
    "a/b", "..", "../../etc/passwd", "%00", "\0", "ü", "😀", "\u202e", "A" * 300, "' OR 1=1 --",
    "1e400", "NaN", "9" * 40, "true", "greeter", "greeter/a", "{}", "[]", "\\", "a\nb",
    "2026-01-15",
]  # fmt: skip

values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([*NASTY, None, True, False, 0, -1, 1, 0.5, 1e308, 10**30, "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NASTY), inner, max_size=3)
    ),
    max_leaves=6,
)
headers = st.dictionaries(
    st.sampled_from(
        ["idempotency-key", "last-event-id", "traceparent", "accept", "content-type",
         "content-length", "x-forwarded-for", "synapse-tenant", "synapse-user", "origin", "expect"]
    ),
    st.sampled_from(
        ["", "x", "-1", "0", "7.1", "a" * 300, "ü", "\0", "text/event-stream", "*/*",
         "application/json",
         f"00-{'4b' * 16}-{'b7' * 8}-01", "acme", "multipart/form-data"]
    ),
    max_size=3,
)  # fmt: skip


def operations(document: Json) -> list[tuple[str, str, Json]]:
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post", "put", "patch", "delete"}
    ]


def resolved(document: Json, schema: Json) -> Json:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def example_of(document: Json, operation: Json) -> Json:
    """Return a body that the document says is right, or what is nearest to it."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return {}
    examples: list[Any] = resolved(document, content["schema"]).get("examples", [])
    found: Any = content.get("example") or (examples[0] if examples else None)
    return {**found} if found else {}


def fields_of(document: Json, operation: Json) -> list[str]:
    """Return the names of the fields of an operation's body."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return []
    return list(resolved(document, content["schema"]).get("properties", {}))


class Asked:
    """What was answered in this process, without a socket."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def send(self, message: Json) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode("latin-1") for k, v in message["headers"]}
        else:
            self.body += message.get("body", b"")


async def ask(app: Any, method: str, path: str, query: str, sent: Json, body: bytes) -> Asked:
    asked = Asked()
    came = asyncio.Event()

    async def receive() -> Json:
        if came.is_set():
            await asyncio.Event().wait()
        came.set()
        return {"type": "http.request", "body": body, "more_body": False}

    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]
    scope: Json = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": quote(path).encode(), "root_path": "",
        "query_string": query.encode(), "headers": raw, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "state": {}, "extensions": {},
    }  # fmt: skip
    async with asyncio.timeout(60):
        await app(scope, receive, asked.send)
    return asked


OTHER_FORMS = ("/v1/models", "/v1/chat", "/v1/responses", "/repo/", "/v1/completions")
"""Routes that answer in the form of another system."""

OPENAI = tuple(path for path in OTHER_FORMS if path != "/repo/")

LAX = (*OTHER_FORMS, "/v1/jobs", "/v1/resources")
"""Routes on which the clients of other systems may write numbers as they do there."""


_UNCHECKED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


class Bench:
    """One gateway for all examples, on a loop that goes on between them."""

    def __init__(self, home: Path) -> None:
        self.runner = asyncio.Runner()
        self.gateway = Gateway(BreakableStore(), home, max_wait_s=0.05, max_body_bytes=4096)
        self.runner.run(self.gateway.prepare())
        self.document = self.gateway.app.openapi()
        self.operations = operations(self.document)

    def ask(self, *request: Any) -> Asked:
        return self.runner.run(ask(self.gateway.app, *request))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Generator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("fuzz"))
    yield bench
    bench.runner.close()


@settings(max_examples=400, deadline=None, suppress_health_check=_UNCHECKED)
@given(data=st.data())
def test_a_caller_s_mistake_is_never_a_500(bench: Bench, data: st.DataObject):
    method, path, operation = data.draw(st.sampled_from(bench.operations))
    parameters = operation.get("parameters", [])
    filled = path
    for name in [each["name"] for each in parameters if each["in"] == "path"]:
        filled = filled.replace(f"{{{name}}}", data.draw(st.sampled_from(NASTY)) or "x")
    names = [each["name"] for each in parameters if each["in"] == "query"]
    query = data.draw(
        st.dictionaries(st.sampled_from([*names, "x"]), st.sampled_from(NASTY), max_size=3)
    )
    asked_for = "&".join(f"{quote(k)}={quote(v)}" for k, v in query.items())
    body: Any = example_of(bench.document, operation)
    for _ in range(data.draw(st.integers(0, 2))):
        fields = fields_of(bench.document, operation)
        body = {**body, data.draw(st.sampled_from([*fields, "x", *body])): data.draw(values)}
    encoded = data.draw(
        st.just(json.dumps(body).encode())
        | values.map(lambda value: json.dumps(value).encode())
        | st.sampled_from([b"", b"{", b"\xff\xfe", b"null", b"[" * 5000, b"x" * 5000])
    )
    sent = {"host": "localhost", "authorization": f"Bearer {KEY}", **data.draw(headers)}

    told = bench.ask(method, filled, asked_for, sent, encoded)

    about = (method, filled, asked_for, sent, encoded[:200], told.status, told.body[:300])
    assert told.status < 500 or told.status == 503, about
    if told.status >= 400 and not filled.startswith(OTHER_FORMS):
        assert told.headers["content-type"] == "application/problem+json", about
    if not filled.startswith(OPENAI):
        declared = {int(status) for status in operation["responses"]}
        assert told.status in declared | {404, 405}, about


def test_every_route_answers_with_and_without_a_slash_at_its_end(bench: Bench):
    sent = {"host": "localhost", "authorization": f"Bearer {KEY}"}
    for method, path, _ in bench.operations:
        filled = re.sub(r"\{\w+\}", "none", path)
        plain = bench.ask(method, filled, "", sent, b"{}")
        slashed = bench.ask(method, f"{filled}/", "", sent, b"{}")
        about = (method, filled, plain.status, plain.body[:300], slashed.status, slashed.body[:300])
        assert "location" not in slashed.headers or slashed.status < 300, about
        assert slashed.status == plain.status, about
        assert f"There is no {path}".encode() not in slashed.body, about
        if plain.status >= 400:
            assert slashed.body == plain.body, about
    assert b"There is no /v1/keys//" in bench.ask("GET", "/v1/keys//x", "", sent, b"").body
    assert b"There is no /." in bench.ask("GET", "/", "", sent, b"").body


async def test_a_slash_that_is_part_of_a_name_stays():
    seen: list[tuple[str, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append((scope["path"], scope["raw_path"]))

    async def nothing(*_: Any) -> Any:
        return None

    for path, raw in (("/v1/x/a/", b"/v1/x/a%2F"), ("/v1/x/", b"/v1/x/"), ("/", b"/")):
        await BothForms(app)({"type": "http", "path": path, "raw_path": raw}, nothing, nothing)
    assert seen == [("/v1/x/a/", b"/v1/x/a%2F"), ("/v1/x", b"/v1/x"), ("/", b"/")]


def test_the_document_says_everything(tmp_path: Path):
    gateway = Gateway(BreakableStore(), tmp_path)
    document = gateway.app.openapi()
    tags = {tag["name"] for tag in TAGS}
    ids: set[str] = set()
    for method, path, operation in operations(document):
        about = f"{method} {path}"
        assert operation.get("summary"), about
        assert operation.get("tags"), about
        assert set(operation["tags"]) <= tags, about
        assert operation["operationId"] not in ids, about
        ids.add(operation["operationId"])
        responses = operation["responses"]
        assert any(status.startswith("2") for status in responses), about
        for status, response in responses.items():
            assert response.get("description"), (about, status)
            if status[0] == "2" and status != "204" and not path.startswith(OTHER_FORMS):
                assert response.get("content"), (about, status)
            if path.startswith("/repo/"):
                shown = response["content"]["application/json"]["example"]
                assert shown.keys() == {"concreteType", "reason"} or status[0] == "2", about
            if status[0] in "45" and not path.startswith(OTHER_FORMS):
                problem = response["content"]["application/problem+json"]
                assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}, (
                    about,
                    status,
                )
                assert problem["example"]["status"] == int(status), (about, status)
        if path.startswith("/v1/") and not path.startswith(OTHER_FORMS):
            assert {"401", "403", "421", "429", "500", "503"} <= responses.keys(), about
        if path.startswith(OPENAI):
            continue
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schema = resolved(document, content["schema"])
            shown = content.get("example") or content.get("examples") or schema.get("examples")
            assert shown or not schema.get("required"), about
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def kinds_of(schema: Json) -> set[str]:
    """Return the JSON types that a field may have."""
    return {each.get("type", "") for each in [schema, *schema.get("anyOf", [])]}


def test_a_number_is_no_text_and_true_is_no_number(bench: Bench):
    document = bench.gateway.app.openapi()
    sent = {"host": "localhost", "authorization": f"Bearer {KEY}"}
    tried: set[str] = set()
    for method, path, operation in bench.operations:
        example = example_of(document, operation)
        if not example or "{" in path or path.startswith(LAX):
            continue
        content = operation["requestBody"]["content"]["application/json"]
        fields = resolved(document, content["schema"])["properties"]
        for name, schema in fields.items():
            if not kinds_of(schema) & {"number", "integer"}:
                continue
            for wrong in ("5", True):
                body = json.dumps({**example, name: wrong}).encode()
                told = bench.ask(method, path, "", sent, body)
                assert told.status == 422, (path, name, wrong, told.body)
                named = [each["field"] for each in json.loads(told.body)["errors"]]
                assert name in [field.partition(".")[0] for field in named], named
            tried.add(f"{path} {name}")
    assert {"/v1/sessions ttl_s", "/v1/prompts timeout_s", "/v1/prompts max_attempts"} <= tried


def references(value: Any) -> set[str]:
    """Return what a part of the document refers to."""
    return set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(value)))
