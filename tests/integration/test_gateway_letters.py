"""Dead letters over real HTTP, and through both clients."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from agentray.client import AgentClient, AsyncAgentClient, Conflict, Forbidden, NotFound
from agentray.ids import AgentId, new_id
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import RunError, RunStatus
from agentray.store.base import NewRun
from agentray.store.letters import StoredLetter
from tests.support.gateway import KEY, POOL, READ_KEY, BreakableStore, Gateway, Http, now

ADA = AgentId("greeter", "ada")


async def put_letter(store: BreakableStore, **fields: object) -> DeadLetter:
    about = {
        "kind": LetterKind.MESSAGE,
        "reason": LetterReason.HANDLER_FAILED,
        "target": str(ADA),
        "name": "greet",
        "created_at": now(),
        **fields,
    }
    letter = DeadLetter.model_validate({"id": new_id("dead"), **about})
    await store.add_dead_letters([StoredLetter(letter, POOL, b"secret pickle")])
    return letter


async def dead_run(gateway: Gateway) -> NewRun:
    """Let a prompt's run die."""
    run = NewRun(new_id("run"), ADA, POOL, 0, {"prompt": "Ada"}, "c", now(), owner="key_1")
    await gateway.store.admit([run])
    await gateway.dispatcher.end(run, RunStatus.DEAD, None, RunError(type="HostDied", message="8"))
    return run


async def test_letters_are_listed_in_pages_and_looked_at(store: BreakableStore, http: Http):
    made = [await put_letter(store) for _ in range(3)]
    letters = sorted(made, key=lambda letter: letter.id)  # of one millisecond, maybe
    await put_letter(store, kind=LetterKind.EVENT, target="other/1")
    path = "/v1/dead-letters?kind=message&reason=handler_failed&agent=greeter&retried=false&limit=2"
    _, page = await http.get(path, key=READ_KEY)
    assert [letter["id"] for letter in page["dead_letters"]] == [letters[2].id, letters[1].id]
    assert "content" not in page["dead_letters"][0]
    _, rest = await http.get(f"{path}&before={page['next']}")
    assert [letter["id"] for letter in rest["dead_letters"]] == [letters[0].id]
    assert rest["next"] is None
    assert await http.get(f"/v1/dead-letters/{letters[0].id}") == (
        200,
        letters[0].model_dump(mode="json"),
    )


@pytest.mark.parametrize(
    "query", ["kind=x", "reason=x", "limit=0", "before=bogus", "x=1", "agent=%00"]
)
async def test_wrong_queries_are_a_422(http: Http, query: str):
    assert (await http.get(f"/v1/dead-letters?{query}"))[0] == 422


async def test_what_is_unknown_or_forbidden_is_said(store: BreakableStore, http: Http):
    letter = await put_letter(store)
    for method, path in (("GET", ""), ("POST", "/retry"), ("DELETE", "")):
        assert (await http.ask(method, f"/v1/dead-letters/dead_1{path}"))[0] == 404
        assert (await http.ask(method, f"/v1/dead-letters/%00{path}"))[0] == 404
    for method, path in (
        ("POST", f"/{letter.id}/retry"),
        ("DELETE", f"/{letter.id}"),
        ("DELETE", ""),
    ):
        assert (await http.ask(method, f"/v1/dead-letters{path}", key=READ_KEY))[0] == 403


async def test_a_dead_run_is_tried_once_however_often_it_is_asked_for(gateway: Gateway, http: Http):
    dead = await dead_run(gateway)
    _, page = await http.get("/v1/dead-letters?kind=run")
    (letter,) = page["dead_letters"]
    assert (letter["run_id"], letter["target"], letter["error"]["type"]) == (
        dead.id,
        str(ADA),
        "HostDied",
    )
    answers = await asyncio.gather(
        *(http.ask("POST", f"/v1/dead-letters/{letter['id']}/retry") for _ in range(10))
    )
    assert {status for status, _, _ in answers} == {202}
    ((run_id, location),) = {(run["id"], more["location"]) for _, run, more in answers}
    _, ended = await http.get(f"{location}?wait_s=20")
    assert (ended["id"], ended["status"], ended["result"]) == (
        run_id,
        "succeeded",
        {"text": "Hello, Ada!"},
    )
    assert gateway.dispatcher.started == [run_id]
    _, first = await http.get(f"/v1/runs/{dead.id}")
    assert first["status"] == "dead"


async def test_letters_are_forgotten(store: BreakableStore, http: Http):
    old = await put_letter(store, created_at=now() - timedelta(hours=2))
    new = await put_letter(store)
    assert (await http.ask("DELETE", "/v1/dead-letters"))[0] == 422  # everything, by mistake
    status, told, _ = await http.ask("DELETE", "/v1/dead-letters?older_than_s=3600")
    assert (status, told) == (200, {"purged": 1})
    assert (await http.get(f"/v1/dead-letters/{old.id}"))[0] == 404
    assert (await http.ask("DELETE", f"/v1/dead-letters/{new.id}"))[0] == 204
    await put_letter(store)
    assert (await http.ask("DELETE", "/v1/dead-letters?all=true"))[1] == {"purged": 1}


async def test_the_client_does_it_all(gateway: Gateway, store: BreakableStore):
    await dead_run(gateway)
    lost = await put_letter(store, retryable=False)
    async with AsyncAgentClient(gateway.url, KEY) as client:
        page = await client.dead_letters(limit=1)
        rest = await client.dead_letters(before=page.next)
        found = {each.kind: each for each in page.dead_letters + rest.dead_letters}
        letter = found[LetterKind.RUN]
        assert found == {LetterKind.MESSAGE: lost, LetterKind.RUN: letter}
        assert await client.dead_letter(letter.id) == letter
        run = await client.retry_dead_letter(letter.id)
        assert (await client.run(run.id, wait_s=20)).status is RunStatus.SUCCEEDED
        assert (await client.dead_letters(retried=True)).dead_letters[0].retried_as == run.id
        with pytest.raises(Conflict):
            await client.retry_dead_letter(lost.id)
        await client.forget_dead_letter(lost.id)
        with pytest.raises(NotFound):
            await client.dead_letter(lost.id)
        assert await client.purge_dead_letters(older_than_s=60) == 0
        assert await client.purge_dead_letters() == 1


async def test_the_blocking_client_does_it_too(gateway: Gateway):
    await dead_run(gateway)

    def ask() -> RunStatus:
        with AgentClient(gateway.url, READ_KEY) as reader, AgentClient(gateway.url, KEY) as client:
            (letter,) = reader.dead_letters(agent="greeter").dead_letters
            assert reader.dead_letter(letter.id) == letter
            with pytest.raises(Forbidden):
                reader.retry_dead_letter(letter.id)
            run = client.run(client.retry_dead_letter(letter.id).id, wait_s=20)
            client.forget_dead_letter(letter.id)
            assert client.purge_dead_letters(kind=LetterKind.RUN) == 0
            return run.status

    assert await asyncio.to_thread(ask) is RunStatus.SUCCEEDED
