"""What the clients ask and how they read the answers: values only, no I/O."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentray.client import errors
from agentray.client.access import Access
from agentray.client.calls import health, http
from agentray.client.calls import runs as calls
from agentray.client.calls.http import Request, Response
from agentray.client.streams import ServerEvent, SseParser
from agentray.client.transport import Transport
from agentray.errors import ClusterNotRunning, ConfigurationError
from agentray.protocol.cursors import Cursor
from agentray.protocol.runs import RunStatus

RUN = {
    "id": "run_1",
    "status": "succeeded",
    "agent": "greeter/ada",
    "result": 7,
    "correlation_id": "run_1",
    "created_at": "2026-01-15T10:00:00Z",
}


def answer(status: int, content: object = None, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, json.dumps(content).encode())


# Requests


def test_a_prompt_carries_only_what_was_given():
    request = calls.prompt("Hi", None, {}, idempotency_key="k")
    assert (request.method, request.path) == ("POST", "/v1/prompts")
    assert json.loads(request.body or b"") == {"prompt": "Hi", "stream": False}
    assert request.headers["Idempotency-Key"] == "k"


def test_a_prompt_with_everything():
    request = calls.prompt(
        "Hi", "a/b", {"max_attempts": 3}, idempotency_key="k", wait_s=0, stream=True
    )
    assert json.loads(request.body or b"") == {
        "prompt": "Hi",
        "agent": "a/b",
        "wait_s": 0,
        "stream": True,
        "max_attempts": 3,
    }


def test_an_option_that_there_is_not_is_said_at_the_call():
    wrong: Any = {"timeout_s": 3}
    with pytest.raises(TypeError, match="timeout_s"):
        calls.prompt("Hi", None, wrong, idempotency_key="k")


def test_ids_cannot_leave_their_place_in_the_path():
    assert calls.get_run("../keys?x=1").path == "/v1/runs/..%2Fkeys%3Fx%3D1"
    assert calls.get_run("..").path == "/v1/runs/%2E%2E"


def test_a_wait_goes_into_the_query_only_when_there_is_one():
    assert calls.get_run("run_1").query == {}
    assert calls.get_run("run_1", 2.5).query == {"wait_s": "2.500"}


def test_filters_go_into_the_query():
    request = calls.list_runs(5, "run_9", RunStatus.FAILED, "greeter")
    assert request.query == {
        "limit": "5",
        "before": "run_9",
        "status": "failed",
        "agent": "greeter",
    }
    assert calls.list_runs(5, None, None, None).query == {"limit": "5"}


def test_events_resume_with_the_header_of_the_standard():
    assert "Last-Event-ID" not in calls.get_events("run_1", Cursor()).headers
    assert calls.get_events("run_1", Cursor(7, 1)).headers["Last-Event-ID"] == "7.1"


# Answers


def test_runs_are_read():
    assert calls.parse_run(answer(200, RUN)).result == 7
    assert calls.parse_run(answer(202, RUN)).id == "run_1"
    page = calls.parse_page(answer(200, {"runs": [RUN], "next": "run_1"}))
    assert ([run.id for run in page.runs], page.next) == (["run_1"], "run_1")
    page = calls.parse_trace(answer(200, {"spans": []}))
    assert (list(page.spans), page.more) == ([], False)


def test_the_run_of_a_stream_is_named_by_its_location():
    assert calls.run_id_of(answer(200, location="/v1/runs/run_1")) == "run_1"
    with pytest.raises(errors.ClientError):
        calls.run_id_of(answer(200))
    # A proxy that puts a path before the gateway's may change it here, too.
    assert calls.run_id_of(answer(200, location="/agents/v1/runs/run_1")) == "run_1"


def test_what_is_missing_before_the_gateway_is_ready():
    assert health.missing_parts(answer(200, {"status": "ready"})) == []
    assert health.missing_parts(answer(503, {"missing": ["a host"]})) == ["a host"]
    with pytest.raises(errors.Unavailable):
        health.missing_parts(answer(503, {}))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.PayloadTooLarge),
        (418, errors.ClientError),
        (422, errors.InvalidRequest),
        (429, errors.TooManyRequests),
        (500, errors.ServerError),
        (501, errors.NotSupported),
        (502, errors.ServerError),
        (503, errors.Unavailable),
    ],
)
def test_each_status_has_its_error(status: int, expected: type[errors.ClientError]):
    problem = {"title": "T", "detail": "D", "status": status}
    with pytest.raises(errors.ClientError) as caught:
        calls.parse_run(answer(status, problem))
    assert type(caught.value) is expected
    assert str(caught.value) == "T: D"
    assert (caught.value.status_code, caught.value.problem) == (status, problem)


def test_the_patience_of_a_proxy_is_a_timeout():
    error = http.error_of(Response(408, {}, b"<html>"))
    assert (type(error), error.status_code) == (errors.TimedOut, 408)


def test_errors_carry_what_the_problem_says():
    fields = [{"field": "prompt", "location": "body", "message": "Field required"}]
    invalid = http.error_of(answer(422, {"errors": fields}))
    assert isinstance(invalid, errors.InvalidRequest)
    assert invalid.errors == fields
    conflict = http.error_of(answer(409, {"run_id": "run_1"}))
    assert isinstance(conflict, errors.Conflict)
    assert conflict.run_id == "run_1"


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"\xff", b"[1]", b""])
def test_a_proxys_error_page_is_an_error_by_its_status(body: bytes):
    error = http.error_of(Response(502, {}, body))
    assert (type(error), error.title) == (errors.ServerError, "HTTP status 502")


@pytest.mark.parametrize("body", [b"<html>Login</html>", b"{}", b'{"id": 1}'])
def test_an_answer_that_no_gateway_gives_is_an_error(body: bytes):
    with pytest.raises(errors.ClientError, match="not what an agentray gateway says"):
        calls.parse_run(Response(200, {}, body))


def test_errors_survive_pickling():
    error = http.error_of(answer(429, {"title": "T"}, retry_after="3"))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.__dict__) == (type(error), error.__dict__)
    failed = pickle.loads(pickle.dumps(errors.ConnectionFailed("refused")))
    assert (failed.status_code, failed.detail) == (503, "refused")


# Repeats


def test_what_may_have_happened_is_not_repeated_unless_that_does_no_harm():
    unsafe = Request("POST", "/v1/keys")
    with_key = Request("POST", "/v1/prompts", headers={"Idempotency-Key": "k"})
    harmless = Request("POST", "/v1/runs/run_1/cancel", harmless=True)
    assert [r.repeatable for r in (unsafe, with_key, harmless)] == [False, True, True]
    assert all(Request(m, "/v1/runs").repeatable for m in ("GET", "PUT", "DELETE"))

    def pause(error: errors.ClientError) -> float | None:
        return http.pause_before_retry(error, 1, repeatable=False)

    # The connection broke, it took too long, or a proxy lost its gateway: who knows.
    assert pause(errors.ConnectionFailed("reset")) is None
    assert pause(errors.TimedOut("30 s")) is None
    assert pause(http.error_of(Response(502, {}, b"<html>"))) is None
    assert pause(http.error_of(Response(503, {}, b"<html>"))) is None
    # It never left, or the gateway says itself that it has not begun.
    assert pause(errors.ConnectionFailed("refused", sent=False)) is not None
    assert pause(http.error_of(answer(503, {"title": "T"}))) is not None
    assert pause(http.error_of(answer(429, {"title": "T"}, retry_after="1"))) is not None
    # Without a time it means no: waiting would not change it.
    assert pause(http.error_of(answer(429, {"title": "T"}))) is None


def test_only_passing_trouble_is_tried_again():
    for status in (400, 401, 403, 404, 409, 413, 422, 500, 502):
        told = http.error_of(answer(status, {"title": "T"}))
        assert http.pause_before_retry(told, 1) is None


@pytest.mark.parametrize("status", [500, 502, 504])
def test_what_a_proxy_says_that_lost_its_gateway_is_passing_trouble(status: int):
    error = http.error_of(Response(status, {}, b"Internal Server Error"))
    assert http.pause_before_retry(error, 1) is not None


def test_the_gateway_says_when_to_come_back():
    for status in (429, 503):
        pause_s = http.pause_before_retry(http.error_of(answer(status, retry_after="7")), 1)
        assert pause_s == 7


@given(st.integers(1, 60))
def test_pauses_grow_to_a_limit(attempt: int):
    pause_s = http.pause_before_retry(errors.ConnectionFailed("refused"), attempt)
    assert pause_s is not None
    assert 0.05 <= pause_s <= 2.0


def test_a_date_in_retry_after_leaves_the_pause_to_us():
    error = http.error_of(answer(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"))
    assert error.retry_after_s is None


# Streams


def events_of(*chunks: bytes) -> list[ServerEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_events_are_read():
    text = b": hello\n\nid: 0\nevent: started\ndata: {}\n\nid:1\ndata: a\ndata:  b\nretry: 5\n\n"
    assert events_of(text) == [
        ServerEvent("0", "started", "{}"),
        ServerEvent("1", "message", "a\n b"),
    ]


def test_an_event_that_breaks_off_is_none():
    assert events_of(b"id: 0\ndata: half") == []


@given(st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_are_the_same_wherever_the_bytes_are_cut(data: st.DataObject, newline: str):
    text = "id: 0\nevent: chunk\ndata: grüße 🌍\n\n: keepalive\n\nid: 1\ndata: a\ndata: b\n\n"
    raw = text.replace("\n", newline).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    # What follows shows that the end of the last event was seen, also when it ends with a CR.
    assert events_of(*chunks, b": end\n") == [
        ServerEvent("0", "chunk", "grüße 🌍"),
        ServerEvent("1", "message", "a\nb"),
    ]


# Where the gateway is


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AGENTRAY_URL", "AGENTRAY_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTRAY_HOME", str(tmp_path))
    return tmp_path


def test_what_is_given_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGENTRAY_URL", "http://from.env")
    monkeypatch.setenv("AGENTRAY_API_KEY", "env-key")
    (home / "api_key").write_text("file-key\n")
    assert Access.find("https://given/", "given-key") == Access("https://given", "given-key")
    assert Access.find() == Access("http://from.env", "env-key")
    monkeypatch.delenv("AGENTRAY_API_KEY")
    assert Access.find() == Access("http://from.env", "file-key")


def test_without_a_url_and_a_cluster_there_is_no_client(home: Path):
    assert not list(home.iterdir())
    with pytest.raises(ClusterNotRunning):
        Access.find()


def test_a_url_has_a_scheme():
    with pytest.raises(ConfigurationError):
        Access.find("localhost:8000", "k")


def test_secrets_are_not_shown():
    assert "secret" not in repr(Access("http://gateway", "secret", "secret"))


@pytest.mark.parametrize("url", ["http://g/a", "http://g/a/", "http://g/a/v1", "http://g/a/v1/"])
def test_a_url_may_have_a_path_before_the_gateways_own(url: str):
    assert Access.find(url, "k").url == "http://g/a"


def test_who_asks_is_said_in_headers(home: Path):
    assert Access.find("http://g").headers() == {}
    assert Access.find("http://g", "k", user_token="ada", tenant="acme").headers() == {
        "Authorization": "Bearer k",
        "SYNAPSE-User": "Token ada",
        "SYNAPSE-Tenant": "Token acme",
    }
    assert home.exists()


@pytest.mark.parametrize(
    "wrong", [{"api_key": "a\nb"}, {"user_token": "a\r\nX: 1"}, {"tenant": "a b"}]
)
def test_what_no_header_can_have_is_said_at_once(wrong: dict[str, str]):
    with pytest.raises(ConfigurationError):
        Access.find("http://g", **wrong)


# How to get there


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for each in (name, name.upper()):
            monkeypatch.delenv(each, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gateway:8000", "http://plain:1"),
        ("https://gateway", "http://secure:2"),
        ("http://inside.example", None),
        ("http://127.0.0.1:8000", None),
        ("http://[::1]:8000", None),
        ("http://localhost:8000", None),
    ],
)
def test_the_environments_proxies(environment: pytest.MonkeyPatch, url: str, expected: str | None):
    assert Transport.read(url).proxy is None
    environment.setenv("http_proxy", "http://plain:1")
    environment.setenv("HTTPS_PROXY", "http://secure:2")
    environment.setenv("no_proxy", ".example")
    assert Transport.read(url).proxy == expected
    assert Transport.read(url, proxy="http://given:3").proxy == "http://given:3"


def test_timeouts():
    assert Transport.read("http://g").total_s == 30
    assert Transport.read("http://g", 2.5).total_s == 2.5
    way = Transport.read("http://g", {"connect": 3, "read": 10})
    assert (way.total_s, way.connect_s, way.read_s) == (30, 3, 10)
    assert Transport.read("http://g", {"total": 5}).total_s == 5


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), {"connects": 3}, {"read": 0}])
def test_a_wrong_timeout_is_said_at_once(wrong: Any):
    with pytest.raises(ConfigurationError):
        Transport.read("http://g", wrong)


def test_certificates_that_cannot_be_read_are_said_at_once(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"missing\.pem"):
        Transport.read("https://g", ca=tmp_path / "missing.pem")
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"none\.pem"):
        Transport.read("https://g", ca=tmp_path / "none.pem")
    with pytest.raises(ConfigurationError):
        Transport.read("https://g", proxy="socks5://p")
