"""An agent that is a language model with a memory: prompts in a session are a conversation.

::

    class Assistant(ChatAgent):
        instructions = "Help with orders. Be brief."

        @tool(access="read")
        async def order(self, number: str) -> str:
            "Say what is known of an order."
            ...

        def tools(self):
            return [self.order]

The conversation is its state: committed with each answer, gone back with a rolled back prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from agentray.agent import Agent, AgentOptions, on
from agentray.errors import ConfigurationError
from agentray.events import Prompt
from agentray.patterns.llm import (
    DEFAULT_TIMEOUT_S,
    MODEL_VARIABLE,
    LanguageModel,
    configured_model,
    load_model,
)


class Conversation(BaseModel):
    """What has been said so far.

    Attributes:
        messages: as pydantic-ai writes them, oldest first; files are only named in them.
    """

    messages: list[dict[str, Any]] = []


class ChatAgent(Agent):
    """Answers prompts with a language model that remembers what was said before.

    Attributes:
        model: `provider:model`; None: what `AGENTRAY_MODEL` says.
        instructions: what it shall do.
        max_messages: of the conversation that the model is shown, the last ones; questions and
            their answers, and calls of tools and their results, stay together.
        timeout_s: for one answer.
        streams: those who follow a run see the text as it comes.
    """

    model: ClassVar[str | None] = None
    instructions: ClassVar[str] = ""
    max_messages: ClassVar[int] = 100
    timeout_s: ClassVar[float] = DEFAULT_TIMEOUT_S
    streams: ClassVar[bool] = True

    options = AgentOptions(accepts=frozenset({"tools", "json_schema", "images", "files", "audio"}))
    state: Conversation
    _language_model: LanguageModel[str]

    def tools(self) -> Sequence[Callable[..., Any]]:
        """Return functions that the model may call, see `agentray.tool`; by itself, none."""
        return ()

    async def load(self) -> LanguageModel[str]:
        """Return its model; called when it starts.

        Raises:
            ConfigurationError: none is configured, or it cannot be used.
        """
        name = self.model or configured_model()
        if name is None:
            raise ConfigurationError(
                f"{type(self).__name__} has no model: set its `model`, or {MODEL_VARIABLE}."
            )
        return await load_model(
            name,
            str,
            instructions=self.instructions,
            tools=self.tools(),
            timeout_s=self.timeout_s,
        )

    async def on_start(self) -> None:
        """Load the model."""
        self._language_model = await self.load()

    async def on_stop(self) -> None:
        """Close the connections to the model's provider."""
        await self._language_model.close()

    @on(Prompt)
    async def prompted(self, prompt: Prompt) -> Any:
        """Go on with the conversation; answers with a text, or as the prompt's schema says.

        A conversation that its caller keeps, as OpenAI's clients do, leaves the state as it is.
        """
        if prompt.chat is not None:
            return await self._language_model.go_on(prompt.chat, stream=self.streams)
        said = self.state.messages
        reply = await self._language_model.converse(prompt, said, stream=self.streams)
        self.state.messages = last_turns(reply.messages, self.max_messages)
        return reply.output


def last_turns(messages: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the end of a conversation, beginning with something that a user said."""
    begins = [
        place
        for place, message in enumerate(messages)
        if any(part.get("part_kind") == "user-prompt" for part in message.get("parts", ()))
    ]
    kept = [place for place in begins if len(messages) - place <= most]
    # One turn may be longer than that: it is kept whole.
    first = kept[0] if kept else begins[-1] if begins else len(messages)
    return list(messages[first:])
