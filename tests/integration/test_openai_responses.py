"""`/v1/responses`, as OpenAI's own package uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from agentray.protocol.runs import RunStatus
from agentray.store.keys import ApiKey
from tests.support.chat_agents import Waiter, chat_app
from tests.support.eventually import eventually_async
from tests.support.gateway import KEY, api_key
from tests.support.local_gateway import LocalGateways, local_gateways

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "What the weather is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture(scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LocalGateways]:
    home = tmp_path_factory.mktemp("home")
    async with local_gateways(chat_app(), home=home, max_body_bytes=20_000) as gateways:
        yield gateways


@pytest.fixture
async def client(local: LocalGateways) -> AsyncGenerator[AsyncOpenAI]:
    url = f"{local.replicas[0].url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_an_agent_answers(client: AsyncOpenAI):
    response = await client.responses.create(
        model="model", input="how", instructions="Be brief.", temperature=0.5, user="ada",
        max_output_tokens=9, metadata={"for": "tests"},
    )  # fmt: skip
    said = ["instructions: Be brief.", "user: how", "0.5 9 ada"]
    assert response.output_text.split("\n") == said
    assert response.status == "completed"
    assert (response.instructions, response.metadata) == ("Be brief.", {"for": "tests"})
    assert response.usage
    assert (response.usage.input_tokens, response.usage.total_tokens) == (7, 10)
    assert response.usage.input_tokens_details.cached_tokens == 2


async def test_a_response_can_be_got_back_with_its_input_and_deleted(client: AsyncOpenAI):
    asked: Any = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
    ]
    made = await client.responses.create(model="plain", input=asked)
    assert (await client.responses.retrieve(made.id)) == made
    items: list[Any] = [item async for item in client.responses.input_items.list(made.id)]
    assert [item.content[0].text for item in items] == ["two", "one"]
    page: Any = await client.responses.input_items.list(made.id, limit=1, order="asc")
    assert (page.data[0].content[0].text, page.has_more) == ("one", True)
    following = await page.get_next_page()
    assert [item.content[0].text for item in following.data] == ["two"]

    await client.responses.delete(made.id)
    for asking in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            await asking(made.id)


async def test_a_conversation_goes_on_with_the_previous_response(client: AsyncOpenAI):
    first = await client.responses.create(model="model", input="one", instructions="Hm.")
    second = await client.responses.create(
        model="model", input="two", previous_response_id=first.id
    )
    # Instructions are for one answer alone.
    assert second.output_text.split("\n")[0] == "user: one"
    assert second.output_text.endswith("user: two")
    assert "assistant: instructions: Hm." in second.output_text
    assert second.previous_response_id == first.id
    items = [item async for item in client.responses.input_items.list(second.id)]
    assert len(items) == 1
    # From the first one another conversation can begin.
    other = await client.responses.create(
        model="model", input="three", previous_response_id=first.id
    )
    assert "two" not in other.output_text


async def test_a_conversation_stays_with_the_agent_that_it_began_with(client: AsyncOpenAI):
    first = await client.responses.create(model="counter", input="x")
    second = await client.responses.create(
        model="counter", input="x", previous_response_id=first.id
    )
    fresh = await client.responses.create(model="counter", input="x")
    assert [r.output_text for r in (first, second, fresh)] == ["1", "2", "1"]


async def count(client: AsyncOpenAI, after: Any = None, **more: Any) -> Any:
    """Ask a counter, which begins anew, or goes on after another response."""
    previous = None if after is None else after.id
    said: dict[str, Any] = {"model": "counter", "input": "x", "previous_response_id": previous}
    create: Any = client.responses.create
    return await create(**{**said, **more})


async def test_each_of_two_follow_ups_goes_on_from_where_their_response_ended(client: AsyncOpenAI):
    first = await count(client)
    main = await count(client, first)
    branch = await count(client, first)
    assert [r.output_text for r in (first, main, branch)] == ["1", "2", "2"]
    # Each has a main line, and branches, of its own.
    on_main, on_branch = await count(client, main), await count(client, branch)
    further = await count(client, on_main)
    again = [await count(client, each) for each in (first, main, branch, on_main)]
    assert [r.output_text for r in (on_main, on_branch, further)] == ["3", "3", "4"]
    assert [r.output_text for r in again] == ["2", "3", "3", "4"]


async def test_follow_ups_that_are_asked_at_once_do_not_meet(client: AsyncOpenAI):
    first = await count(client)
    both = await asyncio.gather(*(count(client, first) for _ in range(8)))
    assert [r.output_text for r in both] == ["2"] * 8
    streams = await asyncio.gather(*(count(client, first, stream=True) for _ in range(2)))
    last: list[Any] = [[event async for event in stream][-1] for stream in streams]
    assert [event.response.output_text for event in last] == ["2", "2"]


async def test_a_branch_waits_for_nothing_of_the_line_that_goes_on(tmp_path: Path):
    async with local_gateways(chat_app(), home=tmp_path) as local:
        url = f"{local.replicas[0].url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            first = await count(client)
            main = await count(client, first, input="wait", background=True)
            branch = await count(client, first)
            assert branch.output_text == "2"
            assert (await client.responses.retrieve(main.id)).status in {"queued", "in_progress"}
            Waiter.gate.set()

            async def ended() -> Any:
                now = await client.responses.retrieve(main.id)
                return now if now.status == "completed" else None

            assert (await eventually_async(ended, 20)).output_text == "2"
            assert (await count(client, main)).output_text == "3"


async def test_a_follow_up_that_is_not_stored_takes_nothing_from_the_others(client: AsyncOpenAI):
    first = await count(client)
    unstored = await count(client, first, store=False)
    assert (unstored.output_text, (await count(client, first)).output_text) == ("2", "2")
    with pytest.raises(openai.BadRequestError):
        await count(client, unstored)


async def test_a_follow_up_of_a_deleted_response_is_refused_and_those_before_go_on(
    client: AsyncOpenAI,
):
    first = await count(client)
    main, branch = await count(client, first), await count(client, first)
    await client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await count(client, first)
    assert refused.value.code == "previous_response_not_found"
    assert [(await count(client, each)).output_text for each in (main, branch)] == ["3", "3"]


async def test_a_repeated_follow_up_is_the_first_one(client: AsyncOpenAI):
    first = await count(client)
    key = {"Idempotency-Key": f"again-{first.id}"}
    main, again = [await count(client, first, extra_headers=key) for _ in range(2)]
    assert (main.id, main.output_text) == (again.id, again.output_text)
    assert (await count(client, main)).output_text == "3"


async def test_who_names_the_agent_is_answered_by_it_as_it_is(client: AsyncOpenAI):
    first = await count(client, model="counter/ada-itself")
    said = [await count(client, first, model="counter/ada-itself") for _ in range(2)]
    assert [r.output_text for r in said] == ["2", "3"]
    # A branch of that conversation is nobody that has a name.
    assert (await count(client, first)).output_text == "2"
    # Its conversation goes on with it, also where it is not named again.
    assert (await count(client, said[1])).output_text == "4"
    # Another agent begins anew, whatever was said before.
    assert (await count(client, first, model="counter/eve-itself")).output_text == "1"


async def test_branches_begin_from_the_newest_states_where_they_grow_too_many(tmp_path: Path):
    async with local_gateways(chat_app(), home=tmp_path, max_noted_bytes=40) as local:
        url = f"{local.replicas[0].url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            line = [await count(client)]
            for _ in range(5):
                line.append(await count(client, line[-1]))
            with pytest.raises(openai.BadRequestError) as refused:
                await count(client, line[0])
            assert refused.value.code == "previous_response_dropped"
            assert refused.value.param == "previous_response_id"
            assert (await count(client, line[-2])).output_text == "6"
            assert (await count(client, line[-1])).output_text == "7"


async def test_tools_are_asked_for_and_their_results_go_on(client: AsyncOpenAI):
    first = await client.responses.create(model="model", input="Ulm?", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city":"Ulm"}')
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "fine"}
    second = await client.responses.create(
        model="model", input=[result], previous_response_id=first.id, tools=[WEATHER]
    )
    assert second.output_text == "The weather is fine."
    # The same without what the server keeps.
    whole: Any = [{"role": "user", "content": "Ulm?"}, *first.output, result]
    again = await client.responses.create(model="model", input=whole, store=False)
    assert again.output_text == "The weather is fine."
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(again.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="model", input="x", previous_response_id=again.id)
    assert refused.value.param == "previous_response_id"


async def test_an_answer_is_parsed_by_its_schema(client: AsyncOpenAI):
    class Place(BaseModel):
        city: str

    response = await client.responses.parse(model="model", input="x", text_format=Place)
    assert response.output_parsed == Place(city="Ulm")


async def test_the_stream_has_all_events_in_order(client: AsyncOpenAI):
    events = [
        e async for e in await client.responses.create(model="plain", input="Ada", stream=True)
    ]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(9))
    last: Any = events[-1]
    assert last.response.output_text == "Hello, Ada!"
    assert await client.responses.retrieve(last.response.id) == last.response


async def test_a_text_is_streamed_as_it_is_said(client: AsyncOpenAI):
    async with client.responses.stream(model="poet", input="Ada") as stream:
        pieces = [
            event.delta async for event in stream if event.type == "response.output_text.delta"
        ]
        final = await stream.get_final_response()
    assert len(pieces) > 1
    assert "".join(pieces) == final.output_text
    again = await client.responses.retrieve(final.id, stream=True)
    last: Any = [event async for event in again][-1]
    assert last.response.output_text == final.output_text


async def test_tool_calls_are_streamed(client: AsyncOpenAI):
    async with client.responses.stream(model="model", input="Ulm?", tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert [item.type for item in final.output] == ["function_call"]


async def test_a_response_in_the_background_is_looked_at_followed_and_cancelled(tmp_path: Path):
    async with local_gateways(chat_app(), home=tmp_path) as local:
        url = f"{local.replicas[0].url}/v1"
        async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            made = await client.responses.create(model="waiter", input="Ada", background=True)
            assert made.status in {"queued", "in_progress"}
            other = await client.responses.create(model="waiter", input="Eve", background=True)
            cancelled = await client.responses.cancel(other.id)
            assert cancelled.status == "cancelled"
            with pytest.raises(openai.BadRequestError):
                await client.responses.create(
                    model="waiter", input="x", previous_response_id=made.id
                )
            Waiter.gate.set()

            async def ended() -> Any:
                now = await client.responses.retrieve(made.id)
                return now if now.status == "completed" else None

            answer = await eventually_async(ended, 20)
            assert answer.output_text == "at last, Ada"
            events = [e async for e in await client.responses.retrieve(made.id, stream=True)]
            rest = await client.responses.retrieve(made.id, stream=True, starting_after=3)
            assert [e.sequence_number async for e in rest] == [
                e.sequence_number for e in events[4:]
            ]
            running = await client.responses.create(model="plain", input="x", background=True)
            await client.responses.delete(running.id)


async def test_a_response_that_fails_says_why(client: AsyncOpenAI):
    response = await client.responses.create(model="plain", input="fail")
    assert (response.status, response.output) == ("failed", [])
    assert response.error
    assert response.error.message == "agent_error: no"
    events = [
        e async for e in await client.responses.create(model="plain", input="fail", stream=True)
    ]
    assert events[-1].type == "response.failed"


async def test_a_question_leaves_a_response_incomplete(client: AsyncOpenAI):
    response = await client.responses.create(model="plain", input="ask")
    assert (response.status, response.output_text) == ("incomplete", "Really?")


async def test_what_belongs_to_another_tenant_is_not_there(local: LocalGateways):
    for name in ("red", "blue"):
        key = api_key(name, "invoke")
        scopes = frozenset({"invoke", "read"})
        await local.runtime.store.put_key(
            ApiKey(key.id, key.digest, name, scopes, key.created_at, tenant=name)
        )
    url = f"{local.replicas[0].url}/v1"
    async with (
        AsyncOpenAI(base_url=url, api_key="red", max_retries=0) as red,
        AsyncOpenAI(base_url=url, api_key="blue", max_retries=0) as blue,
    ):
        made = await red.responses.create(model="plain", input="x")
        assert (await red.responses.retrieve(made.id)).id == made.id
        with pytest.raises(openai.NotFoundError):
            await blue.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError):
            await blue.responses.create(model="plain", input="x", previous_response_id=made.id)


async def test_a_run_of_a_prompt_is_no_response(client: AsyncOpenAI, local: LocalGateways):
    async with local.client() as ours:
        run = await ours.prompt("x", agent="plain")
    assert run.status is RunStatus.SUCCEEDED
    with pytest.raises(openai.NotFoundError) as refused:
        await client.responses.retrieve(run.id.replace("run_", "resp_"))
    assert refused.value.code == "response_not_found"
    for odd in ("resp_", "nothing", "resp_a\0b", "resp_../x"):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(odd)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"type": "computer_call"}]}, "input[0]"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
    ),
    ({"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]}, "input"),
    ({"warmth": 1}, "warmth"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"tools": [WEATHER]}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 3}}}},
        "text.format.schema",
    ),
    ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ({"background": True, "store": False}, "background"),
    ({"previous_response_id": "resp_0"}, "previous_response_id"),
    ({"instructions": "a\0b"}, "input"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
]


@pytest.mark.parametrize(("more", "param"), REFUSED)
async def test_what_cannot_be_served_is_refused_by_its_name(
    client: AsyncOpenAI, more: dict[str, Any], param: str
):
    body = {"model": "plain", "input": "Ada", **more}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/responses", cast_to=object, body=body)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
