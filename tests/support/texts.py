"""Many texts at once, for the text-analysis example."""

from __future__ import annotations

import asyncio
import itertools

from agentray import ManagerClient
from agentray.examples.text_analysis import TextAnalysed, TextSubmitted

_SUBJECTS = ("The river", "A ferry", "Our baker", "The old mill", "Nobody")
_VERBS = ("had seen", "forgot", "repaired", "was counting", "sold")
_OBJECTS = ("three boats", "the bridge", "a grey heron", "all the bread", "their winter coats")


def texts(count: int) -> list[str]:
    """Return texts, each with its number in it, of one to five sentences."""
    sentences = [" ".join(words) for words in itertools.product(_SUBJECTS, _VERBS, _OBJECTS)]
    return [
        " ".join(
            f"{sentences[(number * 7 + line) % len(sentences)]} on day {number}."
            for line in range(1 + number % 5)
        )
        for number in range(count)
    ]


async def analyse(manager: ManagerClient, count: int) -> None:
    """Analyse so many texts at once, and check that each gets the analysis of its own."""
    given = texts(count)

    async def one(text: str) -> TextAnalysed:
        run = await manager.dispatch(TextSubmitted(text=text))
        return await run.result(TextAnalysed)

    analysed = await asyncio.gather(*map(one, given))
    for number, (text, result) in enumerate(zip(given, analysed, strict=True)):
        assert result.statistics["words"] == len(text.split())
        assert result.statistics["sentences"] == 1 + number % 5
        assert f"on day {number}." in result.summary
    assert await manager.wait_idle(timeout=60.0)
