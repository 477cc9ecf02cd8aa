"""Language models: typed answers from any provider that pydantic-ai knows by name.

::

    class Summariser(Agent):
        async def on_start(self) -> None:
            self.model = await load_model(
                "anthropic:claude-sonnet-4-5", Summary, instructions="Summarise the text."
            )

        async def on_stop(self) -> None:
            await self.model.close()

        @on(TextSubmitted)
        async def summarise(self, submitted: TextSubmitted) -> TextSummarised:
            answer = await self.model.ask(submitted.text)
            return TextSummarised(summary=answer.summary)

With `str` as the type of its answers, `ask(..., stream=True)` shows those who follow the run the
text as it comes (`text_delta`). What tools it calls, and what they answer, they see in any case.

The client is built in the process that runs the agent. Where no model is used nothing is imported:
pydantic-ai takes seconds to import, and 60 MB.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel

from agentray import context as contexts
from agentray import telemetry
from agentray.errors import ConfigurationError, DeadlineExceeded
from agentray.events import Prompt
from agentray.patterns.llm_shown import Shown
from agentray.protocol.chat import Chat, ChatReply

if TYPE_CHECKING:
    import pydantic_ai
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.usage import RunUsage

MODEL_VARIABLE = "AGENTRAY_MODEL"
"""The environment variable with which an operator chooses the model."""

DEFAULT_TIMEOUT_S = 120.0
"""Seconds for an answer, with all attempts that the provider's client makes."""

T = TypeVar("T", bound=BaseModel | str)


class LanguageModel(Generic[T]):
    """A language model that answers with values of one type. Made by `load_model`.

    Attributes:
        name: as pydantic-ai knows it, `provider:model`.
    """

    def __init__(self, name: str, agent: pydantic_ai.Agent[object, T], timeout_s: float) -> None:
        self.name = name
        self._agent = agent
        self._timeout_s = timeout_s
        self._connections = AsyncExitStack()

    async def open(self) -> None:
        """Open the connections to the provider; `load_model` does."""
        await self._connections.enter_async_context(self._agent)

    async def ask(self, prompt: str, *, stream: bool = False) -> T:
        """Return the model's answer.

        Those who follow the run see which tools are called, and what they answer.

        Inside of a run its tokens, tool calls and cost count against the run's budget after each
        request, so that a run without budget left is cancelled in the midst of this.

        What the provider refuses, and what the model answers in another form twice, is raised as
        pydantic-ai raises it, with the provider's message.

        Args:
            prompt: what it is asked.
            stream: show them its text, too, as it comes from the provider.

        Raises:
            DeadlineExceeded: no answer in time.
        """
        return _output(await self._ask(prompt, stream=stream))

    async def converse(
        self, prompt: Prompt, history: Sequence[Mapping[str, Any]] = (), *, stream: bool = False
    ) -> Reply:
        """Return the model's answer to what comes next in a conversation, and all that was said.

        Files of the prompt are given to the model; text files as text. Where the prompt has an
        `output_schema` the answer is a dict that fits it.

        Args:
            prompt: what it is asked.
            history: what was said before: the `messages` of the last reply.
            stream: show those who follow the run its text as it comes.

        Raises:
            DeadlineExceeded: no answer in time.
            ConfigurationError: the prompt's schema is not that of an object.
        """
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        options: dict[str, Any] = {
            "message_history": ModelMessagesTypeAdapter.validate_python(list(history))
        }
        if prompt.output_schema is not None:
            options["output_type"] = _answer_type(prompt.output_schema)
        result = await self._ask(_content(prompt), stream=stream, **options)
        if result is None:
            raise RuntimeError(_NO_RESULT)
        said = ModelMessagesTypeAdapter.dump_python(result.all_messages(), mode="json")
        return Reply(result.output, [_without_files(message) for message in said])

    async def go_on(self, chat: Chat, *, stream: bool = False) -> ChatReply:
        """Return the model's answer to a conversation that its caller keeps.

        The model is shown the caller's tools, too: where it asks for one, that is the answer.

        Args:
            chat: all of it.
            stream: show those who follow the run its text as it comes.

        Raises:
            DeadlineExceeded: no answer in time.
            ConfigurationError: the schema of the answer is not that of an object.
        """
        from agentray.patterns import llm_chats

        result = await self._ask(None, stream=stream, **llm_chats.options_of(chat))
        if result is None:
            raise RuntimeError(_NO_RESULT)
        return llm_chats.reply_of(result)

    async def _ask(
        self, prompt: Any, *, stream: bool, **options: Any
    ) -> AgentRunResult[Any] | None:
        context = contexts.current.get()
        shown = None if context is None or context.run is None else Shown(context)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._agent.iter(prompt, **options) as steps,
            ):
                told = _Told()
                try:
                    async for node in steps:
                        told.tell(steps.usage)
                        if shown is not None:
                            await shown.show(steps, node, text=stream)
                finally:
                    told.tell(steps.usage)
        except TimeoutError as error:
            raise DeadlineExceeded(f"The model {self.name}", self._timeout_s) from error
        return steps.result

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._connections.aclose()


