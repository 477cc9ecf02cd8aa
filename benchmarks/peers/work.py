"""What the agents do, the same in all systems: so little that what remains is the way to them.

The pattern: a text goes to an analyser, a summariser and an aggregator; the aggregator waits for
the other two's findings and emits what it made of all three; a sink takes it. So one text is four
events and six deliveries, each of which counts.
"""

from __future__ import annotations

SUBSCRIBERS = 16
"""Who get each event of the fan-out."""

DELIVERIES_PER_TEXT = 6

_SENTENCE = "Agents that need not know each other exchange events number {}. "


def texts(count: int) -> list[str]:
    """Return so many texts of 200 to 300 characters."""
    return [_SENTENCE.format(number) * 4 for number in range(count)]


def analyse(text: str) -> int:
    """Return how many words a text has."""
    return len(text.split())


def summarise(text: str) -> str:
    """Return a text's first sentence."""
    return text.partition(".")[0]


def combine(text: str, words: int, summary: str) -> str:
    """Return what the three are together.

    Raises:
        ValueError: they are not of the same text.
    """
    if not text.startswith(summary) or words != analyse(text):
        raise ValueError("The findings are of another text.")
    return f"{summary} ({words} words)"
