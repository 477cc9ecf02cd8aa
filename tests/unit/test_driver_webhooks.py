"""Webhooks that drivers ask for: kept with their run, sent by a gateway."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentray import Agent, App, ManagerClient, Prompt, on
from agentray.errors import ConfigurationError, IdempotencyConflict, InvalidSchedule
from agentray.protocol.webhooks import WebhookEvent, WebhookSpec, WebhookState
from agentray.testing import LocalRuntime
from tests.support.eventually import eventually_async


class Greeter(Agent):
    @on(Prompt)
    async def greet(self, prompt: Prompt) -> str:
        return f"Hello, {prompt.text}!"


app = App("greetings", [Greeter])
HOOK = WebhookSpec(url="https://example.com/hook", events=[WebhookEvent.SUCCEEDED])


async def secret(runtime: LocalRuntime) -> None:
    await runtime.store.put_webhook_secret("", "default", "whsec_x", datetime.now(UTC))


async def test_a_webhook_is_kept_with_its_run_and_due_when_that_has_ended():
    runtime = LocalRuntime(hosts=2)
    async with runtime as manager:
        await manager.deploy(app)
        await secret(runtime)
        run = await manager.prompt("Ada", webhook=HOOK)
        (kept,) = await runtime.store.list_webhooks(run_id=run.id)
        assert (kept.url, kept.events) == (HOOK.url, HOOK.events)
        now = datetime.now(UTC)
        (due,) = await runtime.store.claim_webhooks(now, now)
        assert due.webhook.id == kept.id
        assert due.run is not None
        assert due.run.result == "Hello, Ada!"


async def test_a_schedule_has_one_for_each_of_its_runs():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app)
        with pytest.raises(InvalidSchedule, match="no secret 'default'"):
            await manager.schedules.create("often", prompt="Ada", every_s=1, webhook=HOOK)
        await secret(runtime)
        await manager.schedules.create("often", prompt="Ada", every_s=1, webhook=HOOK)

        async def fired() -> bool:
            return len(await runtime.store.list_webhooks()) > 1

        await eventually_async(fired, timeout_s=20)
        await manager.schedules.delete("often")
        runs = {run.id for run in await runtime.store.list_runs()}
        hooks = await runtime.store.list_webhooks()
        assert {hook.run_id for hook in hooks} == runs
        assert len(hooks) == len(runs)


async def test_a_later_run_and_one_in_a_session_have_theirs():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app)
        await secret(runtime)
        later = await manager.prompt("Ada", delay_s=3600, webhook=HOOK)
        (kept,) = await runtime.store.list_webhooks(run_id=later.id)
        assert kept.state is WebhookState.WAITING
        session = await manager.sessions.create()
        run = await manager.prompt("Ada", session=session, webhook=HOOK)
        assert len(await runtime.store.list_webhooks(run_id=run.id)) == 1


async def test_the_same_key_keeps_one_and_another_webhook_is_another_prompt():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app)
        await secret(runtime)

        async def ask(manager: ManagerClient, hook: WebhookSpec) -> str:
            run = await manager.prompt("Ada", idempotency_key="k", webhook=hook)
            return run.id

        first = await ask(manager, HOOK)
        assert await ask(manager, HOOK) == first
        assert len(await runtime.store.list_webhooks(run_id=first)) == 1
        with pytest.raises(IdempotencyConflict):
            await ask(manager, HOOK.model_copy(update={"url": "https://example.com/other"}))


async def test_without_a_secret_nothing_is_accepted():
    runtime = LocalRuntime()
    async with runtime as manager:
        await manager.deploy(app)
        with pytest.raises(ConfigurationError, match="no secret 'default'"):
            await manager.prompt("Ada", webhook=HOOK)
        assert await runtime.store.list_runs() == []
