"""Webhooks: sent when their run has ended, by one at a time, until they have arrived."""

from __future__ import annotations

from typing import Any

import pytest

from agentray.protocol.runs import RunStatus
from agentray.protocol.webhooks import WebhookEvent, WebhookState
from agentray.store.base import Store
from agentray.store.webhooks import DueWebhook, NewWebhook, WebhookTry
from tests.contract.samples import T0, admit_one, at, effects, end, serve

URL = "https://example.com/hook"


def hook(run_id: str, number: int = 1, **fields: Any) -> NewWebhook:
    defaults: dict[str, Any] = {
        "owner": "key_1@acme",
        "url": URL,
        "events": None,
        "secret": "default",
        "created_at": T0,
    }
    return NewWebhook(f"wh_{number:03}", run_id, **{**defaults, **fields})


async def end_run(store: Store, run_id: str, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    await store.commit("h1", [effects(end=end(run_id, status))])


async def ended_with_hook(store: Store, number: int = 1, **fields: Any) -> str:
    """Admit and end a run with a webhook; return its id."""
    run_id = await admit_one(store)
    await store.put_webhook(hook(run_id, number, **fields))
    await end_run(store, run_id)
    return run_id


def tried(due: DueWebhook, state: WebhookState, due_s: float | None = None) -> WebhookTry:
    due_at = None if due_s is None else at(due_s)
    status = 204 if state is WebhookState.DELIVERED else 503
    said = None if state is WebhookState.DELIVERED else "busy"
    return WebhookTry(due.webhook.id, due.webhook.attempts, state, due_at, status, said, at(20))


async def test_it_is_due_when_its_run_has_ended_and_not_before(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.put_webhook(hook(run_id))
    assert await store.claim_webhooks(at(10), at(70)) == []
    waiting = await store.get_webhook("wh_001")
    assert waiting is not None
    assert (waiting.state, waiting.run_id, waiting.event) == (WebhookState.WAITING, run_id, None)

    await end_run(store, run_id, RunStatus.FAILED)
    (due,) = await store.claim_webhooks(at(10), at(70))

    assert due.owner == "key_1@acme"
    assert due.run == (await store.list_runs())[0]
    assert (due.webhook.state, due.webhook.event, due.webhook.attempts, due.webhook.due_at) == (
        WebhookState.PENDING, WebhookEvent.FAILED, 1, at(70),
    )  # fmt: skip
    assert due.webhook == await store.get_webhook("wh_001")


async def test_a_run_has_one_webhook_however_often_its_prompt_is_repeated(store: Store):
    await serve(store)
    run_id = await ended_with_hook(store)
    await store.put_webhook(hook(run_id, 2, url="https://example.com/other"))
    assert [w.id for w in await store.list_webhooks()] == ["wh_001"]
    assert len(await store.claim_webhooks(at(10), at(70))) == 1


async def test_ends_that_nobody_wants_to_hear_of_are_not_told(store: Store):
    await serve(store)
    wanted = await ended_with_hook(store, 1, events=("run.succeeded", "run.dead"))
    await ended_with_hook(store, 2, events=("run.failed",))
    assert [due.webhook.run_id for due in await store.claim_webhooks(at(10), at(70))] == [wanted]
    assert [w.id for w in await store.list_webhooks()] == ["wh_001"]


async def test_what_one_has_taken_others_leave_alone_until_the_claim_runs_out(store: Store):
    await serve(store)
    await ended_with_hook(store)
    (first,) = await store.claim_webhooks(at(10), at(70))
    assert await store.claim_webhooks(at(69), at(129)) == []
    (second,) = await store.claim_webhooks(at(70), at(130))
    assert second.webhook.attempts == 2
    assert not await store.finish_webhook(tried(first, WebhookState.DELIVERED)), "it is too late"
    assert await store.finish_webhook(tried(second, WebhookState.DELIVERED))
    assert await store.claim_webhooks(at(999), at(1059)) == []


async def test_one_that_failed_is_due_again_and_one_that_arrived_is_not(store: Store):
    await serve(store)
    await ended_with_hook(store)
    (due,) = await store.claim_webhooks(at(10), at(70))
    assert await store.finish_webhook(tried(due, WebhookState.PENDING, due_s=25))
    known = await store.get_webhook("wh_001")
    assert known is not None
    assert (known.due_at, known.last_status, known.last_error) == (at(25), 503, "busy")
    assert known.finished_at is None
    assert await store.claim_webhooks(at(24), at(84)) == []
    (due,) = await store.claim_webhooks(at(25), at(85))
    assert await store.finish_webhook(tried(due, WebhookState.DELIVERED))
    known = await store.get_webhook("wh_001")
    assert known is not None
    assert (known.state, known.attempts, known.due_at) == (WebhookState.DELIVERED, 2, None)
    assert (known.last_status, known.last_error, known.finished_at) == (204, None, at(20))


async def test_one_that_was_given_up_can_be_sent_again(store: Store):
    await serve(store)
    await ended_with_hook(store)
    (due,) = await store.claim_webhooks(at(10), at(70))
    await store.finish_webhook(tried(due, WebhookState.DEAD))
    assert await store.claim_webhooks(at(999), at(1059)) == []
    assert await store.resend_webhook("wh_001", at(30), tenant="other") is None
    again = await store.resend_webhook("wh_001", at(30), tenant="acme")
    assert again is not None
    assert (again.state, again.due_at, again.finished_at) == (WebhookState.PENDING, at(30), None)
    (due,) = await store.claim_webhooks(at(30), at(90))
    assert due.webhook.attempts == 2


async def test_one_whose_run_goes_on_waits_for_its_end_also_when_it_shall_be_sent(store: Store):
    await serve(store)
    run_id = await admit_one(store)
    await store.put_webhook(hook(run_id))
    again = await store.resend_webhook("wh_001", at(30))
    assert again is not None
    assert again.state is WebhookState.WAITING
    assert await store.resend_webhook("wh_404", at(30)) is None


async def test_they_are_listed_newest_first_by_state_run_and_tenant(store: Store):
    await serve(store)
    first = await ended_with_hook(store, 1)
    await ended_with_hook(store, 2, owner="key_2")
    third = await admit_one(store)
    await store.put_webhook(hook(third, 3))
    await store.claim_webhooks(at(10), at(70))

    async def ids(**wanted: Any) -> list[str]:
        return [webhook.id for webhook in await store.list_webhooks(**wanted)]

    assert await ids() == ["wh_003", "wh_002", "wh_001"]
    assert await ids(limit=1) == ["wh_003"]
    assert await ids(before="wh_002") == ["wh_001"]
    assert await ids(tenant="acme") == ["wh_003", "wh_001"]
    assert await ids(tenant="") == ["wh_002"]
    assert await ids(state=WebhookState.WAITING) == ["wh_003"]
    assert await ids(run_id=first) == ["wh_001"]
    assert await store.get_webhook("wh_002", tenant="acme") is None


async def test_one_of_a_run_that_was_forgotten_is_told_so_and_a_waiting_one_is_forgotten(
    store: Store,
):
    await serve(store)
    await store.put_webhook(hook("run_gone"))
    assert await store.claim_webhooks(at(10), at(70)) == []
    assert await store.list_webhooks() == []


async def test_old_ones_are_forgotten(store: Store):
    await serve(store)
    for number in (1, 2):
        await ended_with_hook(store, number)
    dues = await store.claim_webhooks(at(10), at(70))
    await store.finish_webhook(tried(dues[0], WebhookState.DELIVERED))
    assert await store.prune_webhooks(at(20)) == 0
    assert await store.prune_webhooks(at(21)) == 1
    assert [w.id for w in await store.list_webhooks()] == ["wh_002"]


async def test_secrets_belong_to_tenants_and_the_previous_one_signs_for_a_while(store: Store):
    made = await store.put_webhook_secret("acme", "default", "whsec_1", T0)
    assert (made.name, made.created_at, made.rotated_at) == ("default", T0, None)
    assert await store.webhook_secrets_of("acme", "default", T0) == ["whsec_1"]
    assert await store.webhook_secrets_of("", "default", T0) is None
    assert await store.webhook_secrets_of("acme", "other", T0) is None

    rotated = await store.put_webhook_secret("acme", "default", "whsec_2", at(10))
    assert (rotated.created_at, rotated.rotated_at) == (T0, at(10))
    assert await store.webhook_secrets_of("acme", "default", at(9)) == ["whsec_2", "whsec_1"]
    assert await store.webhook_secrets_of("acme", "default", at(10)) == ["whsec_2"]

    await store.put_webhook_secret("acme", "billing", "whsec_3", T0)
    assert [s.name for s in await store.list_webhook_secrets("acme")] == ["billing", "default"]
    assert await store.list_webhook_secrets("") == []
    assert await store.delete_webhook_secret("acme", "billing")
    assert not await store.delete_webhook_secret("acme", "billing")


@pytest.mark.parametrize("limit", [1, 2])
async def test_of_many_at_most_as_many_are_taken_as_there_is_room_for(store: Store, limit: int):
    await serve(store)
    for number in range(1, 5):
        await ended_with_hook(store, number)
    taken: list[str] = []
    for _ in range(4):
        dues = await store.claim_webhooks(at(10), at(70), limit=limit)
        assert len(dues) <= limit
        taken += [due.webhook.id for due in dues]
    assert sorted(taken) == [f"wh_{number:03}" for number in range(1, 5)]
