"""Webhooks: real receivers on loopback, real gateways, agents on local hosts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from agentray import Agent, App, Prompt, on
from agentray.protocol.webhooks import WebhookSpec, WebhookState
from tests.integration.test_cli_http import run_command
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, Http, api_key
from tests.support.local_gateway import LocalGateways, Replica, local_gateways

LOOPBACK = ["127.0.0.1/32"]
Json = dict[str, Any]
gates: dict[str, asyncio.Event] = {}


class Greeter(Agent):
    @on(Prompt)
    async def greet(self, prompt: Prompt) -> str:
        if prompt.text in gates:
            await gates[prompt.text].wait()
        if prompt.text == "fail":
            raise ValueError("no")
        return f"Hello, {prompt.text}!"


app = App("greeting", [Greeter])


class Got(NamedTuple):
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Json:
        return json.loads(self.body)

    def is_signed_by(self, secret: str) -> bool:
        """Check the signature as Standard Webhooks says, with nothing of agentray's."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode()
        expected = base64.b64encode(hmac.digest(key, signed + self.body, hashlib.sha256)).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


class Receiver:
    """Takes webhooks; `answer` says what to say to the next ones."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answer: Callable[[web.Request], web.StreamResponse] = lambda _: web.Response(
            status=204
        )
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Got(headers, await request.read()))
        return self.answer(request)

    async def until(self, number: int) -> list[Got]:
        async def enough() -> bool:
            return len(self.got) >= number

        await eventually_async(enough)
        return self.got


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


class Bench:
    def __init__(self, gateways: LocalGateways, receiver: Receiver, http: Http) -> None:
        self.gateways = gateways
        self.receiver = receiver
        self.http = http

    async def secret(self, **more: Any) -> str:
        status, made, headers = await self.http.ask("POST", "/v1/webhook-secrets", **more)
        assert (status, headers["cache-control"]) == (201, "no-store")
        return made["secret"]

    async def prompt(self, text: str = "Ada", url: str = "", **more: Any) -> Json:
        hook = {"url": url or self.receiver.url, **more}
        status, run, _ = await self.http.prompt(text, agent="greeter/a", webhook=hook)
        assert status == 200, run
        return run

    async def webhook(self, run: Json, state: str) -> Json:
        """Return the webhook of a run as soon as it is in a state."""

        async def found() -> Json | None:
            status, page = await self.http.get(f"/v1/webhooks?run_id={run['id']}&state={state}")
            assert status == 200
            return page["webhooks"][0] if page["webhooks"] else None

        webhook = await eventually_async(found)
        assert webhook is not None
        return webhook


@asynccontextmanager
async def bench(tmp_path: Path, **settings: Any) -> AsyncGenerator[Bench]:
    settings = {"webhook_networks": LOOPBACK, **settings}
    async with (
        receiving() as receiver,
        local_gateways(app, home=tmp_path, hosts=1, **settings) as gateways,
        aiohttp.ClientSession() as session,
    ):
        yield Bench(gateways, receiver, Http(gateways.replicas[0].url, session))


@pytest.fixture(autouse=True)
def _gates() -> None:
    gates.clear()


async def test_the_end_of_a_run_is_told_signed(tmp_path: Path):
    async with bench(tmp_path) as at:
        secret = await at.secret()
        run = await at.prompt("Ada")
        (got,) = await at.receiver.until(1)
        assert got.is_signed_by(secret)
        assert got.headers["content-type"] == "application/json"
        assert got.told["type"] == "run.succeeded"
        assert got.told["timestamp"] == got.told["data"]["finished_at"]
        assert got.told["data"] == run
        webhook = await at.webhook(run, "delivered")
        assert (webhook["id"], webhook["attempts"], webhook["last_status"]) == (
            got.headers["webhook-id"], 1, 204,
        )  # fmt: skip
        status, shown = await at.http.get(f"/v1/webhooks/{webhook['id']}")
        assert (status, shown) == (200, webhook)


async def test_each_run_of_a_schedule_is_told_of(tmp_path: Path):
    async with bench(tmp_path) as at:
        body: Json = {
            "id": "hourly",
            "prompt": "Ada",
            "agent": "greeter/a",
            "every_s": 3600,
            "webhook": {"url": at.receiver.url, "events": ["run.succeeded"]},
        }
        for wrong, field in (
            ({}, "webhook.secret"),  # there is none yet
            ({"webhook": {"url": "http://10.0.0.1/"}}, "webhook.url"),
            ({"webhook": {"url": "no url"}}, "webhook.url"),
        ):
            status, problem, _ = await at.http.ask("POST", "/v1/schedules", body={**body, **wrong})
            assert (status, [e["field"] for e in problem["errors"]]) == (422, [field])
        secret = await at.secret()
        status, made, _ = await at.http.ask("POST", "/v1/schedules", body=body)
        assert (status, made["spec"]["webhook"]["url"]) == (201, at.receiver.url)
        status, _, _ = await at.http.ask("POST", "/v1/schedules", body=body)
        assert status == 200, "it says the same"
        status, run, _ = await at.http.ask("POST", "/v1/schedules/hourly/trigger")
        assert status == 202
        (got,) = await at.receiver.until(1)
        assert got.is_signed_by(secret)
        assert (got.told["type"], got.told["data"]["id"]) == ("run.succeeded", run["id"])
        await at.webhook(run, "delivered")


async def test_only_the_ends_that_are_wanted_are_told(tmp_path: Path):
    async with bench(tmp_path) as at:
        await at.secret()
        await at.prompt("Ada", events=["run.failed"])
        failed = await at.prompt("fail", events=["run.failed"])
        (got,) = await at.receiver.until(1)
        assert (got.told["type"], got.told["data"]["id"]) == ("run.failed", failed["id"])
        await at.webhook(failed, "delivered")
        _, page = await at.http.get("/v1/webhooks")
        assert [w["run_id"] for w in page["webhooks"]] == [failed["id"]]


async def test_what_does_not_arrive_is_sent_again_with_the_same_id(tmp_path: Path):
    async with bench(tmp_path) as at:
        secret = await at.secret()
        at.receiver.answer = lambda _: web.Response(status=503)
        run = await at.prompt()
        await at.receiver.until(1)
        pending = await eventually_async(lambda: tried(at, run, 1))
        assert (pending["last_status"], pending["state"]) == (503, "pending")
        assert "503" in pending["last_error"]
        at.receiver.answer = lambda _: web.Response(status=200)
        status, again, _ = await at.http.ask("POST", f"/v1/webhooks/{pending['id']}/resend")
        assert (status, again["state"]) == (202, "pending")
        first, second = await at.receiver.until(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert second.is_signed_by(secret)
        assert first.body == second.body
        assert (await at.webhook(run, "delivered"))["attempts"] == 2


async def tried(at: Bench, run: Json, attempts: int) -> Json:
    """Return the webhook of a run when what so many tries came to is known."""
    _, page = await at.http.get(f"/v1/webhooks?run_id={run['id']}")
    found = page["webhooks"]
    return found[0] if found and found[0]["last_error"] and found[0]["attempts"] == attempts else {}


@pytest.mark.parametrize("answer", [503, 410])
async def test_one_that_is_given_up_is_dead_until_it_is_sent_again(tmp_path: Path, answer: int):
    async with bench(tmp_path, webhook_attempts=10 if answer == 410 else 1) as at:
        await at.secret()
        at.receiver.answer = lambda _: web.Response(status=answer)
        run = await at.prompt()
        dead = await at.webhook(run, "dead")
        assert (dead["last_status"], dead["due_at"]) == (answer, None)
        assert dead["finished_at"]
        at.receiver.answer = lambda _: web.Response(status=200)
        await at.http.ask("POST", f"/v1/webhooks/{dead['id']}/resend")
        await at.webhook(run, "delivered")


async def test_a_replaced_secret_signs_besides(tmp_path: Path):
    async with bench(tmp_path) as at:
        old, new = await at.secret(), await at.secret(body={})
        await at.prompt()
        (got,) = await at.receiver.until(1)
        assert got.is_signed_by(old)
        assert got.is_signed_by(new)
        status, listed = await at.http.get("/v1/webhook-secrets")
        assert status == 200
        assert [s["name"] for s in listed["secrets"]] == ["default"]
        assert "secret" not in listed["secrets"][0]


async def test_two_replicas_send_each_once(tmp_path: Path):
    async with (
        receiving() as receiver,
        local_gateways(
            app, home=tmp_path, hosts=1, replicas=2, webhook_networks=LOOPBACK
        ) as gateways,
        aiohttp.ClientSession() as session,
    ):
        benches = [Bench(gateways, receiver, Http(r.url, session)) for r in gateways.replicas]
        await benches[0].secret()
        runs = await asyncio.gather(*(benches[n % 2].prompt(f"nr {n}") for n in range(20)))
        for run in runs:
            await benches[0].webhook(run, "delivered")
        assert Counter(got.told["data"]["id"] for got in receiver.got) == Counter(
            run["id"] for run in runs
        )


async def test_what_ends_while_no_gateway_is_up_is_told_by_the_next_one(tmp_path: Path):
    gates["later"] = asyncio.Event()
    async with bench(tmp_path) as at:
        await at.secret()
        hook = {"url": at.receiver.url}
        status, run, _ = await at.http.prompt("later", agent="greeter/a", wait_s=0, webhook=hook)
        assert status == 202
        first = at.gateways.replicas[0]
        await first.stop()
        gates["later"].set()
        store = at.gateways.runtime.store

        async def over() -> bool:
            stored = await store.get_run(run["id"])
            return stored is not None and stored.run.finished_at is not None

        await eventually_async(over)
        assert at.receiver.got == []
        second = Replica(first.services)
        await second.start()
        (got,) = await at.receiver.until(1)
        assert got.told["data"]["id"] == run["id"]
        await second.stop()


async def test_addresses_that_are_not_public_are_refused_wherever_they_show(tmp_path: Path):
    """In the URL, behind a name, in another notation, and behind a redirect."""
    async with bench(tmp_path) as at:
        await at.secret()
        port = at.receiver.url.rpartition(":")[2]
        for url in (
            "http://127.0.0.2/",
            "https://[::1]/",
            "https://169.254.169.254/",
            "http://8.8.8.8",
        ):
            status, problem, _ = await at.http.prompt("Ada", webhook={"url": url})
            assert (status, problem["errors"][0]["field"]) == (422, "webhook.url"), url
        for host in ("2130706434", "0x7f000002", "0177.0.0.2", "127.2"):  # 127.0.0.2
            run = await at.prompt(url=f"http://{host}:{port}")
            assert re.search("not public|no host", (await at.webhook(run, "dead"))["last_error"])
        to = f"http://127.0.0.2:{port}"
        at.receiver.answer = lambda _: web.Response(status=307, headers={"Location": to})
        run = await at.prompt()
        assert "not public" in (await at.webhook(run, "dead"))["last_error"]
        assert len(at.receiver.got) == 1


async def test_without_the_setting_a_name_of_this_machine_is_refused(tmp_path: Path):
    async with bench(tmp_path, webhook_networks=[]) as at:
        await at.secret()
        run = await at.prompt(url="https://localhost:9/hook")
        assert "not public" in (await at.webhook(run, "dead"))["last_error"]
        assert at.receiver.got == []


async def test_redirects_that_keep_the_method_are_followed_a_few_times(tmp_path: Path):
    async with bench(tmp_path) as at:
        await at.secret()

        def once(request: web.Request) -> web.Response:
            if request.path == "/hook":
                return web.Response(status=308, headers={"Location": "/moved"})
            return web.Response(status=200)

        at.receiver.answer = once
        run = await at.prompt()
        await at.webhook(run, "delivered")
        assert at.receiver.got[0].body == at.receiver.got[1].body
        at.receiver.answer = lambda _: web.Response(status=307, headers={"Location": "/hook"})
        endless = await at.prompt("Bob")
        found = await eventually_async(lambda: tried(at, endless, 1))
        assert "more than 3 times" in found["last_error"]
        at.receiver.answer = lambda _: web.Response(status=302, headers={"Location": "/moved"})
        other = await at.prompt("Cid")
        assert (await eventually_async(lambda: tried(at, other, 1)))["last_status"] == 302


async def test_a_repeated_prompt_has_one_webhook(tmp_path: Path):
    async with bench(tmp_path) as at:
        await at.secret()
        hook = {"url": at.receiver.url}
        run: Json = {}
        for _ in range(3):
            status, run, _ = await at.http.prompt(
                "Ada", agent="greeter/a", webhook=hook, Idempotency_Key="k"
            )
            assert status == 200
        await at.webhook(run, "delivered")
        status, _, _ = await at.http.prompt(
            "Ada",
            agent="greeter/a",
            webhook={**hook, "url": hook["url"] + "2"},
            Idempotency_Key="k",
        )
        assert status == 409, "another webhook is another request"
        assert len(at.receiver.got) == 1


async def test_mistakes_name_the_field_and_leave_no_run(tmp_path: Path):
    async with bench(tmp_path) as at:
        wrong: Json = {
            "webhook.secret": {"url": "https://example.com/"},  # there is none
            "webhook.url": {"url": "example.com"},
            "webhook.events.0": {"url": "https://example.com/", "events": ["run.ended"]},
            "webhook.events": {"url": "https://example.com/", "events": []},
            "webhook.more": {"url": "https://example.com/", "more": 1},
            "webhook": "https://example.com/",
        }
        for field, hook in wrong.items():
            status, problem, _ = await at.http.prompt("Ada", webhook=hook)
            assert (status, problem["errors"][0]["field"]) == (422, field)
        _, page = await at.http.get("/v1/runs")
        assert page["runs"] == []
        for path in ("/v1/webhooks/wh_1", "/v1/webhooks/%00"):
            assert (await at.http.get(path))[0] == 404
        status, _, _ = await at.http.ask("DELETE", "/v1/webhook-secrets/none")
        assert status == 404
        status, problem, _ = await at.http.ask("POST", "/v1/webhook-secrets", body={"name": "a b"})
        assert (status, problem["errors"][0]["field"]) == (422, "name")


async def test_another_tenants_webhooks_and_secrets_are_not_there(tmp_path: Path):
    async with bench(tmp_path) as at:
        await at.secret()
        run = await at.prompt()
        webhook = await at.webhook(run, "delivered")
        key = api_key("secret-acme", "admin")
        await at.gateways.runtime.store.put_key(replace(key, tenant="acme"))
        status, problem, _ = await at.http.prompt(
            "Ada", key="secret-acme", webhook={"url": at.receiver.url}
        )
        assert (status, problem["errors"][0]["field"]) == (422, "webhook.secret")
        status, page = await at.http.get("/v1/webhooks", key="secret-acme")
        assert (status, page["webhooks"]) == (200, [])
        for method, rest in (("GET", ""), ("POST", "/resend")):
            path = f"/v1/webhooks/{webhook['id']}{rest}"
            status, _, _ = await at.http.ask(method, path, key="secret-acme")
            assert status == 404
        status, _, _ = await at.http.ask("DELETE", "/v1/webhook-secrets/default", key="secret-acme")
        assert status == 404


async def test_client_and_commands_list_show_and_send_again(tmp_path: Path):
    async with bench(tmp_path, webhook_attempts=1) as at:
        replica = at.gateways.replicas[0]

        async def command(*words: str) -> str:
            told = await asyncio.to_thread(
                run_command, tmp_path, "webhooks", *words, AGENTRAY_URL=replica.url,
                AGENTRAY_API_KEY=KEY,
            )  # fmt: skip
            assert told.exit_code == 0, told
            return told.stdout.strip()

        secret = await command("secrets", "create")
        assert await command("secrets", "list") == "default"
        at.receiver.answer = lambda _: web.Response(status=500)
        async with replica.client() as client:
            spec = WebhookSpec(url=at.receiver.url)
            run = await client.prompt("Ada", "greeter/a", webhook=spec)
            await at.webhook({"id": run.id}, "dead")
            page = await client.webhooks.list(state=WebhookState.DEAD, run_id=run.id)
            (webhook,) = page.webhooks
            assert await client.webhooks.get(webhook.id) == webhook
            listed = json.loads(await command("list", "--state", "dead", "--json"))
            assert listed == {"webhooks": [webhook.model_dump(mode="json")], "next": None}
            assert webhook.id[:8] in await command("list")
            assert json.loads(await command("show", webhook.id))["last_status"] == 500
            at.receiver.answer = lambda _: web.Response(status=200)
            assert await command("resend", webhook.id) == f"{webhook.id}: pending"
            await at.webhook({"id": run.id}, "delivered")
            assert at.receiver.got[-1].is_signed_by(secret)
            made = await client.webhooks.make_secret("billing")
            assert [s.name for s in await client.webhooks.list_secrets()] == ["billing", "default"]
            assert made.secret.startswith("whsec_")
            await client.webhooks.forget_secret("billing")
            assert "forgotten" in await command("secrets", "delete", "default")
