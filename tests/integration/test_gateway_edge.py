"""The gateway behind others: a path prefix, other origins, other names, many streams."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentray.config import Settings
from agentray.errors import ConfigurationError
from agentray.gateway.serve_options import deployment_options
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, BreakableStore, Gateway, Http

ORIGIN = "https://app.example.com"


async def answer(
    tmp_path: Path, method: str, path: str, *, settings: dict[str, Any], **headers: str
) -> tuple[int, dict[str, str], Any]:
    """Ask a gateway with these settings once."""
    gateway = Gateway(BreakableStore(), tmp_path, **settings)
    await gateway.prepare()
    async with gateway.serving(), aiohttp.ClientSession() as session:
        sent = {"Authorization": f"Bearer {KEY}", **headers}
        body = b'{"prompt": "Ada", "wait_s": 0}' if method == "POST" else None
        async with session.request(method, gateway.url + path, headers=sent, data=body) as got:
            told = {name.lower(): value for name, value in got.headers.items()}
            return (
                got.status,
                told,
                await got.json(content_type=None) if method != "OPTIONS" else {},
            )


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize("path", ["/agents/v1/prompts", "/v1/prompts"])
async def test_behind_a_prefix_links_have_it_whether_or_not_the_proxy_takes_it(
    tmp_path: Path, path: str
):
    status, headers, run = await answer(tmp_path, "POST", path, settings={"root_path": "/agents"})
    assert status in {200, 202}
    if status == 202:
        assert headers["location"] == f"/agents/v1/runs/{run['id']}"
    status, _, document = await answer(
        tmp_path, "GET", "/agents/openapi.json", settings={"root_path": "/agents"}
    )
    assert (status, document["servers"]) == (200, [{"url": "/agents"}])


async def test_what_requests_say_of_their_proxy_changes_no_link(tmp_path: Path):
    status, headers, run = await answer(
        tmp_path, "POST", "/v1/prompts", settings={},
        **{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
           "X-Forwarded-Prefix": "/evil", "Forwarded": "host=evil.example;proto=https"},
    )  # fmt: skip
    assert status in {200, 202}
    assert headers.get("location") in {None, f"/v1/runs/{run['id']}"}
    assert "evil" not in str(headers) + str(run)


@pytest.mark.parametrize("path", ["/agentsv1/prompts", "/agents/../x", "/other/v1/prompts"])
async def test_what_only_looks_like_the_prefix_is_not_found(tmp_path: Path, path: str):
    status, _, problem = await answer(tmp_path, "POST", path, settings={"root_path": "/agents"})
    assert (status, problem["status"]) == (404, 404)


async def test_other_origins_may_ask_where_a_setting_says_so(tmp_path: Path):
    wanted = "authorization,idempotency-key,if-match,last-event-id,synapse-tenant"
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    ask["Access-Control-Request-Headers"] = wanted
    status, headers, _ = await answer(tmp_path, "OPTIONS", "/v1/prompts", settings={}, **ask)
    assert (status, headers.get("access-control-allow-origin")) == (405, None), "off by default"
    allowed = {"cors_origins": [ORIGIN]}
    status, headers, _ = await answer(tmp_path, "OPTIONS", "/v1/prompts", settings=allowed, **ask)
    assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
    status, headers, _ = await answer(
        tmp_path, "POST", "/v1/prompts", settings=allowed, Origin=ORIGIN
    )
    assert headers["access-control-allow-origin"] == ORIGIN
    shown = headers["access-control-expose-headers"].lower().split(", ")
    assert {"etag", "link", "location", "retry-after", "x-request-id"} <= set(shown)
    assert "access-control-allow-credentials" not in headers
    other = {**ask, "Origin": "https://evil.example"}
    status, headers, _ = await answer(tmp_path, "OPTIONS", "/v1/prompts", settings=allowed, **other)
    assert (status, headers.get("access-control-allow-origin")) == (400, None)


async def test_further_names_of_a_loopback_gateway_can_be_set(tmp_path: Path):
    settings = {"allowed_hosts": ["agents.example.com"]}
    for name, expected in (("agents.example.com", 200), ("other.example.com", 421)):
        status, _, _ = await answer(tmp_path, "GET", "/v1/runs", settings=settings, Host=name)
        assert status == expected, name


async def test_streams_take_no_place_of_requests_until_there_are_too_many(tmp_path: Path):
    gateway = Gateway(BreakableStore(), tmp_path, gateway_requests=2, gateway_streams=3)
    await gateway.prepare()
    gateway.dispatcher.gate.clear()
    async with gateway.serving(), aiohttp.ClientSession() as session:
        http = Http(gateway.url, session)
        _, run, _ = await http.prompt("Ada", wait_s=0)
        path, headers = (
            f"{gateway.url}/v1/runs/{run['id']}/events",
            {"Authorization": f"Bearer {KEY}"},
        )
        streams = [await session.get(path, headers=headers) for _ in range(5)]
        assert [stream.status for stream in streams] == [200] * 5
        status, problem = await http.get(f"/v1/runs/{run['id']}")
        assert (status, problem["type"]) == (429, "urn:agentray:problem:overloaded")
        streams[-1].close()

        async def free() -> bool:
            return (await http.get(f"/v1/runs/{run['id']}"))[0] == 200

        await eventually_async(free)
        for stream in streams:
            stream.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"root_path": "agents"}, {"root_path": "/agents/"}, {"root_path": "/a b"},
        {"cors_origins": ["app.example.com"]}, {"cors_origins": ["https://app.example.com/"]},
        {"replicas": 3, "max_replicas": 2}, {"allowed_hosts": ["https://x"]},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, Any]):
    with pytest.raises((ValueError, ConfigurationError)):
        Settings(home=tmp_path, **wrong)


def test_lists_come_from_the_environment_divided_by_commas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGENTRAY_CORS_ORIGINS", f"{ORIGIN}, https://b.example:8443")
    monkeypatch.setenv("AGENTRAY_ALLOWED_HOSTS", "a.example,b.example")
    monkeypatch.setenv("AGENTRAY_WEBHOOK_NETWORKS", "10.0.0.0/8, fd00::/8")
    settings = Settings(home=tmp_path)
    assert settings.cors_origins == (ORIGIN, "https://b.example:8443")
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert [str(n) for n in settings.webhook_networks or ()] == ["10.0.0.0/8", "fd00::/8"]


def test_replicas_follow_the_requests_where_there_may_be_more_of_them(tmp_path: Path):
    fixed = deployment_options(Settings(home=tmp_path, replicas=2))
    assert fixed["num_replicas"] == 2
    assert "autoscaling_config" not in fixed
    options = deployment_options(
        Settings(home=tmp_path, replicas=2, max_replicas=5, gateway_target_requests=50)
    )
    assert "num_replicas" not in options
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 5)
    assert scaling["target_ongoing_requests"] == 50
    for told in (
        "max_ongoing_requests", "max_queued_requests",
        "graceful_shutdown_timeout_s", "graceful_shutdown_wait_loop_s", "health_check_period_s",
        "health_check_timeout_s",
    ):  # fmt: skip
        assert told in options, told


async def test_nothing_is_left_of_streams_whose_clients_hung_up(tmp_path: Path):
    gateway = Gateway(BreakableStore(), tmp_path, gateway_streams=50)
    await gateway.prepare()
    gateway.dispatcher.gate.clear()
    async with gateway.serving(), aiohttp.ClientSession() as session:
        http = Http(gateway.url, session)
        _, run, _ = await http.prompt("Ada", wait_s=0)
        path, headers = (
            f"{gateway.url}/v1/runs/{run['id']}/events",
            {"Authorization": f"Bearer {KEY}"},
        )
        for _ in range(3):
            streams = [await session.get(path, headers=headers) for _ in range(40)]
            for stream in streams:
                stream.close()
        await asyncio.sleep(0)
        stream = await session.get(path, headers=headers)
        assert stream.status == 200
        stream.close()
