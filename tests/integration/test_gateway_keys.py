"""API keys over HTTP, and what those of a tenant see."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from agentray.protocol.runs import RunStatus
from agentray.store.base import Effects, RunEnd
from tests.support.gateway import (
    HOST,
    INVOKE_KEY,
    KEY,
    READ_KEY,
    BreakableStore,
    Gateway,
    Http,
    Json,
)


async def make(http: Http, **body: Any) -> Json:
    status, key, headers = await http.ask(
        "POST", "/v1/keys", body={"scopes": ["invoke", "read"], **body}
    )
    assert status == 201
    assert headers["cache-control"] == "no-store"
    assert headers["location"] == f"/v1/keys/{key['id']}"
    return key


async def test_a_key_works_until_it_is_revoked(http: Http):
    key = await make(http, name="shop", scopes=["invoke"])
    assert key["secret"].startswith("ar_")
    assert len(key["secret"]) > 40
    assert (key["name"], key["scopes"], key["tenant"]) == ("shop", ["invoke"], None)
    assert (await http.prompt(key=key["secret"]))[0] == 200
    assert (await http.get("/v1/runs", key=key["secret"]))[0] == 403

    status, revoked, _ = await http.ask("DELETE", f"/v1/keys/{key['id']}")
    assert status == 200
    assert revoked["revoked_at"] is not None
    assert (await http.prompt(key=key["secret"]))[0] == 401
    # Once more changes nothing.
    assert (await http.ask("DELETE", f"/v1/keys/{key['id']}"))[1] == revoked


async def test_the_secret_is_told_once_and_kept_nowhere(
    http: Http, store: BreakableStore, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO):
        key = await make(http, name="shop")
        await http.ask("DELETE", f"/v1/keys/{key['id']}")
    _, listed = await http.get("/v1/keys")
    _, one = await http.get(f"/v1/keys/{key['id']}")
    stored = await store.get_key(key["id"])
    assert one in listed["keys"]
    assert "secret" not in one
    for kept in (str(listed), str(one), repr(stored), *(str(r.__dict__) for r in caplog.records)):
        assert key["secret"] not in kept


async def test_making_and_revoking_keys_is_in_the_log(http: Http, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "agentray.gateway.keys"):
        key = await make(http, tenant="acme")
        for _ in range(2):
            await http.ask("DELETE", f"/v1/keys/{key['id']}")
    told = [r.__dict__ for r in caplog.records]
    assert [t["action"] for t in told] == ["key_created", "key_revoked"]
    for entry in told:
        assert (entry["key"], entry["by"]) == (key["id"], f"key_{KEY}")
        assert (entry["tenant"], entry["scopes"]) == ("acme", ["invoke", "read"])


WRONG: list[Json] = [
    {"scopes": []},
    {"scopes": ["root"]},
    {},
    {"scopes": ["read"], "tenant": "a b"},
    {"scopes": ["read"], "tenant": "acme\n"},
    {"scopes": ["read"], "name": "a\nb"},
    {"scopes": ["read"], "digest": "0"},
]


async def test_a_wrong_key_is_refused(http: Http):
    for body in WRONG:
        assert (await http.ask("POST", "/v1/keys", body=body))[0] == 422, body


async def test_only_admins_have_to_do_with_keys(http: Http):
    for key in (READ_KEY, INVOKE_KEY):
        assert (await http.ask("POST", "/v1/keys", key=key, body={"scopes": ["read"]}))[0] == 403
        assert (await http.get("/v1/keys", key=key))[0] == 403
        assert (await http.ask("DELETE", f"/v1/keys/key_{READ_KEY}", key=key))[0] == 403


async def test_keys_come_in_pages(http: Http):
    made = [(await make(http))["id"] for _ in range(3)]
    _, first = await http.get("/v1/keys?limit=2")
    _, second = await http.get(f"/v1/keys?limit=200&before={first['next']}")
    ids = [key["id"] for page in (first, second) for key in page["keys"]]
    assert len(ids) == len(set(ids))
    assert set(made) < set(ids)
    assert second["next"] is None


async def test_forms_of_the_header(http: Http):
    for form in ("Bearer {}", "bearer  {}", "{}"):
        sent = form.format(KEY)
        assert (await http.get("/v1/runs", key=None, Authorization=sent))[0] == 200, form
    for form in ("Basic {}", "Bearer", "Token {}", "", "x{}", "{}x"):
        sent = form.format(KEY)
        status, _, headers = await http.ask("GET", "/v1/runs", key=None, Authorization=sent)
        assert (status, headers["www-authenticate"]) == (401, "Bearer"), form


# Tenants


async def tenants(http: Http) -> tuple[str, str]:
    secrets = [
        (await make(http, tenant=name, scopes=["admin"]))["secret"] for name in ("acme", "other")
    ]
    return secrets[0], secrets[1]


async def test_another_tenants_runs_are_not_there(http: Http):
    acme, other = await tenants(http)
    _, run, _ = await http.prompt("Ada", key=acme)
    _, foreign, _ = await http.prompt("Ada", key=other)
    _, nobodys, _ = await http.prompt("Ada")
    at = f"/v1/runs/{run['id']}"

    for method, path in (
        ("GET", at),
        ("GET", f"{at}/events"),
        ("GET", f"{at}/trace"),
        ("POST", f"{at}/cancel"),
        ("POST", f"{at}/answer"),
    ):
        body = {"answer": 1} if path.endswith("answer") else None
        status, problem, _ = await http.ask(method, path, key=other, body=body)
        missing = path.replace(run["id"], "run_none")
        expected = await http.ask(method, missing, key=other, body=body)
        assert status == expected[0] == 404
        # Nothing tells it from one that does not exist.
        assert problem["detail"].replace(run["id"], "run_none") == expected[1]["detail"]
    assert (await http.get(at, key=acme))[0] == 200
    assert (await http.get(f"{at}/trace", key=acme))[0] == 200
    assert (await http.get(at))[0] == 200

    async def listed(key: str) -> set[str]:
        return {r["id"] for r in (await http.get("/v1/runs", key=key))[1]["runs"]}

    assert await listed(acme) == {run["id"]}
    assert await listed(other) == {foreign["id"]}
    assert await listed(KEY) == {run["id"], foreign["id"], nobodys["id"]}
    assert (await http.get("/v1/runs?status=succeeded", key=acme))[1]["runs"][0]["id"] == run["id"]


async def test_another_tenants_schedules_are_not_there(http: Http):
    acme, other = await tenants(http)
    body = {"id": "nightly", "prompt": "Ada", "every_s": 3600}
    assert (await http.ask("POST", "/v1/schedules", key=acme, body=body))[0] == 201
    # Ids are those of the cluster: another tenant cannot have the same, and gets nothing of it.
    status, problem, _ = await http.ask("POST", "/v1/schedules", key=other, body=body)
    assert status == 409
    assert "acme" not in str(problem)

    at = "/v1/schedules/nightly"
    again = {"prompt": "Eve", "every_s": 60}
    for method, path, sent in (
        ("GET", at, None),
        ("PUT", at, again),
        ("POST", f"{at}/pause", None),
        ("POST", f"{at}/resume", None),
        ("POST", f"{at}/trigger", None),
        ("DELETE", at, None),
    ):
        assert (await http.ask(method, path, key=other, body=sent))[0] == 404, path
    assert (await http.get("/v1/schedules", key=other))[1]["schedules"] == []
    assert len((await http.get("/v1/schedules", key=acme))[1]["schedules"]) == 1

    status, run, _ = await http.ask("POST", f"{at}/trigger", key=acme)
    assert status == 202
    assert (await http.get(f"/v1/runs/{run['id']}", key=other))[0] == 404
    assert (await http.get(f"/v1/runs/{run['id']}", key=acme))[0] == 200


async def test_another_tenants_dead_letters_are_not_there(
    http: Http, gateway: Gateway, store: BreakableStore
):
    acme, other = await tenants(http)
    gateway.dispatcher.gate.clear()
    _, run, _ = await http.prompt("Ada", key=acme, wait_s=0)
    stored = await store.get_run(run["id"])
    assert stored is not None
    now = datetime.now(UTC)
    dead = RunEnd(run["id"], RunStatus.DEAD, None, None, now, now)
    await store.commit(HOST, [Effects(stored.pool, stored.slot, 1, end=dead)])
    (letter,) = (await http.get("/v1/dead-letters", key=acme))[1]["dead_letters"]
    at = f"/v1/dead-letters/{letter['id']}"

    assert (await http.get("/v1/dead-letters", key=other))[1]["dead_letters"] == []
    for method, path in (("GET", at), ("POST", f"{at}/retry"), ("DELETE", at)):
        assert (await http.ask(method, path, key=other))[0] == 404
    purged = await http.ask("DELETE", "/v1/dead-letters?all=true", key=other)
    assert purged[1] == {"purged": 0}
    status, again, _ = await http.ask("POST", f"{at}/retry", key=acme)
    assert status == 202
    assert (await http.get(f"/v1/runs/{again['id']}", key=other))[0] == 404
    assert (await http.ask("DELETE", at, key=acme))[0] == 204


async def test_a_tenant_makes_and_sees_its_own_keys(http: Http):
    acme, _ = await tenants(http)
    status, made, _ = await http.ask("POST", "/v1/keys", key=acme, body={"scopes": ["read"]})
    assert (status, made["tenant"]) == (201, "acme")
    foreign = {"scopes": ["read"], "tenant": "other"}
    assert (await http.ask("POST", "/v1/keys", key=acme, body=foreign))[0] == 403
    seen = (await http.get("/v1/keys", key=acme))[1]["keys"]
    assert {key["tenant"] for key in seen} == {"acme"}
    everybody = f"key_{KEY}"
    assert (await http.get(f"/v1/keys/{everybody}", key=acme))[0] == 404
    assert (await http.ask("DELETE", f"/v1/keys/{everybody}", key=acme))[0] == 404


async def test_a_key_of_no_tenant_may_ask_for_one(http: Http, store: BreakableStore):
    named = {"SYNAPSE_Tenant": "Token acme", "SYNAPSE_User": "Token secret-of-ada"}
    _, run, _ = await http.prompt("Ada", **named)
    _, foreign, _ = await http.prompt("Ada", SYNAPSE_Tenant="other")
    stored = await store.get_run(run["id"])
    assert stored is not None
    assert stored.owner == f"key_{KEY}@acme"
    # Recorded, but not what it was: it may be a secret.
    assert len(stored.input["user"]) == 16
    assert "secret-of-ada" not in str(stored.input)

    _, listed, _ = await http.ask("GET", "/v1/runs", SYNAPSE_Tenant="Token acme")
    assert [r["id"] for r in listed["runs"]] == [run["id"]]
    assert (await http.ask("GET", f"/v1/runs/{foreign['id']}", SYNAPSE_Tenant="acme"))[0] == 404


async def test_a_tenants_key_cannot_ask_for_another_one(http: Http):
    acme, _ = await tenants(http)
    assert (await http.prompt(key=acme, SYNAPSE_Tenant="Token acme"))[0] == 200
    assert (await http.prompt(key=acme, SYNAPSE_Tenant="Token other"))[0] == 403
    assert (await http.prompt(SYNAPSE_Tenant="Token a@b"))[0] == 422


async def test_idempotency_keys_are_each_tenants_own(http: Http):
    runs = [
        (await http.prompt("Ada", SYNAPSE_Tenant=name, Idempotency_Key="order-1"))[1]["id"]
        for name in ("acme", "other", "acme")
    ]
    assert runs[0] == runs[2] != runs[1]


async def test_each_spelling_of_a_key_is_looked_up_once(http: Http, store: BreakableStore):
    for headers in ({}, {"SYNAPSE_Tenant": "acme"}, {"SYNAPSE_User": "ada"}):
        await http.ask("GET", "/v1/runs", **headers)
    assert store.key_queries == 1


async def test_the_document_shows_the_secret_in_one_answer(gateway: Gateway):
    schemas: Json = gateway.app.openapi()["components"]["schemas"]
    assert "secret" in schemas["CreatedKey"]["properties"]
    assert "secret" not in schemas["KeyInfo"]["properties"]