class Reply(NamedTuple):
    """An answer, and all that was said up to it.

    Attributes:
        output: the answer.
        messages: of the whole conversation, as JSON; without what was in files.
    """

    output: Any
    messages: list[dict[str, Any]]


class _Told:
    """Tells the run of the message under way what a model has used, as it goes."""

    def __init__(self) -> None:
        self._context = contexts.current.get()
        self._tokens, self._tool_calls, self._cost = 0, 0, 0.0

    def tell(self, usage: RunUsage) -> None:
        """Tell what is more than was told before."""
        if self._context is None:
            return
        tokens, tool_calls, cost = usage.total_tokens, usage.tool_calls, float(usage.cost or 0)
        more = (tokens - self._tokens, tool_calls - self._tool_calls, cost - self._cost)
        if any(part > 0 for part in more):
            self._context.spend(tokens=more[0], tool_calls=more[1], cost=max(0.0, more[2]))
        self._tokens, self._tool_calls, self._cost = tokens, tool_calls, cost


_NO_RESULT = "The model's steps ended without a result."
"""A bug of pydantic-ai: its steps end with a result, or raise."""


def _output(result: AgentRunResult[T] | None) -> T:
    if result is None:
        raise RuntimeError(_NO_RESULT)
    return result.output


def _content(prompt: Prompt) -> Any:
    """Return what a model is given of a prompt."""
    if not prompt.attachments:
        return prompt.text
    from pydantic_ai import BinaryContent

    parts: list[Any] = [prompt.text]
    for attachment in prompt.attachments:
        if attachment.media_type.startswith("text/"):
            parts.append(f"{attachment.name}:\n{attachment.text}")
        else:
            parts.append(BinaryContent(attachment.data, media_type=attachment.media_type))
    return parts


def _answer_type(schema: Mapping[str, Any]) -> Any:
    """Return what a model must answer with.

    Raises:
        ConfigurationError: it is no object.
    """
    from pydantic_ai import StructuredDict, UserError

    try:
        return StructuredDict(dict(schema), name="answer")
    except UserError as error:
        raise ConfigurationError(f"A model cannot answer as the schema says: {error}") from error


def _without_files(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as it is kept: what was in files is not, and would fill the state."""
    return {**message, "parts": [_named(part) for part in message.get("parts", ())]}


def _named(part: dict[str, Any]) -> dict[str, Any]:
    content: Any = part.get("content")
    if not isinstance(content, list):
        return part
    parts = cast("list[Any]", content)
    return {**part, "content": [_mentioned(each) for each in parts]}


def _mentioned(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    told = cast("dict[str, Any]", content)
    if "data" not in told:
        return told
    return f"[a file was here: {told.get('media_type', 'of some type')}]"


def configured_model() -> str | None:
    """Return the name of the model that the operator chose; None: no model."""
    return os.environ.get(MODEL_VARIABLE) or None


async def load_model(
    name: str,
    answer: type[T],
    *,
    instructions: str,
    tools: Sequence[Callable[..., Any]] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> LanguageModel[T]:
    """Return a model, ready to be asked.

    Args:
        name: `provider:model`, such as `openai:gpt-4o` (OpenAI's Responses API) or
            `openai-chat:NAME` (Chat Completions, which most compatible servers speak). Keys and
            addresses come from the provider's own variables: OPENAI_API_KEY, OPENAI_BASE_URL.
        answer: what it answers with, a model's class or `str`; a description of each field helps
            it.
        instructions: what it shall do with each prompt.
        tools: functions that it may call: methods of the agent, for instance. Their names, types
            and docstrings tell it what for.
        timeout_s: for one answer.

    Raises:
        ConfigurationError: the extra `llm` is not installed, the name is unknown, or the
            provider's package or key is missing.
    """
    # In a thread: importing takes seconds, which the host's other agents do not have.
    agent = await asyncio.to_thread(_build, name, answer, instructions, tools)
    model = LanguageModel(name, agent, timeout_s)
    await model.open()
    return model


def _build(
    name: str, answer: type[T], instructions: str, tools: Sequence[Callable[..., Any]]
) -> pydantic_ai.Agent[object, T]:
    try:
        import pydantic_ai
    except ImportError as error:
        raise ConfigurationError(
            f"The model {name!r} needs pydantic-ai: pip install 'agentray[llm]'"
        ) from error
    try:
        agent = pydantic_ai.Agent(name, output_type=answer, instructions=instructions, tools=tools)
    except (pydantic_ai.UserError, ImportError) as error:
        raise ConfigurationError(f"The model {name!r} cannot be used: {error}") from error
    _trace(agent)
    return agent


def _trace(agent: pydantic_ai.Agent[object, T]) -> None:
    """Let questions be spans by the GenAI conventions, where OpenTelemetry is configured.

    With model, provider and tokens, and without what was asked and answered.
    """
    spans = telemetry.active()
    if spans is not None:
        from pydantic_ai.models.instrumented import InstrumentationSettings

        agent.instrument = InstrumentationSettings(
            tracer_provider=spans.provider,
            include_content=False,
            include_model_request_parameters=False,
        )
