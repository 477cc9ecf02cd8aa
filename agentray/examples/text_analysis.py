"""Text analysis: two agents look at a text at the same time, a third combines what they found.

::

    Prompt → TextReception → TextSubmitted ┬→ TextAnalyser ──→ PhrasesFound ───┬→ ResultCombiner
                                           ├→ TextSummariser → TextSummarised ─┤   → TextAnalysed
                                           └───────────────────────────────────┘

Without a model the answer is extractive: it quotes the text. With `AGENTRAY_MODEL` set where the
hosts run, such as `openai:gpt-4o`, a language model writes the summary and names the key phrases;
an error of the model fails the run. The statistics are computed either way.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, Field

from agentray import Agent, AgentOptions, App, Event, Prompt, TerminateEvent, action, on
from agentray.examples.extractive import TextStatistics, key_phrases, statistics, summarise
from agentray.examples.prose import WORD
from agentray.patterns import (
    AggregatorAgent,
    Gathered,
    LanguageModel,
    configured_model,
    load_model,
)

ANSWER_WITHIN_S = 120.0
"""Patience with the model."""

# The analysts keep nothing between texts. A few instances serve all of them, spread over the hosts,
# each any number at once: the model is loaded a few times, not once per text, and a slow answer
# delays nobody else's.
_ANY = "any:8"
_STATELESS = AgentOptions(concurrency=None)

_EXTRACTIVE = "extractive: LexRank summary, C-value key phrases"

T = TypeVar("T", bound=BaseModel)


class TextSubmitted(Event):
    """A text is to be analysed."""

    text: str


class PhrasesFound(Event):
    """What a text dwells on is known; `model` is who named it, None: C-value."""

    key_phrases: list[str]
    model: str | None


class TextSummarised(Event):
    """A text's summary is known; `model` is who wrote it, None: LexRank."""

    summary: str
    model: str | None


class TextAnalysed(TerminateEvent):
    """The result."""

    summary: str
    key_phrases: list[str]
    statistics: dict[str, Any]
    engine: str


class PhrasesAnswer(BaseModel):
    """What the model is asked for by the analyser."""

    key_phrases: list[str] = Field(
        max_length=10, description="Up to ten phrases the text dwells on, as it spells them."
    )


class SummaryAnswer(BaseModel):
    """What the model is asked for by the summariser."""

    summary: str = Field(min_length=1, description="At most three sentences.")


class TextReception(Agent):
    """Takes texts in."""

    @on(Prompt)
    async def submit(self, prompt: Prompt) -> TextSubmitted:
        """Pass a text on, if it is one."""
        if WORD.search(prompt.text) is None:
            raise ValueError("There is no text to analyse: the prompt has no words.")
        return TextSubmitted(text=prompt.text)

    @action(idempotent=True)
    async def measure(self, text: str) -> TextStatistics:
        """Return a text's statistics, without a run."""
        return await self.run_sync(statistics, text)


class TextAnalyser(Agent):
    """Finds what a text dwells on."""

    options = _STATELESS

    async def on_start(self) -> None:
        """Load the model, if there is to be one."""
        self._model = await _load(
            PhrasesAnswer, "Name the key phrases of the text that you are given."
        )

    @on(TextSubmitted, key=_ANY)
    async def analyse(self, submitted: TextSubmitted) -> PhrasesFound:
        """Find the key phrases."""
        if self._model is None:
            found = await self.run_sync(key_phrases, submitted.text)
            phrases, model = [phrase.phrase for phrase in found], None
        else:
            answer = await self._model.ask(submitted.text)
            phrases, model = answer.key_phrases, self._model.name
        self.context.progress("key phrases found")
        return PhrasesFound(key_phrases=phrases, model=model)

    async def on_stop(self) -> None:
        """Let go of the model."""
        if self._model is not None:
            await self._model.close()


class TextSummariser(Agent):
    """Says in short what a text says."""

    options = _STATELESS

    async def on_start(self) -> None:
        """Load the model, if there is to be one."""
        self._model = await _load(
            SummaryAnswer,
            "Summarise the text that you are given, in its own language. Say only what it says.",
        )

    @on(TextSubmitted, key=_ANY)
    async def summarise(self, submitted: TextSubmitted) -> TextSummarised:
        """Write the summary."""
        if self._model is None:
            summary, model = await self.run_sync(summarise, submitted.text), None
        else:
            answer = await self._model.ask(submitted.text)
            summary, model = answer.summary, self._model.name
        self.context.progress("summary written")
        return TextSummarised(summary=summary, model=model)

    async def on_stop(self) -> None:
        """Let go of the model."""
        if self._model is not None:
            await self._model.close()


class ResultCombiner(AggregatorAgent):
    """Puts the parts together, and adds what can simply be counted."""

    needs = (TextSubmitted, PhrasesFound, TextSummarised)
    options = AgentOptions(idle_timeout_s=ANSWER_WITHIN_S + 30)  # it outlasts the slowest part

    async def combine(self, events: Gathered) -> TextAnalysed:
        """Return the result."""
        phrases, summarised = events[PhrasesFound], events[TextSummarised]
        counted = await self.run_sync(statistics, events[TextSubmitted].text)
        return TextAnalysed(
            summary=summarised.summary,
            key_phrases=phrases.key_phrases,
            statistics=counted.model_dump(),
            engine=_engine(summarised.model, phrases.model),
        )


async def _load(answer: type[T], instructions: str) -> LanguageModel[T] | None:
    name = configured_model()
    if name is None:
        return None
    return await load_model(name, answer, instructions=instructions, timeout_s=ANSWER_WITHIN_S)


def _engine(summary_by: str | None, phrases_by: str | None) -> str:
    """Say how a result was made; the parts differ while the operator changes the model."""
    if summary_by == phrases_by:
        return f"model: {summary_by}" if summary_by else _EXTRACTIVE
    return f"mixed: {summary_by or 'LexRank'} summary, {phrases_by or 'C-value'} key phrases"


app = App(
    "text_analysis",
    [TextReception, TextAnalyser, TextSummariser, ResultCombiner],
    entry=TextReception,
)
